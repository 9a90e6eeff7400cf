# shellcheck shell=sh
# The verbs on, off, env, builds, list and watch: the ssh connection that all share, the forwarded socket, and
# the Docker context that leads docker to the builder. Sourced by builder.
# shellcheck disable=SC2154  # builder sets home, name, folder and sock

# Docker -------------------------------------------------------------------------------------------

# Makes docker obey this script instead of what the person's shell has set for other daemons.
forget_other_daemons() {
	unset DOCKER_HOST DOCKER_CONTEXT DOCKER_TLS DOCKER_TLS_VERIFY DOCKER_CERT_PATH DOCKER_API_VERSION
}

# docker_here ARGUMENT...: docker, where only contexts and settings of this machine count.
docker_here() { (
	forget_other_daemons
	within 60 docker "$@"
); }

# daemon_version URL: the version of the daemon there; on failure the file `answer` has docker's error.
daemon_version() { (
	forget_other_daemons
	DOCKER_HOST=$1 within 8 docker version --format '{{.Server.Version}}' 2>"$folder/answer"
); }

current_context() { docker_here context ls --format '{{if .Current}}{{.Name}}{{end}}' | grep .; }

# point_docker_at URL: makes the builder's Docker context and its env file lead there.
point_docker_at() {
	printf 'DOCKER_HOST=%s\nDOCKER_BUILDKIT=1\n' "$1" >"$folder/env.new" && mv "$folder/env.new" "$folder/env"
	action=update
	docker_here context inspect "$name" >/dev/null 2>&1 || action=create
	output=$(docker_here context "$action" "$name" --description docker-build-machine --docker "host=$1" 2>&1) ||
		fail "docker context $action $name failed: $output"
}

