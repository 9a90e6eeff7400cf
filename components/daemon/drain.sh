#!/bin/sh
# Runs on the Docker host before a daemon's container is replaced: waits for running builds to end while
# new builds wait.
# Usage: sh -s -- DAEMON GATEWAY SOCKET SECONDS < drain.sh
#   SOCKET   where the daemon listens (with transport = tls also on TCP 2376); the guard's socket is in
#            the same folder
#   SECONDS  how long to wait for builds to end
set -u
daemon=$1 gateway=$2 socket=$3 seconds=$4
guard_socket=${socket%/*}/guard.sock

# is_running CONTAINER: ends the script when Docker does not answer.
is_running() {
	if output=$(docker container inspect --format '{{.State.Running}}' "$1" 2>&1); then
		[ "$output" = true ]
		return
	fi
	case $output in
	*'o such container'*) return 1 ;;
	esac
	echo "Docker does not report whether $1 is running: $output" >&2
	exit 1
}

is_running "$daemon" || exit 0

# New clients wait at the gateway while the sockets have other names. A process in the daemon's container
# moves the sockets back, even if this script is killed.
# shellcheck disable=SC2016
docker exec --user 1000:1000 "$daemon" sh -c '
	mv -f "$1" "$1.away" || exit 1
	test ! -e "$2" || mv -f "$2" "$2.away"
	(
		trap "" HUP
		sleep "$3"
		for socket in "$1" "$2"; do test -e "$socket" || mv "$socket.away" "$socket"; done
	) </dev/null >/dev/null 2>&1 &
' sh "$socket" "$guard_socket" $((seconds + 120)) ||
	echo 'The daemon cannot be drained; running builds may be cut.' >&2

# All clients come through the gateway. The kernel lists an accepted connection, under the socket's name,
# in the network namespace of the process that connected (unix_stream_connect). The engine keeps some
# connections open after `docker run` has ended. A connection with a client at its other end has three
# references. For TCP, this counts the gateway's ends.
open_connections() {
	# shellcheck disable=SC2016
	docker exec "$gateway" sh -c 'for table in unix tcp tcp6; do test ! -e /proc/net/$table || cat /proc/net/$table; done' |
		awk -v socket="$socket" -v guard_socket="$guard_socket" '
			{ lines++ }
			$6 == "03" && ($8 == socket || $8 == guard_socket) && $2 !~ /^0*[12]$/ { open++ }
			$4 == "01" && $3 ~ /:0948$/ { open++ }
			END { if (lines) print open + 0 }'
}
waited=0
while open=$(open_connections) && [ "$open" != 0 ]; do
	# Without a gateway no client is connected.
	[ -n "$open" ] || is_running "$gateway" || break
	if [ "$waited" -ge "$seconds" ]; then
		echo "${open:-Unknown} connections are still open after $seconds s (drainTime); they are cut." >&2
		break
	fi
	[ "$waited" -ne 2 ] || echo "Waiting up to $seconds s for ${open:-unknown} open connections to end; new clients wait." >&2
	waited=$((waited + 1))
	sleep 1
done
