# shellcheck shell=sh
# The verb doctor: checks this machine, the way to the builder and its daemon, and reports what it finds.
# Sourced by builder.
# shellcheck disable=SC2154  # builder and connection.sh set home, name, sock, docker_version and others

# doctor [--json]: runs all checks; fails if builds cannot work.
doctor() {
	json=
	case $1 in
	--json) json=1 ;;
	'') ;;
	*) fail "doctor does not know $1; next: builder help" ;;
	esac
	findings=
	healthy=true
	check_docker
	check_ssh
	check_context
	check_server
	if [ -n "$json" ]; then
		printf '{"builder": %s, "healthy": %s, "findings": [%s]}\n' "$(as_json "$name")" "$healthy" "$findings"
	elif [ "$healthy" = true ]; then
		echo "$name: builds can work"
	else
		echo "$name: see the errors above"
	fi
	[ "$healthy" = true ]
}

# report STATUS CHECK FOUND [NEXT]: one finding; STATUS is ok, warning, error or skipped.
report() {
	[ "$1" != error ] || healthy=false
	if [ -z "$json" ]; then
		printf '%-8s %-10s %s\n' "$1" "$2" "$3"
		[ -z "${4:-}" ] || printf '%-19s next: %s\n' '' "$4"
		return
	fi
	findings="${findings:+$findings, }{\"status\": \"$1\", \"check\": \"$2\", \"found\": $(as_json "$3"), \"next\": $(as_json "${4:-}")}"
}

# as_json TEXT: as a JSON string.
as_json() { printf '"%s"' "$(printf '%s' "$1" | tr '\n\t' '  ' | tr -d '\001-\037' | sed 's/\\/\\\\/g; s/"/\\"/g')"; }

# This machine -------------------------------------------------------------------------------------

# Sets what look_at_buildkit sets.
check_docker() {
	buildx_version=
	if ! has docker; then
		report error docker 'docker is not installed here' 'install the docker CLI with buildx; no daemon is needed'
		return
	fi
	look_at_buildkit
	if at_least "$docker_version" 19 3; then
		report ok docker "docker CLI $docker_version"
	else
		report error docker "the docker CLI is $docker_version; contexts need 19.03" 'install a newer docker CLI'
	fi
	report "$buildkit" buildkit "$buildkit_found" "$buildkit_next"
}

