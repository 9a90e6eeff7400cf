#!/bin/sh
# Builds on a builder of docker-build-machine from this machine; needs docker and OpenSSH, no more.
# A kit (python -m client kit) holds this file, as `builder`, beside one folder for each builder.
set -u
umask 077

usage() {
	cat <<'TEXT'
Usage: builder VERB [NAME] [OPTION]

  on         opens the fast way to the builder and lets docker build there
  off        lets docker build where it did before
  env        for tools that read DOCKER_HOST alone: eval "$(builder env)"
  doctor     says what is wrong and what to do; --json for machines; exit code 1 if builds cannot work
  list       the builders that are set up here
  install    sets up the builders of the kit that this file is in; --identity FILE: the private key
  uninstall  takes a builder away again, and with the last one everything that install added

NAME is needed where several builders are set up. All is kept in ~/.builder (or BUILDER_HOME);
~/.ssh/config gets one Include line at its top.
TEXT
}

say() { printf '%s\n' "$*" >&2; }
fail() {
	printf 'error: %s\n' "$*" >&2
	exit 1
}
now() { date +%s; }

home=${BUILDER_HOME:-$HOME/.builder}
# In the gateway: the daemon's own and, for keys that may only build, the guard's.
remote=/run/builder
remote_sockets='docker.sock guard.sock'
mark='# docker-build-machine: builder uninstall takes this line and the next away'
config=$HOME/.ssh/config

# within SECONDS COMMAND...: its exit code, or 124 when it had to be ended. macOS has no timeout(1).
within() {
	limit=$1
	shift
	if command -v timeout >/dev/null 2>&1; then
		deadline=$(($(now) + limit))
		timeout "$limit" "$@" && return
		code=$?
		# BusyBox's passes on the exit code of what it ended.
		[ "$(now)" -lt "$deadline" ] || code=124
		return "$code"
	fi
	# Of itself a shell would take the standard input of what it runs in the background away.
	{ "$@" <&3 3<&- & } 3<&0
	job=$!
	ticks=0
	while kill -0 "$job" 2>/dev/null; do
		if [ "$ticks" -ge $((limit * 5)) ]; then
			kill "$job" 2>/dev/null
			wait "$job" 2>/dev/null
			return 124
		fi
		ticks=$((ticks + 1))
		sleep 0.2
	done
	wait "$job"
}

# What is said about the builder must not depend on what the shell has set for others.
forget_others() { unset DOCKER_HOST DOCKER_CONTEXT DOCKER_TLS DOCKER_TLS_VERIFY DOCKER_CERT_PATH DOCKER_API_VERSION; }

docker_here() { (
	forget_others
	within 60 docker "$@"
); }

names() {
	for each in "$1"/*/ssh_config; do
		[ ! -f "$each" ] || basename "$(dirname "$each")"
	done
}

# choose [NAME]: sets name, folder and sock.
choose() {
	name=${1:-}
	if [ -z "$name" ]; then
		name=$(names "$home")
		case $name in
		'') fail "no builder is set up in $home; next: sh KIT/builder install, with the kit that you were given" ;;
		*'
'*) fail "there are several builders here; next: builder $verb NAME, with one of: $(echo "$name" | tr '\n' ' ')" ;;
		esac
	fi
	folder=$home/$name
	sock=$folder/docker.sock
	[ -f "$folder/ssh_config" ] || fail "there is no builder $name in $home; there is: $(names "$home" | tr '\n' ' ')"
}

# The connection -----------------------------------------------------------------------------------

# The process that holds the shared connection; fails when there is none.
master() {
	# ssh -O check says: Master running (pid=123)
	pid=$(within 5 ssh -O check "$name" 2>&1 | sed -n 's/.*pid=\([0-9]*\).*/\1/p')
	[ -n "$pid" ]
}

# Opens the shared connection unless it is open.
connect() { master || ssh -fNT "$name" </dev/null; }

# answers URL: the version of the daemon there; what docker says when there is none is in the file
# `answer`.
answers() { (
	forget_others
	DOCKER_HOST=$1 within 8 docker version --format '{{.Server.Version}}' 2>"$folder/answer"
); }

# mux COMMAND SOCKET: forwards $sock to that socket of the gateway, or cancels that.
mux() { within 5 ssh -O "$1" -L "$sock:$remote/$2" "$name" >/dev/null 2>&1; }

unforward() {
	for each in $remote_sockets; do mux cancel "$each"; done
	rm -f "$sock"
}