# at_least VERSION MAJOR MINOR: whether the version is that or a later one.
at_least() {
	major=${1%%[!0-9]*}
	minor=${1#*.}
	minor=${minor%%[!0-9]*}
	[ "${major:-0}" -gt "$2" ] || { [ "${major:-0}" -eq "$2" ] && [ "${minor:-0}" -ge "$3" ]; }
}

# Finds out whether docker build uses BuildKit: sets docker_version, buildx_version (empty without
# buildx), buildkit (ok, warning or error), buildkit_found and buildkit_next.
look_at_buildkit() {
	docker_version=$(docker --version | sed 's/^Docker version \([^ ,]*\).*/\1/')
	buildx_version=$(docker_here buildx version 2>/dev/null | awk '{ print $2 }')
	buildkit=error
	buildkit_next=
	if [ "${DOCKER_BUILDKIT:-}" = 0 ]; then
		buildkit_found='DOCKER_BUILDKIT=0 turns BuildKit off in this shell: no cache mounts, no parallel steps'
		buildkit_next='unset DOCKER_BUILDKIT'
	elif [ -n "$buildx_version" ]; then
		buildkit=ok
		buildkit_found="buildx $buildx_version"
	elif at_least "$docker_version" 23 0; then
		buildkit_found="docker CLI $docker_version cannot use BuildKit without buildx, which is missing"
		buildkit_next='install docker-buildx-plugin (Docker) or docker-buildx (Debian, Alpine, Homebrew)'
	elif [ "${DOCKER_BUILDKIT:-}" = 1 ]; then
		buildkit=ok
		buildkit_found="built into docker CLI $docker_version"
	else
		buildkit=warning
		buildkit_found="docker CLI $docker_version uses BuildKit only if DOCKER_BUILDKIT=1 is set"
		buildkit_next='export DOCKER_BUILDKIT=1, or install buildx'
	fi
}

# The shared connection and the forwarded socket ---------------------------------------------------

# Finds the ssh process that holds the shared connection: sets master_pid; fails if there is none.
find_master() {
	# ssh -O check prints: Master running (pid=123)
	master_pid=$(within 5 ssh -O check "$name" 2>&1 | sed -n 's/.*pid=\([0-9]*\).*/\1/p')
	[ -n "$master_pid" ]
}

# Opens the shared connection unless it is open. Old releases of ssh (7.5) keep their standard output
# open in the background, and $(builder env) would wait for its end.
connect() { find_master || ssh -fNT "$name" </dev/null >/dev/null; }

# The gateway has one socket for keys of role admin, docker.sock, and one for keys of role build,
# guard.sock. A key gets through to its own only, which shows when docker asks for the version.
#
# LocalForward lines in ssh_config cannot replace these commands, in OpenSSH 7.5 as in 9.2: an ssh that
# does not share the connection, such as one of several that start at once, would take the socket from
# the one that does and leave it dead; and any ssh after `off` would open the socket again.

# forwarding forward|cancel SOCKET: begins or ends to forward $sock to that socket of the gateway.
forwarding() { within 5 ssh -O "$1" -L "$sock:/run/builder/$2" "$name" >/dev/null 2>&1; }

forward_socket() {
	[ -S "$sock" ] && version=$(daemon_version "unix://$sock") && return
	close_socket
	for gateway_socket in docker.sock guard.sock; do
		forwarding forward "$gateway_socket" || return
		version=$(daemon_version "unix://$sock") && return
		close_socket
	done
	return 1
}

close_socket() {
	forwarding cancel docker.sock
	forwarding cancel guard.sock
	rm -f "$sock" "$behind"
}

# Ends forwarding and leads docker over plain ssh.
use_plain_ssh() {
	rm -f "$folder/watched"
	close_socket
	point_docker_at "ssh://$name"
}

# Leads docker to the builder by the forwarded socket or, if that cannot be, by plain ssh: sets url.
open_connection() {
	has docker || fail 'docker is not installed here; next: install the docker CLI with buildx (no daemon is needed)'
	# An older watch ends when this file is gone.
	rm -f "$folder/watched"
	say "$name: connecting"
	connect || fail "$name cannot be reached; the line above says why. Next: builder doctor $name"
	if forward_socket; then
		url=unix://$sock
		point_docker_at "$url"
		start_watch
		say "$name: the socket is forwarded, Docker $version answers"
	else
		url=ssh://$name
		version=$(daemon_version "$url") || {
			reason=$(tail -n 1 "$folder/answer" | grep . || echo 'none within 8 seconds')
			fail "$name accepts this key, but docker gets no answer: $reason. Next: builder doctor $name"
		}
		point_docker_at "$url"
		say "$name: Docker $version answers; docker uses plain ssh://, which is slower, as the socket cannot be forwarded (transport tls, or a limit of this key)"
	fi
}

# Connections that are open ahead ------------------------------------------------------------------

# Prints the path of Python 3, if it is there.
find_python() {
	python=$(command -v python3) || return
	# Without its developer tools macOS has a python3 that only offers to install them.
	[ "$python" != /usr/bin/python3 ] || [ "$(uname)" != Darwin ] || xcode-select -p >/dev/null 2>&1 || return
	printf '%s\n' "$python"
}

# Starts ahead.py, which takes over the forwarded socket, unless this machine has no Python: sets
# ahead_pid. ssh listens at $behind meanwhile.
start_ahead() {
	stop_ahead
	ahead_pid=
	python=$(find_python) || return 0
	"$python" "$home/ahead.py" "$sock" "$behind" </dev/null &
	ahead_pid=$!
}

# Gives the socket back to ssh. ahead.py sees that and ends when docker has closed what it has open.
stop_ahead() { [ ! -S "$behind" ] || mv -f "$behind" "$sock"; }

# Gives the socket back to ssh if ahead.py has ended by itself.
check_ahead() {
	[ -n "$ahead_pid" ] && ! kill -0 "$ahead_pid" 2>/dev/null || return 0
	say 'ahead.py has ended, docker uses the forwarded socket without it'
	stop_ahead
	ahead_pid=
}

# Watching the connection --------------------------------------------------------------------------

# Starts `builder watch` in the background, where it outlives this terminal. The file `watched` has the
# token of the watch that counts; one with another token ends.
start_watch() {
	token=$$.$(now)
	printf '%s\n' "$token" >"$folder/watched"
	(
		trap '' HUP # nohup is not everywhere
		BUILDER_HOME=$home exec sh "$home/builder" watch "$name" "$token"
	) </dev/null >/dev/null 2>"$folder/log" &
}

# is_watched TOKEN: whether the watch with this token counts.
is_watched() {
	watched=
	[ -f "$folder/watched" ] && read -r watched <"$folder/watched"
	[ "$watched" = "$1" ]
}

# watch TOKEN: keeps the socket forwarded until another watch starts, until `off`, or until nobody has
# used the connection for as long as ControlPersist says. At its end docker uses plain ssh.
watch() {
	token=$1
	trap 'use_plain_ssh; exit 0' TERM HUP INT
	idle_seconds=$(ssh -GT "$name" | sed -n 's/^controlpersist //p')
	connected_at=0
	! find_master || connected_at=$(now)
	start_ahead
	while is_watched "$token"; do
		if kill -0 "$master_pid" 2>/dev/null; then
			check_ahead
			sleep 1
		elif was_idle; then
			say "unused for $idle_seconds seconds"
			break
		else
			connect_again || break
		fi
	done 2>>"$folder/log"
	! is_watched "$token" || use_plain_ssh
}

# Whether the connection that has ended lived exactly as long as an unused one does. It may have been
# used at its beginning; then the next one, which nobody uses, lives as long and shows it.
was_idle() {
	lived=$(($(now) - connected_at))
	[ "$lived" -ge "$idle_seconds" ] && [ "$lived" -le $((idle_seconds + 3)) ]
}

# Connects and forwards again, trying for an hour; docker uses plain ssh meanwhile. Fails when it gives
# up or when this watch no longer counts.
connect_again() {
	lost_at=$(now)
	delay=0
	# `off` may come at any time; then nothing must be forwarded any more.
	until reconnect && is_watched "$token" && forward_socket && find_master; do
		is_watched "$token" || return
		[ "$delay" -gt 0 ] || (point_docker_at "ssh://$name")
		[ $(($(now) - lost_at)) -lt 3600 ] || return
		[ "$delay" -ge 10 ] || delay=$((delay + 1))
		next_try=$(($(now) + delay))
		while [ "$(now)" -lt "$next_try" ] && is_watched "$token"; do sleep 1; done
	done
	start_ahead
	(point_docker_at "unix://$sock")
	connected_at=$(now)
	say "connected again after $((connected_at - lost_at)) s"
}

# Opens the shared connection; gives up when this watch no longer counts, as ssh may take minutes to
# find that a host is gone.
reconnect() {
	! find_master || return 0
	ssh -o BatchMode=yes -fNT "$name" </dev/null &
	attempt=$!
	while kill -0 "$attempt" 2>/dev/null; do
		is_watched "$token" || kill "$attempt"
		sleep 1
	done
	wait "$attempt"
}

# The verbs ----------------------------------------------------------------------------------------

on() {
	open_connection
	previous=$(current_context)
	if [ "$previous" != "$name" ]; then
		printf '%s\n' "$previous" >"$folder/before"
		output=$(docker_here context use "$name" 2>&1) || fail "docker context use $name failed: $output"
	fi
	look_at_buildkit
	# The buildx builder named after a context is its daemon; one that was chosen by hand would be used
	# instead of it.
	if [ -n "$buildx_version" ]; then
		output=$(docker_here buildx use "$name" 2>&1) || say "but buildx keeps the builder that it had: $output"
	fi
	[ "$buildkit" = ok ] || say "but $buildkit_found; next: $buildkit_next"
	if [ -n "${DOCKER_HOST:-}${DOCKER_CONTEXT:-}" ]; then
		say "but DOCKER_HOST=${DOCKER_HOST:-} DOCKER_CONTEXT=${DOCKER_CONTEXT:-} in this shell override that; next: unset DOCKER_HOST DOCKER_CONTEXT"
	fi
	say "docker build now builds there, in every shell; to end that: builder off"
}

off() {
	use_plain_ssh
	if [ "$(current_context)" = "$name" ]; then
		previous=default
		[ ! -f "$folder/before" ] || read -r previous <"$folder/before"
		docker_here context use "$previous" >/dev/null 2>&1 || docker_here context use default >/dev/null
		say "docker uses the context $(current_context) again"
	fi
	rm -f "$folder/before"
}

print_env() {
	open_connection
	printf 'export DOCKER_HOST=%s DOCKER_BUILDKIT=1\n' "$(quoted "$url")"
}

# With a key of role build the daemon refuses the list, and says so.
list_builds() {
	look_at_buildkit
	at_least "${buildx_version#v}" 0 21 ||
		fail "builds are listed by buildx 0.21 or newer; here is ${buildx_version:-no buildx}; next: install docker-buildx-plugin"
	docker_here --context "$name" buildx --builder "$name" history ls
}

list() {
	for name in $(builder_names "$home"); do
		folder=$home/$name
		way='plain ssh'
		if [ -f "$folder/watched" ] && find_master; then way='socket forwarded'; fi
		printf '%s\t%s\n' "$name" "$way"
	done
}