# Sets ssh_works, and ssh's effective options: actual, and intended, as the builder's own file has them.
check_ssh() {
	ssh_works=
	if ! has ssh; then
		report error ssh 'ssh is not installed here' 'install OpenSSH (openssh-client)'
		return
	fi
	ssh_version=$(ssh -V 2>&1)
	number=${ssh_version#OpenSSH_}
	number=${number#for_Windows_}
	if ! at_least "$number" 7 3; then
		report error ssh "$ssh_version; the Include in ~/.ssh/config needs OpenSSH 7.3" 'install a newer OpenSSH'
		return
	fi
	report ok ssh "${ssh_version%%,*}"
	if ! actual=$(ssh -GT "$name" 2>&1); then
		report error config "ssh refuses its configuration: $(printf '%s\n' "$actual" | tail -n 1)" 'correct the file and line that it names (chmod 600 for permissions)'
		return
	fi
	ssh_works=1
	intended=$(ssh -GT -F "$folder/ssh_config" "$name")
	check_config
	check_agent
	check_key
}

# option NAME OPTIONS: the first value of the option in what ssh -G prints.
option() { printf '%s\n' "$2" | sed -n "s/^$1 //p" | head -n 1; }

check_config() {
	clashes=
	for each in hostname port user identityfile userknownhostsfile stricthostkeychecking controlpath remotecommand; do
		is=$(option "$each" "$actual")
		should_be=$(option "$each" "$intended")
		[ "$is" = "$should_be" ] || clashes="$clashes${clashes:+; }$each is '$is' and should be '$should_be'"
	done
	if [ -z "$clashes" ]; then
		report ok config "$config leads to $(option hostname "$actual")"
	elif grep -qxF "$mark" "$config" 2>/dev/null; then
		report error config "something in $config comes before the builders: $clashes" "move the two lines about docker-build-machine to its top, or take these options out of the other block"
	else
		report error config "$config does not include the builders: $clashes" 'sh KIT/builder install, which puts the line back'
	fi
}

check_agent() {
	[ -n "${SSH_AUTH_SOCK:-}" ] || return
	within 5 ssh-add -l >/dev/null 2>&1
	# 1 is an agent without keys.
	[ $? -ne 2 ] || report warning agent "there is no agent at SSH_AUTH_SOCK=$SSH_AUTH_SOCK" "start one (eval \"\$(ssh-agent)\"; ssh-add), or unset SSH_AUTH_SOCK"
}

check_key() {
	if [ ! -f "$folder/key.pub" ]; then
		report skipped key 'the builder accepts certificates; which one ssh uses is set in ~/.ssh/config'
		return
	fi
	key=$(option identityfile "$intended")
	expected=$(fingerprint "$folder/key.pub")
	if [ "$key" = "$folder/key.pub" ] || [ ! -f "$key" ]; then
		if in_agent "$expected"; then
			report ok key "$expected is in the agent"
		else
			report error key "the private key of $expected is neither in ~/.ssh nor in the agent" 'put it there (or ssh-add it), then sh KIT/builder install [--identity FILE]'
		fi
	elif others_may_use "$key"; then
		report error key "$key can be read by others, so ssh does not use it" "chmod 600 $key"
	elif [ "$(fingerprint "$key")" != "$expected" ]; then
		report error key "$key is another key than the builder knows ($expected)" 'sh KIT/builder install [--identity FILE], or ask for a kit for this key'
	elif in_agent "$expected"; then
		report ok key "$key, in the agent"
	elif ssh-keygen -y -P '' -f "$key" >/dev/null 2>&1; then
		report ok key "$key"
	else
		report error key "$key has a passphrase and is not in the agent: docker cannot ask for it" "ssh-add $key"
	fi
}

# others_may_use FILE: whether its mode lets group or others do anything.
others_may_use() {
	[ -n "$(find -L "$1" -prune \( -perm -040 -o -perm -020 -o -perm -010 -o -perm -004 -o -perm -002 -o -perm -001 \))" ]
}

# Where docker builds ------------------------------------------------------------------------------

check_context() {
	has docker || return
	context_url=$(docker_here context inspect "$name" --format '{{.Endpoints.docker.Host}}' 2>/dev/null)
	used_context=$(current_context)
	if [ -z "$context_url" ]; then
		report error context "there is no Docker context $name" 'builder on'
	elif [ -n "${DOCKER_HOST:-}" ]; then
		check_docker_host
	elif [ -n "${DOCKER_CONTEXT:-}" ] && [ "$DOCKER_CONTEXT" != "$name" ]; then
		report error context "DOCKER_CONTEXT=$DOCKER_CONTEXT in this shell overrides the context $used_context" 'unset DOCKER_CONTEXT'
	elif [ "${DOCKER_CONTEXT:-$used_context}" != "$name" ]; then
		report warning context "docker builds on the context $used_context" 'builder on'
	else
		report ok context "docker builds on the context $name"
	fi
	url=${DOCKER_HOST:-$context_url}
	[ -n "$url" ] || return
	check_way "$url"
	[ -z "$buildx_version" ] || check_buildx
}

# Checks a DOCKER_HOST of the shell.
check_docker_host() {
	if [ "$DOCKER_HOST" != "unix://$sock" ] && [ "$DOCKER_HOST" != "ssh://$name" ]; then
		report error context "DOCKER_HOST=$DOCKER_HOST in this shell overrides every Docker context, also $used_context" "unset DOCKER_HOST, or eval \"\$(builder env)\""
	elif [ -n "${DOCKER_TLS_VERIFY:-}" ]; then
		report error context "DOCKER_TLS_VERIFY=$DOCKER_TLS_VERIFY in this shell, left from another daemon, makes docker look for certificates" 'unset DOCKER_TLS_VERIFY DOCKER_CERT_PATH'
	else
		report ok context "DOCKER_HOST=$DOCKER_HOST"
	fi
}

# check_way URL: whether docker goes by the forwarded socket, and whether that works.
check_way() {
	case $1 in
	unix://*)
		if daemon_version "$1" >/dev/null; then
			report ok way "$1 is forwarded"
		else
			report error way "nothing answers at $1, as after a reboot" 'builder on'
		fi
		;;
	*) report warning way "$1 is plain ssh, which is slower than the forwarded socket" 'builder on' ;;
	esac
}

# Whether buildx builds in the daemon or in a builder of its own.
check_buildx() {
	driver_and_name=$( (
		unset DOCKER_HOST
		within 8 docker --context "$name" buildx inspect 2>/dev/null
	) | awk -F ': *' '$1 == "Name" && !name { name = $2 } $1 == "Driver" { driver = $2 } END { print driver, name }')
	driver=${driver_and_name%% *}
	case $driver in
	docker) report ok builder 'buildx builds in the daemon, with its cache' ;;
	'') report skipped builder 'buildx does not say which builder it uses' ;;
	*) report error builder "buildx builds in ${driver_and_name#* } (driver $driver), which has a cache of its own that starts empty" "docker buildx use $name${BUILDX_BUILDER:+, and unset BUILDX_BUILDER (it is $BUILDX_BUILDER)}" ;;
	esac
}

