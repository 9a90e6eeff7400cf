#!/bin/sh
# Runs on the Docker host before a daemon's container is replaced. Refuses what the cache would not
# survive, before anything is touched; then lets the builds in flight end while new ones wait.
# Usage: sh -s -- DAEMON GATEWAY VOLUME FOLDER SOCKET IMAGE REFERENCE DRIVER SECONDS < changeover.sh
#   FOLDER     where the daemon has the cache volume; readiness.sh leaves a note in it
#   SOCKET     where it listens, beside TCP 2376 when that is the transport; the guard's is beside it
#   IMAGE      id of the image that comes, REFERENCE its name in the settings
#   DRIVER     storage driver that comes
#   SECONDS    how long builds get to end
set -u
daemon=$1 gateway=$2 volume=$3 folder=$4 socket=$5 image=$6 reference=$7 driver=$8 seconds=$9
guarded=${socket%/*}/guard.sock

refuse() {
	printf 'daemonImage = %s: %s; nothing was touched.\n' "$reference" "$1" >&2
	printf 'Next: %s, or begin with an empty cache: pulumi config set keepCache false && pulumi up (with the old image) && pulumi destroy.\n' "$2" >&2
	exit 1
}

# major.minor of the release that comes, and the note of the one that wrote the cache. One container
# tells both: its start is most of the time that an update waits here.
# shellcheck disable=SC2016
told=$(docker run --rm --network none --volume "$volume:$folder" --entrypoint sh "$image" -c '
	dockerd --version && cat "$1/docker-build-machine.note" 2>/dev/null' sh "$folder")
comes=$(printf '%s\n' "$told" | sed -n '1s/.*version \([0-9]*\.[0-9]*\).*/\1/p')
[ -n "$comes" ] || refuse 'it has no dockerd that tells its version' 'use an image like docker:<version>-dind-rootless'
note=$(printf '%s\n' "$told" | sed 1d)
wrote=${note%% *} wrote_driver=${note##* }
if [ -n "$note" ]; then
	printf '%s %s\n' "$comes" "$wrote" | awk '{
		split($1, new, "[.]"); split($2, old, "[.]")
		exit !(new[1] < old[1] || (new[1] == old[1] && new[2] + 0 < old[2] + 0))
	}' && refuse "it is Docker $comes, and the cache was last used by $wrote; an older release may not read it" \
		"set daemonImage to a release from $wrote on"
	[ "$wrote_driver" = "$driver" ] ||
		refuse "its daemon would use the storage driver $driver, and the cache was written with $wrote_driver, which it would not see" \
			"use a release of this program whose daemon uses $wrote_driver"
fi

if [ "$(docker container inspect --format '{{.State.Running}}' "$daemon" 2>/dev/null)" != true ]; then
	echo "Docker $comes"
	exit 0
fi

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
echo "Docker $comes"