# The local socket leads to the daemon: sets version.
forward() {
	[ -S "$sock" ] && version=$(answers "unix://$sock") && return
	unforward
	for each in $remote_sockets; do
		mux forward "$each" || return
		version=$(answers "unix://$sock") && return
		unforward
	done
	return 1
}

# point URL: where the context and the env file lead.
point() {
	printf 'DOCKER_HOST=%s\nDOCKER_BUILDKIT=1\n' "$1" >"$folder/env.new" && mv "$folder/env.new" "$folder/env"
	how=update
	docker_here context inspect "$name" >/dev/null 2>&1 || how=create
	said=$(docker_here context "$how" "$name" --description docker-build-machine --docker "host=$1" 2>&1) ||
		fail "docker context $how $name failed: $said"
}

# open_way: the fast way if there is one, else plain ssh; sets url.
open_way() {
	command -v docker >/dev/null 2>&1 || fail 'docker is not installed here; next: install the docker CLI with buildx (no daemon is needed)'
	# Whoever watched before ends.
	rm -f "$folder/watched"
	say "$name: connecting"
	connect || fail "$name cannot be reached; the line above says why. Next: builder doctor $name"
	if forward; then
		url=unix://$sock
		point "$url"
		token=$$.$(now)
		printf '%s\n' "$token" >"$folder/watched"
		# It outlives this terminal; nohup(1) is not everywhere.
		(trap '' HUP && BUILDER_HOME=$home exec sh "$home/builder" watch "$name" "$token") </dev/null >/dev/null 2>"$folder/log" &
		say "$name: the socket is forwarded, Docker $version answers"
	else
		url=ssh://$name
		version=$(answers "$url") || fail "$name lets this key in, but docker gets no answer: $(tail -n 1 "$folder/answer" | grep . || echo 'none within 8 seconds'). Next: builder doctor $name"
		point "$url"
		say "$name: Docker $version answers, but its socket is not forwarded (transport tls, or this key may not); plain ssh:// is used, which takes longer"
	fi
}

# Keeps the fast way open: connects again when the connection was lost, and meanwhile leads to plain
# ssh. Ends, leaving nothing behind, once another watches, after `off`, and when nobody has used the
# connection for as long as ControlPersist says.
watch() {
	token=$2
	trap 'rest; exit 0' TERM HUP INT
	idle=$(ssh -GT "$name" | sed -n 's/^controlpersist //p')
	master && since=$(now) || since=0
	wait_seconds=0
	lost=
	while is_watched "$token"; do
		if kill -0 "$pid" 2>/dev/null; then
			sleep 1
			continue
		fi
		if [ -z "$lost" ]; then
			lost=$(now)
			lived=$((lost - since))
			# A connection ended by ControlPersist may have been used in the beginning; the next one
			# shows, for it lives as long as that and no longer if nobody uses it.
			if [ "$lived" -ge "$idle" ] && [ "$lived" -le $((idle + 3)) ]; then
				say "unused for $idle seconds"
				break
			fi
		fi
		# After `off`, which may have come meanwhile, nothing is forwarded any more.
		if reconnect && is_watched "$token" && forward && master; then
			(point "unix://$sock")
			say "connected again after $(($(now) - lost)) s"
			since=$(now) wait_seconds=0 lost=
			continue
		fi
		pid=none
		[ "$wait_seconds" -gt 0 ] || (point "ssh://$name")
		[ $(($(now) - lost)) -lt 3600 ] || break
		[ "$wait_seconds" -ge 10 ] || wait_seconds=$((wait_seconds + 1))
		again=$(($(now) + wait_seconds))
		while [ "$(now)" -lt "$again" ] && is_watched "$token"; do sleep 1; done
	done 2>>"$folder/log"
	! is_watched "$token" || rest
}

# Opens the shared connection, unless watching ends meanwhile: a host that is gone may keep ssh busy.
reconnect() {
	! master || return 0
	ssh -o BatchMode=yes -fNT "$name" </dev/null &
	attempt=$!
	while kill -0 "$attempt" 2>/dev/null; do
		is_watched "$token" || kill "$attempt"
		sleep 1
	done
	wait "$attempt"
}

# is_watched TOKEN: whether the one with this token still is who watches.
is_watched() {
	watched=
	[ -f "$folder/watched" ] && read -r watched <"$folder/watched"
	[ "$watched" = "$1" ]
}

