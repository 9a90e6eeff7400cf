#!/bin/sh
# Runs on the Docker host before a daemon's container is replaced: lets the builds in flight end while
# new ones wait.
# Usage: sh -s -- DAEMON GATEWAY SOCKET SECONDS < changeover.sh
#   SOCKET   where the daemon listens, beside TCP 2376 when that is the transport; the guard's is
#            beside it
#   SECONDS  how long builds get to end
set -u
daemon=$1 gateway=$2 socket=$3 seconds=$4
guarded=${socket%/*}/guard.sock

if [ "$(docker container inspect --format '{{.State.Running}}' "$daemon" 2>/dev/null)" != true ]; then exit 0; fi

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

# All clients come through the gateway; the kernel lists an accepted connection, under the name of
# the socket, in the network namespace of the one who connected (unix_stream_connect).
open_connections() {
	# shellcheck disable=SC2016
	docker exec "$gateway" awk -v socket="$socket" -v guarded="$guarded" '
		FILENAME ~ /unix$/ && $6 == "03" && ($8 == socket || $8 == guarded) { open++ }
		FILENAME ~ /tcp6?$/ && $4 == "01" && $3 ~ /:0948$/ { open++ }
		END { print open + 0 }' /proc/net/unix /proc/net/tcp /proc/net/tcp6 2>/dev/null || echo 0
}
waited=0
while open=$(open_connections) && [ "${open:-0}" -gt 0 ]; do
	if [ "$waited" -ge "$seconds" ]; then
		echo "$open connections are still open after $seconds s (drainTime); they are cut." >&2
		break
	fi
	[ "$waited" -ne 2 ] || echo "Up to $seconds s for $open open connections to end; new clients wait." >&2
	waited=$((waited + 1))
	sleep 1
done
