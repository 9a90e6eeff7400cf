#!/bin/sh
# Runs on the Docker host before a daemon's container is replaced: lets the builds in flight end while
# new ones wait.
# Usage: sh -s -- DAEMON GATEWAY SOCKET SECONDS < drain.sh
#   SOCKET   where the daemon listens, beside TCP 2376 when that is the transport; the guard's is
#            beside it
#   SECONDS  how long builds get to end
set -u
daemon=$1 gateway=$2 socket=$3 seconds=$4
guarded=${socket%/*}/guard.sock

# is_running CONTAINER: ends the script when that cannot be told.
is_running() {
	if output=$(docker container inspect --format '{{.State.Running}}' "$1" 2>&1); then
		[ "$output" = true ]
		return
	fi
	case $output in
	*'o such container'*) return 1 ;;
	esac
	echo "Whether $1 runs cannot be told: $output" >&2
	exit 1
}

is_running "$daemon" || exit 0

# New clients wait at the gateway while the sockets are away. Whatever becomes of this script, the
# daemon's container puts them back in the end.
# shellcheck disable=SC2016
docker exec --user 1000:1000 "$daemon" sh -c '
	mv -f "$1" "$1.away" || exit 1
	test ! -e "$2" || mv -f "$2" "$2.away"
	(
		trap "" HUP
		sleep "$3"
		for socket in "$1" "$2"; do test -e "$socket" || mv "$socket.away" "$socket"; done
	) </dev/null >/dev/null 2>&1 &
' sh "$socket" "$guarded" $((seconds + 120)) ||
	echo 'The daemon does not let itself be drained; builds in flight may be cut.' >&2

# All clients come through the gateway. The kernel lists an accepted connection, under the name of the
# socket, in the network namespace of the one who connected (unix_stream_connect). The engine keeps some
# of them open after `docker run` has ended; a client's end, where there is one, holds the third
# reference. Over TCP the gateway's ends are listed.
open_connections() {
	# shellcheck disable=SC2016
	docker exec "$gateway" sh -c 'for table in unix tcp tcp6; do test ! -e /proc/net/$table || cat /proc/net/$table; done' |
		awk -v socket="$socket" -v guarded="$guarded" '
			{ seen++ }
			$6 == "03" && ($8 == socket || $8 == guarded) && $2 !~ /^0*[12]$/ { open++ }
			$4 == "01" && $3 ~ /:0948$/ { open++ }
			END { if (seen) print open + 0 }'
}
waited=0
while open=$(open_connections) && [ "$open" != 0 ]; do
	# Without a gateway nobody is connected.
	[ -n "$open" ] || is_running "$gateway" || break
	if [ "$waited" -ge "$seconds" ]; then
		echo "${open:-Unknown} connections are still open after $seconds s (drainTime); they are cut." >&2
		break
	fi
	[ "$waited" -ne 2 ] || echo "Up to $seconds s for ${open:-unknown} open connections to end; new clients wait." >&2
	waited=$((waited + 1))
	sleep 1
done