# No forwarded socket, plain ssh.
rest() {
	rm -f "$folder/watched"
	unforward
	point "ssh://$name"
}

current_context() { docker_here context ls --format '{{if .Current}}{{.Name}}{{end}}' | grep .; }

on() {
	open_way
	before=$(current_context)
	if [ "$before" != "$name" ]; then
		printf '%s\n' "$before" >"$folder/before"
		docker_here context use "$name" >/dev/null 2>&1 || exit 1
	fi
	look_at_buildkit
	# The builder of a context is its daemon; one that was chosen by hand would be used instead.
	if [ -n "$buildx" ]; then
		said=$(docker_here buildx use "$name" 2>&1) || say "but buildx keeps to the builder that it had: $said"
	fi
	[ "$buildkit" = ok ] || say "but $buildkit_found; next: $buildkit_next"
	if [ -n "${DOCKER_HOST:-}${DOCKER_CONTEXT:-}" ]; then
		say "but DOCKER_HOST=${DOCKER_HOST:-} DOCKER_CONTEXT=${DOCKER_CONTEXT:-} in this shell hide that; next: unset DOCKER_HOST DOCKER_CONTEXT"
	fi
	say "docker build builds there from here on, in every shell; builder off ends it"
}

off() {
	rest
	if [ "$(current_context)" = "$name" ]; then
		before=default
		[ ! -f "$folder/before" ] || read -r before <"$folder/before"
		docker_here context use "$before" >/dev/null 2>&1 || docker_here context use default >/dev/null
		say "docker uses the context $(current_context) again"
	fi
	rm -f "$folder/before"
}

print_env() {
	open_way
	printf 'export DOCKER_HOST=%s DOCKER_BUILDKIT=1\n' "$(quoted "$url")"
}

quoted() { printf "'%s'" "$(printf '%s' "$1" | sed "s/'/'\\\\''/g")"; }

list() {
	for name in $(names "$home"); do
		folder=$home/$name
		if [ -f "$folder/watched" ] && master; then how='socket forwarded'; else how='plain ssh'; fi
		printf '%s\t%s\n' "$name" "$how"
	done
}

# Set-up -------------------------------------------------------------------------------------------

# fingerprint FILE: of a public key or of a private key that tells it without its passphrase.
fingerprint() { ssh-keygen -lf "$1" 2>/dev/null | awk 'NR == 1 { print $2 }'; }

# The private key that belongs to key.pub, if it lies where ssh keys lie; else key.pub itself, with
# which ssh takes the key from the agent.
identity() {
	if [ -f "$folder/key.pub" ]; then
		wanted=$(fingerprint "$folder/key.pub")
		for file in "$HOME"/.ssh/*; do
			{ head -n 1 "$file" | grep -q 'PRIVATE KEY'; } 2>/dev/null || continue
			if [ -f "$file.pub" ]; then found=$(fingerprint "$file.pub"); else found=$(fingerprint "$file"); fi
			if [ "$found" = "$wanted" ]; then
				printf '%s\n' "$file"
				return
			fi
		done
		printf '%s\n' "$folder/key.pub"
	fi
}

install_one() {
	folder=$home/$name
	sock=$folder/docker.sock
	# ssh adds 17 characters to the name of a new master's socket; macOS allows 103 in all.
	[ "${#folder}" -le 83 ] || fail "$folder is too long a path for sockets (83 characters at most); next: BUILDER_HOME=/a/shorter/folder sh $0 install"
	if [ -n "$private" ] && [ -f "$kit/$name/key.pub" ] && [ "$(fingerprint "$private")" != "$(fingerprint "$kit/$name/key.pub")" ]; then
		fail "--identity $private is another key than the builder knows, $(fingerprint "$kit/$name/key.pub"); next: name that key, or ask for a kit for yours"
	fi
	mkdir -p "$folder"
	for file in known_hosts key.pub; do
		[ ! -f "$kit/$name/$file" ] || cp "$kit/$name/$file" "$folder/$file"
	done
	key=$private
	[ -n "$key" ] || key=$(identity)
	{
		cat "$kit/$name/ssh_config"
		printf '  UserKnownHostsFile "%s"\n  ControlPath "%s"\n' "$folder/known_hosts" "$folder/m"
		[ -z "$key" ] || printf '  IdentityFile "%s"\n  IdentitiesOnly yes\n' "$key"
	} >"$folder/ssh_config.new"
	if [ -f "$folder/ssh_config" ] && ! cmp -s "$folder/ssh_config" "$folder/ssh_config.new"; then
		within 5 ssh -F "$folder/ssh_config" -O exit "$name" 2>/dev/null
	fi
	mv "$folder/ssh_config.new" "$folder/ssh_config"
	if [ "$key" = "$folder/key.pub" ] && ! ssh-add -l 2>/dev/null | grep -qF "$(fingerprint "$key")"; then
		say "$name: the private key of $(fingerprint "$key") is neither in ~/.ssh nor in the agent; next: put it there, or sh $0 install --identity FILE"
	fi
	[ -f "$folder/env" ] || ! command -v docker >/dev/null 2>&1 || point "ssh://$name"
}

# rewrite FILE: with standard input, in place, so that links, owner and mode stay.
rewrite() { cat >"$home/rewrite" && cat "$home/rewrite" >"$1" && rm "$home/rewrite"; }

include() {
	case $home in "$HOME"/.builder) line='Include ~/.builder/*/ssh_config' ;; *) line="Include \"$home/*/ssh_config\"" ;; esac
	if [ ! -d "$HOME/.ssh" ]; then
		mkdir "$HOME/.ssh"
		echo >"$home/made-ssh"
	fi
	if [ ! -e "$config" ]; then
		: >"$config" && echo >"$home/made-config"
	elif grep -qxF "$mark" "$config"; then
		return
	fi
	[ -w "$config" ] || fail "$config cannot be written; next: put this line at its top yourself, then everything works: $line"
	{
		printf '%s\n%s\n' "$mark" "$line"
		cat "$config"
	} | rewrite "$config"
}

