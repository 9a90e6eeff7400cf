#!/bin/sh
# Runs on the Docker host before a daemon of this image gets the cache. Refuses what the cache would
# not survive, before anything is touched; tells how many bytes the file system has that it lies on.
# Usage: sh -s -- VOLUME FOLDER IMAGE REFERENCE DRIVER < check.sh
#   FOLDER  where the daemon has the volume: whoever mounts a new volume first settles its owner;
#           readiness.sh leaves a note in it
#   IMAGE   id of the daemon's image, REFERENCE its name in the settings
#   DRIVER  storage driver of that daemon
set -u
volume=$1 folder=$2 image=$3 reference=$4 driver=$5

refuse() {
	printf 'daemonImage = %s: %s; nothing was touched.\n' "$reference" "$1" >&2
	printf 'Next: %s, or begin with an empty cache: pulumi config set keepCache false && pulumi up (with the old image) && pulumi destroy.\n' "$2" >&2
	exit 1
}

# The size, the release that comes, and the note of the one that wrote the cache.
# shellcheck disable=SC2016
output=$(docker run --rm --network none --volume "$volume:$folder" --entrypoint sh "$image" -c '
	df -Pk "$1" | awk "NR == 2 { printf \"%.0f\\n\", \$2 * 1024 }"
	dockerd --version || echo
	! test -e "$1/docker-build-machine.note" || cat "$1/docker-build-machine.note"' sh "$folder") ||
	refuse 'which release wrote the cache cannot be read (the line above says why)' 'mend that'
size=$(printf '%s\n' "$output" | sed -n 1p)
comes=$(printf '%s\n' "$output" | sed -n '2s/.*version \([0-9]*\.[0-9]*\).*/\1/p')
[ -n "$comes" ] || refuse 'it has no dockerd that tells its version' 'use an image like docker:<version>-dind-rootless'
note=$(printf '%s\n' "$output" | sed 1,2d)
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
printf '%s\n' "$size"
