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
remote_socket=/run/builder/docker.sock
mark='# docker-build-machine: builder uninstall takes this line and the next away'
config=$HOME/.ssh/config

# within SECONDS COMMAND...: its exit code, or 124 when it had to be ended. macOS has no timeout(1).
within() {
	limit=$1
	shift
	if command -v timeout >/dev/null 2>&1; then
		timeout "$limit" "$@"
		return
	fi
	"$@" &
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
docker_here() { (
	unset DOCKER_HOST DOCKER_CONTEXT
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

# connect [OPTION...]: opens the shared connection unless it is open.
connect() { master || ssh "$@" -fNT "$name" </dev/null; }

# answers URL: the version of the daemon there.
answers() { (
	unset DOCKER_CONTEXT
	DOCKER_HOST=$1 within 15 docker version --format '{{.Server.Version}}' 2>/dev/null
); }

# The local socket leads to the daemon: sets version.
forward() {
	[ -S "$sock" ] && version=$(answers "unix://$sock") && return
	within 5 ssh -O cancel -L "$sock:$remote_socket" "$name" >/dev/null 2>&1
	rm -f "$sock"
	within 5 ssh -O forward -L "$sock:$remote_socket" "$name" >/dev/null 2>&1 || return
	version=$(answers "unix://$sock") && return
	within 5 ssh -O cancel -L "$sock:$remote_socket" "$name" >/dev/null 2>&1
	rm -f "$sock"
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
		BUILDER_HOME=$home nohup sh "$home/builder" watch "$name" "$token" </dev/null >/dev/null 2>"$folder/log" &
		say "$name: the socket is forwarded, Docker $version answers"
	else
		url=ssh://$name
		version=$(answers "$url") || fail "$name lets this key in, but its daemon does not answer. Next: builder doctor $name"
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
	idle=$(ssh -G "$name" | sed -n 's/^controlpersist //p')
	master && since=$(now) || since=0
	wait_seconds=0
	lost=
	while watched=; read -r watched <"$folder/watched"; [ "$watched" = "$token" ]; do
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
		if connect -o BatchMode=yes && forward && master; then
			point "unix://$sock"
			say "connected again after $(($(now) - lost)) s"
			since=$(now) wait_seconds=0 lost=
			continue
		fi
		pid=none
		[ "$wait_seconds" -gt 0 ] || point "ssh://$name"
		[ $(($(now) - lost)) -lt 3600 ] || break
		[ "$wait_seconds" -ge 10 ] || wait_seconds=$((wait_seconds + 1))
		sleep "$wait_seconds"
	done 2>>"$folder/log"
	[ "$watched" != "$token" ] || rest
}

# No forwarded socket, plain ssh.
rest() {
	rm -f "$folder/watched"
	within 5 ssh -O cancel -L "$sock:$remote_socket" "$name" >/dev/null 2>&1
	rm -f "$sock"
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
	# The builder of a context is its daemon; one that was chosen by hand would be used instead.
	! docker_here buildx version >/dev/null 2>&1 || docker_here buildx use "$name" 2>/dev/null
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
		{
			[ "$at" -eq 1 ] || head -n $((at - 1)) "$config"
			tail -n "+$((at + 2))" "$config"
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