# The gateway and the daemon -----------------------------------------------------------------------

# ask_daemon SECONDS: sends standard input to the daemon's API over a new connection, and prints the answer.
ask_daemon() {
	within "$1" ssh -S none -o BatchMode=yes -o ConnectTimeout=8 -o LogLevel=ERROR "$name" docker system dial-stdio
}

check_server() {
	[ -n "$ssh_works" ] || return
	answer=$(printf 'GET /_ping HTTP/1.0\r\n\r\n' | ask_daemon 15 2>"$folder/doctor")
	exit_code=$?
	errors=$(cat "$folder/doctor")
	rm -f "$folder/doctor"
	last_error=$(printf '%s\n' "$errors" | grep . | tail -n 1)
	check_login || return
	case $answer in
	*' 200 OK'*) ;;
	*)
		report error daemon "the daemon does not answer: ${last_error:-no answer within 15 s}" 'wait if it is being changed; else ask who runs the builder to look at the log of its daemon'
		return
		;;
	esac
	report ok daemon "answers, $(printf '%s' "$answer" | tr -d '\r' | sed -n 's/^Server: //p')"
	! has docker || check_daemon
}

# Reports how far ssh came, by its exit code and errors; fails if it did not log in.
check_login() {
	host=$(option hostname "$actual"):$(option port "$actual")
	case $errors in
	*'Could not resolve'*)
		report error reachable "the name of $host is not known here" 'check DNS, and whether a VPN is needed'
		return 1
		;;
	*'Connection refused'*)
		report error reachable "the machine at $host answers, but no gateway listens there" 'ask who runs the builder to look at its gateway'
		return 1
		;;
	*'timed out'* | *'No route'* | *'unreachable'*)
		report error reachable "$host does not answer" 'check the network, a VPN, and that a firewall lets the port through'
		return 1
		;;
	*'IDENTIFICATION HAS CHANGED'* | *'Host key verification failed'* | *'host key is known'*)
		report ok reachable "$host"
		report error hostkey "$host shows another host key than the pinned one" 'ask who runs the builder: after a rotation of its host key, install a new kit; otherwise someone intercepts the connection, and ssh is right to refuse'
		return 1
		;;
	*'Permission denied'*)
		report ok reachable "$host"
		report ok hostkey 'as pinned'
		key_or_certificate=$(fingerprint "$folder/key.pub" | grep . || echo 'your certificate')
		report error access 'the builder does not accept this key' "ask who runs it whether $key_or_certificate is among its keys, has not expired, and may come from this address"
		return 1
		;;
	esac
	if [ "$exit_code" -eq 255 ]; then
		report error reachable "ssh to $host failed: $last_error" "run ssh -v $name, which shows more"
		return 1
	fi
	report ok reachable "$host"
	report ok hostkey 'as pinned'
	report ok access 'the key is accepted'
}