exclude() {
	[ -f "$config" ] || return
	at=$(grep -nxF "$mark" "$config" | head -n 1 | cut -d : -f 1)
	if [ -n "$at" ]; then
		after=$((at + 1))
		! sed -n "${after}p" "$config" | grep -q '^Include ' || after=$((at + 2))
		{
			[ "$at" -eq 1 ] || head -n $((at - 1)) "$config"
			tail -n "+$after" "$config"
		} | rewrite "$config"
	fi
	if [ -f "$home/made-config" ] && [ ! -s "$config" ]; then rm "$config"; fi
	if [ -f "$home/made-ssh" ]; then rmdir "$HOME/.ssh" 2>/dev/null; fi
}

install_kit() {
	kit=$(cd "$(dirname "$0")" && pwd)
	private=
	while [ $# -gt 0 ]; do
		case $1 in
		--identity)
			[ -f "${2:-}" ] || fail "--identity ${2:-}: there is no such file"
			private=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
			shift 2
			;;
		*) fail "install knows no $1; next: builder help" ;;
		esac
	done
	[ "$kit" != "$home" ] || fail "this is what was installed; next: run the builder file of a kit"
	[ -n "$(names "$kit")" ] || fail "there is no builder's folder beside $0; next: run the builder file inside its kit"
	command -v ssh >/dev/null 2>&1 || fail 'ssh is not installed here; next: install OpenSSH (openssh-client)'
	mkdir -p "$home"
	cp "$0" "$home/builder.new" && chmod 0755 "$home/builder.new" && mv "$home/builder.new" "$home/builder" || exit 1
	for name in $(names "$kit"); do install_one; done
	include
	builder=$home/builder
	[ "$home" = "$HOME/.builder" ] || builder="BUILDER_HOME=$(quoted "$home") $builder"
	case :$PATH: in
	*":$HOME/.local/bin:"*)
		command=$HOME/.local/bin/builder
		if [ ! -e "$command" ] || grep -qF "$home/builder" "$command"; then
			mkdir -p "$HOME/.local/bin"
			printf '#!/bin/sh\nBUILDER_HOME=%s exec sh %s "$@"\n' "$(quoted "$home")" "$(quoted "$home/builder")" >"$command"
			chmod 0755 "$command"
			builder=builder
		fi
		;;
	esac
	say "set up: $(names "$kit" | tr '\n' ' ')"
	say "next: $builder on"
}

uninstall() {
	for name in $1; do
		choose "$name"
		if command -v docker >/dev/null 2>&1; then
			off
			docker_here context rm "$name" >/dev/null
		fi
		rm -f "$folder/watched"
		within 5 ssh -F "$folder/ssh_config" -O exit "$name" 2>/dev/null
		rm -rf "$folder"
		say "$name: taken away"
	done
	[ -z "$(names "$home")" ] || return 0
	exclude
	command=$HOME/.local/bin/builder
	if [ -f "$command" ] && grep -qF "$home/builder" "$command"; then rm "$command"; fi
	rm -rf "$home"
}