# docker_there ARGUMENT...: docker on the builder, whatever this shell has set for other daemons; only
# DOCKER_API_VERSION counts, as it does in builds.
docker_there() { (
	unset DOCKER_CONTEXT DOCKER_TLS DOCKER_TLS_VERIFY DOCKER_CERT_PATH
	export DOCKER_HOST="ssh://$name"
	[ ! -S "$sock" ] || ! daemon_version "unix://$sock" >/dev/null || DOCKER_HOST=unix://$sock
	within 30 docker "$@"
); }

check_daemon() {
	if ! versions=$(docker_there version --format 'client API {{.Client.APIVersion}}, daemon {{.Server.MinAPIVersion}} to {{.Server.APIVersion}}' 2>&1); then
		report error versions "$(printf '%s\n' "$versions" | tail -n 1)" "${DOCKER_API_VERSION:+unset DOCKER_API_VERSION, or }install a docker CLI closer to the daemon's release"
		return
	fi
	report ok versions "$versions"
	check_cache
	check_limits
	check_rootless
	check_disk
	check_mirrors
}

check_cache() {
	count_and_size=$(docker_there system df --format '{{.Type}}	{{.TotalCount}}	{{.Size}}' 2>/dev/null | awk -F '\t' '$1 == "Build Cache" { print $2, $3 }')
	case $count_and_size in
	'') report skipped cache 'the daemon does not say how large its cache is' ;;
	'0 '*) report warning cache 'the cache is empty: the next build runs every step' ;;
	*) report ok cache "${count_and_size#* } in ${count_and_size%% *} entries" ;;
	esac
}

# A daemon without control groups of its own accepts the limits of a container and ignores them.
check_limits() {
	if ! cgroups=$(docker_there info --format '{{.CgroupDriver}} {{.CgroupVersion}}' 2>&1); then
		report skipped limits "the daemon does not say whether limits of containers work: $(printf '%s\n' "$cgroups" | tail -n 1)"
		return
	fi
	case $cgroups in
	'none 1') reason='the host has control groups of version 1' ;;
	'none '*) reason='its daemon has no control groups of its own' ;;
	*)
		report ok limits 'containers keep to theirs'
		return
		;;
	esac
	report warning limits "limits of single containers (docker run --memory, --cpus, --pids-limit; compose's mem_limit) do nothing there: $reason" 'limit the whole builder instead (settings memory, cpus, processes), or ask who runs it; docs/running.md says what limits of containers need'
}

# What the daemon of every builder lacks.
check_rootless() {
	report ok rootless "builds cannot make device nodes (docker run --device /dev/fuse gives that one) or mount disks (use mke2fs -d), and COPY drops the setuid bits of the context's files (use COPY --chmod=4755)"
}