# The doctor ---------------------------------------------------------------------------------------

# found STATUS CHECK WHAT [NEXT]: one finding; STATUS is ok, warning, error or skipped.
found() {
	[ "$1" != error ] || sick=1
	if [ -z "$json" ]; then
		printf '%-8s %-10s %s\n' "$1" "$2" "$3"
		[ -z "${4:-}" ] || printf '%-19s next: %s\n' '' "$4"
		return
	fi
	findings="${findings:+$findings, }{\"status\": \"$1\", \"check\": \"$2\", \"found\": $(as_json "$3"), \"next\": $(as_json "${4:-}")}"
}

as_json() { printf '"%s"' "$(printf '%s' "$1" | tr '\n\t' '  ' | tr -d '\001-\037' | sed 's/\\/\\\\/g; s/"/\\"/g')"; }

# at_least VERSION MAJOR MINOR
at_least() {
	major=${1%%[!0-9]*}
	minor=${1#*.}
	minor=${minor%%[!0-9]*}
	[ "${major:-0}" -gt "$2" ] || { [ "${major:-0}" -eq "$2" ] && [ "${minor:-0}" -ge "$3" ]; }
}

check_docker() {
	has_docker=
	if ! command -v docker >/dev/null 2>&1; then
		found error docker 'docker is not installed here' 'install the docker CLI with buildx; no daemon is needed'
		return
	fi
	has_docker=1
	look_at_buildkit
	if at_least "$client" 19 3; then
		found ok docker "docker CLI $client"
	else
		found error docker "the docker CLI is $client; contexts came with 19.03" 'install a newer docker CLI'
	fi
	found "$buildkit" buildkit "$buildkit_found" "$buildkit_next"
}

# Whether docker build uses BuildKit: sets client, buildx, buildkit (ok, warning, error),
# buildkit_found and buildkit_next.
look_at_buildkit() {
	client=$(docker --version | sed 's/^Docker version \([^ ,]*\).*/\1/')
	buildx=$(docker_here buildx version 2>/dev/null | awk '{ print $2 }')
	buildkit=error buildkit_next=
	if [ "${DOCKER_BUILDKIT:-}" = 0 ]; then
		buildkit_found='DOCKER_BUILDKIT=0 turns BuildKit off in this shell: no cache mounts, no parallel steps'
		buildkit_next='unset DOCKER_BUILDKIT'
	elif [ -n "$buildx" ]; then
		buildkit=ok buildkit_found="buildx $buildx"
	elif at_least "$client" 23 0; then
		buildkit_found="docker CLI $client cannot use BuildKit without buildx, which is missing"
		buildkit_next='install docker-buildx-plugin (Docker) or docker-buildx (Debian, Alpine, Homebrew)'
	elif [ "${DOCKER_BUILDKIT:-}" != 1 ]; then
		buildkit=warning buildkit_found="docker CLI $client uses BuildKit only when told"
		buildkit_next='export DOCKER_BUILDKIT=1, or install buildx'
	else
		buildkit=ok buildkit_found="built into docker CLI $client"
	fi
}

# option NAME: its first value in the answer of ssh -G on standard input.
option() { sed -n "s/^$1 //p" | head -n 1; }

check_ssh() {
	has_ssh=
	if ! command -v ssh >/dev/null 2>&1; then
		found error ssh 'ssh is not installed here' 'install OpenSSH (openssh-client)'
		return
	fi
	version=$(ssh -V 2>&1)
	number=${version#OpenSSH_}
	number=${number#for_Windows_}
	if at_least "$number" 7 3; then
		found ok ssh "${version%%,*}"
	else
		found error ssh "$version; the Include in ~/.ssh/config needs OpenSSH 7.3" 'install a newer OpenSSH'
		return
	fi
	if ! actual=$(ssh -GT "$name" 2>&1); then
		found error config "ssh refuses its configuration: $(printf '%s\n' "$actual" | tail -n 1)" 'mend the file and line that it names (chmod 600 for permissions)'
		return
	fi
	has_ssh=1
	intended=$(ssh -GT -F "$folder/ssh_config" "$name")
	clashes=
	for each in hostname port user identityfile userknownhostsfile stricthostkeychecking controlpath remotecommand; do
		is=$(printf '%s\n' "$actual" | option "$each")
		should=$(printf '%s\n' "$intended" | option "$each")
		[ "$is" = "$should" ] || clashes="$clashes${clashes:+; }$each is '$is' and should be '$should'"
	done
	if [ -z "$clashes" ]; then
		found ok config "$config leads to $(printf '%s\n' "$actual" | option hostname)"
	elif ! grep -qxF "$mark" "$config" 2>/dev/null; then
		found error config "$config does not include the builders: $clashes" 'sh KIT/builder install, which puts the line back'
	else
		found error config "something in $config comes before the builders: $clashes" "move the two lines about docker-build-machine to its top, or take these options out of the other block"
	fi
	check_key
}

in_agent() { within 5 ssh-add -l 2>/dev/null | grep -qF "$1"; }

check_key() {
	if [ -n "${SSH_AUTH_SOCK:-}" ]; then
		within 5 ssh-add -l >/dev/null 2>&1
		[ $? -ne 2 ] || found warning agent "SSH_AUTH_SOCK=$SSH_AUTH_SOCK leads to no agent" "start one (eval \"\$(ssh-agent)\"; ssh-add), or unset SSH_AUTH_SOCK"
	fi
	key=$(printf '%s\n' "$intended" | option identityfile)
	# With a certificate, install has not named a file.
	[ -f "$folder/key.pub" ] || {
		found skipped key 'the builder lets certificates in; which one ssh uses is for ~/.ssh/config to say'
		return
	}
	print=$(fingerprint "$folder/key.pub")
	if [ "$key" = "$folder/key.pub" ] || [ ! -f "$key" ]; then
		if in_agent "$print"; then
			found ok key "$print is in the agent"
		else
			found error key "the private key of $print is neither in ~/.ssh nor in the agent" 'put it there (or ssh-add it), then sh KIT/builder install [--identity FILE]'
		fi
	elif [ -n "$(find -L "$key" -prune \( -perm -040 -o -perm -020 -o -perm -010 -o -perm -004 -o -perm -002 -o -perm -001 \))" ]; then
		found error key "$key can be read by others, so ssh does not use it" "chmod 600 $key"
	elif [ "$(fingerprint "$key")" != "$print" ]; then
		found error key "$key is another key than the builder knows ($print)" 'sh KIT/builder install [--identity FILE], or ask for a kit for this key'
	elif in_agent "$print"; then
		found ok key "$key, in the agent"
	elif ssh-keygen -y -P '' -f "$key" >/dev/null 2>&1; then
		found ok key "$key"
	else
		found error key "$key has a passphrase and is not in the agent: docker cannot ask for it" "ssh-add $key"
	fi
}

check_context() {
	[ -n "$has_docker" ] || return
	where=$(docker_here context inspect "$name" --format '{{.Endpoints.docker.Host}}' 2>/dev/null)
	chosen=$(current_context)
	if [ -z "$where" ]; then
		found error context "there is no Docker context $name" 'builder on'
	elif [ -n "${DOCKER_HOST:-}" ]; then
		case $DOCKER_HOST in
		"unix://$sock" | "ssh://$name")
			if [ -z "${DOCKER_TLS_VERIFY:-}" ]; then
				found ok context "DOCKER_HOST=$DOCKER_HOST"
			else
				found error context "DOCKER_TLS_VERIFY=$DOCKER_TLS_VERIFY in this shell, left from another daemon, makes docker look for certificates" 'unset DOCKER_TLS_VERIFY DOCKER_CERT_PATH'
			fi
			;;
		*) found error context "DOCKER_HOST=$DOCKER_HOST of this shell hides every Docker context, also $chosen" "unset DOCKER_HOST, or eval \"\$(builder env)\"" ;;
		esac
	elif [ -n "${DOCKER_CONTEXT:-}" ] && [ "$DOCKER_CONTEXT" != "$name" ]; then
		found error context "DOCKER_CONTEXT=$DOCKER_CONTEXT of this shell hides the context $chosen" 'unset DOCKER_CONTEXT'
	elif [ "${DOCKER_CONTEXT:-$chosen}" != "$name" ]; then
		found warning context "docker builds on the context $chosen" 'builder on'
	else
		found ok context "docker builds on the context $name"
	fi
	case ${DOCKER_HOST:-$where} in
	'') return ;;
	unix://*)
		if answers "${DOCKER_HOST:-$where}" >/dev/null; then
			found ok way "${DOCKER_HOST:-$where} is forwarded"
		else
			found error way "nobody is behind ${DOCKER_HOST:-$where}, as after a reboot" "builder on"
		fi
		;;
	*) found warning way "${DOCKER_HOST:-$where} is plain ssh, which takes longer than the forwarded socket" 'builder on' ;;
	esac
	[ -n "$buildx" ] || return
	used=$( (
		unset DOCKER_HOST
		within 8 docker --context "$name" buildx inspect 2>/dev/null
	) | awk -F ': *' '$1 == "Name" && !name { name = $2 } $1 == "Driver" { driver = $2 } END { print driver, name }')
	case $used in
	'docker '*) found ok builder 'buildx builds in the daemon itself, with its cache' ;;
	' '*) found skipped builder 'buildx does not tell which builder it uses' ;;
	*) found error builder "buildx builds in ${used#* } (driver ${used%% *}), which has a cache of its own, cold at first" "docker buildx use $name${BUILDX_BUILDER:+, and unset BUILDX_BUILDER (it is $BUILDX_BUILDER)}" ;;
	esac
}

check_server() {
	[ -n "$has_ssh" ] || return
	answer=$(printf 'GET /_ping HTTP/1.0\r\n\r\n' | within 15 ssh -S none -o BatchMode=yes -o ConnectTimeout=8 -o LogLevel=ERROR "$name" docker system dial-stdio 2>"$folder/doctor")
	code=$?
	problem=$(cat "$folder/doctor")
	rm -f "$folder/doctor"
	host=$(printf '%s\n' "$actual" | option hostname):$(printf '%s\n' "$actual" | option port)
	last=$(printf '%s\n' "$problem" | grep . | tail -n 1)
	case $problem in
	*'Could not resolve'*)
		found error reachable "the name of $host is not known here" 'check DNS, and whether a VPN is needed'
		return
		;;
	*'Connection refused'*)
		found error reachable "$host is there, but no gateway listens" 'ask who runs the builder to look at its gateway'
		return
		;;
	*'timed out'* | *'No route'* | *'unreachable'*)
		found error reachable "$host does not answer" 'check the network, a VPN, and that a firewall lets the port through'
		return
		;;
	*'IDENTIFICATION HAS CHANGED'* | *'Host key verification failed'* | *'host key is known'*)
		found ok reachable "$host"
		found error hostkey "$host shows another host key than the pinned one" 'ask who runs the builder: after a rotation, install a new kit; otherwise somebody is in between, and ssh is right to refuse'
		return
		;;
	*'Permission denied'*)
		found ok reachable "$host"
		found ok hostkey 'as pinned'
		found error access 'the builder does not let this key in' "ask who runs it whether $(fingerprint "$folder/key.pub" | grep . || echo 'your certificate') is among its keys, in time, and from this address"
		return
		;;
	esac
	if [ "$code" -eq 255 ]; then
		found error reachable "ssh to $host failed: $last" "ssh -v $name tells more"
		return
	fi
	found ok reachable "$host"
	found ok hostkey 'as pinned'
	found ok access 'the key is let in'
	case $answer in
	*' 200 OK'*) ;;
	*)
		found error daemon "the daemon does not answer: ${last:-no answer within 15 s}" 'wait if it is being changed; else ask who runs the builder to look at the log of its daemon'
		return
		;;
	esac
	found ok daemon "answers, $(printf '%s' "$answer" | tr -d '\r' | sed -n 's/^Server: //p')"
	[ -z "$has_docker" ] || check_daemon
}