check_disk() {
	free_space=$(measure_disk)
	percent=${free_space##* }
	elsewhere='; who runs the builder sees it with: python -m client status'
	if [ "$free_space" = forbidden ]; then
		report skipped disk "a key of role build may not look at the free space$elsewhere"
	elif [ -z "$free_space" ]; then
		report skipped disk "no image there has df, which shows the free space$elsewhere"
	elif [ "$percent" -ge 10 ]; then
		report ok disk "${free_space% *}"
	elif [ "$percent" -ge 3 ]; then
		report warning disk "${free_space% *}; the builder deletes cache to make room" 'ask who runs it for a larger disk or a smaller cacheSize'
	else
		report error disk "the disk is full: ${free_space% *}" 'docker image prune -a at the builder, or ask who runs it'
	fi
}

# Prints the free space of the daemon's disk and, as the last word, its percentage; `forbidden` if this
# key may run no containers; nothing if no image has df. The API does not show the free space, but the
# root folder of a container is on that disk.
measure_disk() {
	free_space=
	for image in $(docker_there image ls --quiet --filter dangling=false 2>/dev/null | awk '!seen[$0]++' | head -n 4); do
		free_space=$(docker_there run --rm --network none --entrypoint df "$image" -Pk / 2>"$folder/doctor" |
			awk 'NR == 2 { printf "%.1f GB of %.1f GB free %d", $4 * 1024 / 1e9, $2 * 1024 / 1e9, $4 * 100 / $2 }')
		! grep -q 'no space left' "$folder/doctor" || free_space='nothing free 0'
		! grep -q 'a key of role build' "$folder/doctor" || free_space=forbidden
		[ -z "$free_space" ] || break
	done
	rm -f "$folder/doctor"
	printf '%s' "$free_space"
}

# The mirrors of Docker Hub. When one fails, the daemon pulls past it and says nothing.
check_mirrors() {
	for mirror in $(docker_there info --format '{{range .RegistryConfig.Mirrors}}{{println .}}{{end}}' 2>/dev/null); do
		mirror=${mirror#*://}
		check_mirror "${mirror%/}"
	done
}

# check_mirror HOST:PORT: asks the daemon to ask the mirror alone for a manifest that nobody has. The mirror
# then asks its upstream; releases of the registry before 3.1.2 give the same answer whatever that says.
check_mirror() {
	answer=$(ask_about "$1/library/hello-world@sha256:$(printf '%064d' 0)")
	case $answer in
	*'HTTP status: 500'* | *'unknown: unknown error'*) answer=$(ask_about "$1/library/hello-world:latest") old=1 ;;
	*) old= ;;
	esac
	case $old$answer in
	1*' 200 OK'*) report ok mirror "$1 has images" ;;
	1*'manifest unknown'*) report warning mirror "the mirror of Docker Hub at $1 cannot pull from its upstream, so builds pull past it" 'ask who runs the builder to look at the log of its registry-mirror' ;;
	*'manifest unknown'* | *'name unknown'*) report ok mirror "$1 pulls from its upstream" ;;
	*unauthorized* | *denied*) report warning mirror "the upstream of the mirror at $1 refuses its login, so builds pull past it" 'ask who runs the builder to correct registry.user and registry.token' ;;
	*toomanyrequests*) report warning mirror "the upstream of the mirror at $1 serves it no more for a while, so builds pull past it" 'ask who runs the builder for a login with a higher limit (registry.user and registry.token)' ;;
	'') report skipped mirror "the daemon does not say whether its mirror at $1 works" ;;
	*) report warning mirror "the mirror of Docker Hub at $1 fails, so builds pull past it: $(printf '%s\n' "$answer" | tail -n 1)" 'ask who runs the builder to look at its registry-mirror' ;;
	esac
}

# ask_about IMAGE: what the daemon answers, when it is asked to look the image up in its registry. The input
# stays open meanwhile: the daemon gives up a request whose sender has ended.
ask_about() {
	rm -f "$folder/doctor"
	mkfifo "$folder/doctor"
	exec 4<>"$folder/doctor"
	printf 'GET /distribution/%s/json HTTP/1.0\r\n\r\n' "$1" >&4
	ask_daemon 30 <&4 2>/dev/null
	exec 4>&-
	rm -f "$folder/doctor"
}