# at_builder COMMAND...: docker there, whatever this shell has set for others.
at_builder() { (
	unset DOCKER_CONTEXT DOCKER_TLS DOCKER_TLS_VERIFY DOCKER_CERT_PATH
	export DOCKER_HOST="ssh://$name"
	[ ! -S "$sock" ] || ! answers "unix://$sock" >/dev/null || DOCKER_HOST=unix://$sock
	within 30 docker "$@"
); }

check_daemon() {
	if said=$(at_builder version --format 'client API {{.Client.APIVersion}}, daemon {{.Server.MinAPIVersion}} to {{.Server.APIVersion}}' 2>&1); then
		found ok versions "$said"
	else
		found error versions "$(printf '%s\n' "$said" | tail -n 1)" "${DOCKER_API_VERSION:+unset DOCKER_API_VERSION, or }install a docker CLI that is nearer to the daemon's release"
		return
	fi
	cache=$(at_builder system df --format '{{.Type}}	{{.TotalCount}}	{{.Size}}' 2>/dev/null | awk -F '\t' '$1 == "Build Cache" { print $2, $3 }')
	case $cache in
	'') found skipped cache 'the daemon does not tell how large its cache is' ;;
	'0 '*) found warning cache 'the cache is empty: the next build runs every step' ;;
	*) found ok cache "${cache#* } in ${cache%% *} entries" ;;
	esac
	check_limits
	# The API tells no free space; a container's root folder lies on the daemon's disk.
	disk=
	for image in $(at_builder image ls --quiet --filter dangling=false 2>/dev/null | awk '!seen[$0]++' | head -n 4); do
		disk=$(at_builder run --rm --network none --entrypoint df "$image" -Pk / 2>"$folder/doctor" | awk 'NR == 2 { printf "%.1f GB of %.1f GB free %d", $4 * 1024 / 1e9, $2 * 1024 / 1e9, $4 * 100 / $2 }')
		! grep -q 'no space left' "$folder/doctor" || disk='nothing free 0'
		! grep -q 'a key of role build' "$folder/doctor" || disk='role build'
		[ -z "$disk" ] || break
	done
	rm -f "$folder/doctor"
	percent=${disk##* }
	if [ "$disk" = 'role build' ]; then
		found skipped disk 'a key of role build may not look at the free space; who runs the builder sees it with: python -m client status'
	elif [ -z "$disk" ]; then
		found skipped disk 'no image there has df to tell the free space; who runs the builder sees it with: python -m client status'
	elif [ "$percent" -ge 10 ]; then
		found ok disk "${disk% *}"
	elif [ "$percent" -ge 3 ]; then
		found warning disk "${disk% *}; the builder makes room, so cache goes" 'ask who runs it for a larger disk or a smaller cacheSize'
	else
		found error disk "the disk is full: ${disk% *}" 'docker image prune -a at the builder, or ask who runs it'
	fi
}

# Without control groups of its own a daemon takes the limits of a container and ignores them.
check_limits() {
	driver=$(at_builder info --format '{{.CgroupDriver}} {{.CgroupVersion}}' 2>&1) || {
		found skipped limits "the daemon does not tell whether limits of containers work: $(printf '%s\n' "$driver" | tail -n 1)"
		return
	}
	case $driver in
	'none '*)
		why='the host has control groups of version 1'
		[ "$driver" = 'none 1' ] || why='its daemon has no control groups of its own'
		found warning limits "limits of single containers (docker run --memory, --cpus, --pids-limit; compose's mem_limit) do nothing there: $why" 'limit the whole builder instead (settings memory, cpus, processes), or ask who runs it; docs/running.md tells what limits of containers need'
		;;
	*) found ok limits 'containers keep to theirs' ;;
	esac
}

doctor() {
	json='' findings='' sick=''
	case ${1:-} in
	--json) json=1 ;;
	'') ;;
	*) fail "doctor knows no $1; next: builder help" ;;
	esac
	buildx=
	check_docker
	check_ssh
	check_context
	check_server
	if [ -n "$json" ]; then
		if [ -n "$sick" ]; then healthy=false; else healthy=true; fi
		printf '{"builder": %s, "healthy": %s, "findings": [%s]}\n' "$(as_json "$name")" "$healthy" "$findings"
	elif [ -z "$sick" ]; then
		echo "$name: builds can work"
	else
		echo "$name: see the errors above"
	fi
	[ -z "$sick" ]
}

verb=${1:-help}
[ $# -eq 0 ] || shift
case $verb in
on | off | env | doctor | watch)
	wanted=
	case ${1:-} in --help) usage; exit ;; -* | '') ;; *) wanted=$1 ;; esac
	[ "$verb" = watch ] || [ $# -le 2 ] || fail "too many words; next: builder help"
	choose "$wanted"
	;;
esac
case $verb in
on) on ;;
off) off ;;
env) print_env ;;
watch) watch "$@" ;;
doctor)
	[ -z "$wanted" ] || shift
	doctor "$@"
	;;
list) list ;;
install)
	[ "${1:-}" != --help ] || { usage; exit; }
	install_kit "$@"
	;;
uninstall)
	[ "${1:-}" != --help ] || { usage; exit; }
	uninstall "${1:-$(names "$home")}"
	;;
help | --help | -h) usage ;;
*)
	usage >&2
	exit 2
	;;
esac
