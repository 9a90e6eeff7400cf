#!/bin/sh
# Runs on the Docker host before a daemon of this image gets the cache volume. Fails, before anything
# changes, when that daemon could not read the cache. Prints the size in bytes of the volume's file system.
# Usage: sh -s -- VOLUME FOLDER IMAGE REFERENCE DRIVER < check.sh
#   FOLDER  where the daemon mounts the volume. The check mounts it there too, because the first mount of
#           a new volume sets its owner; readiness.sh leaves a note in this folder
#   IMAGE   id of the daemon's image, REFERENCE its name in the settings
#   DRIVER  storage driver of that daemon
set -u
volume=$1 folder=$2 image=$3 reference=$4 driver=$5

refuse() {
	printf 'daemonImage = %s: %s; nothing was changed.\n' "$reference" "$1" >&2
	printf 'Next: %s, or begin with an empty cache: pulumi config set keepCache false && pulumi up (with the old image) && pulumi destroy.\n' "$2" >&2
	exit 1
}

# The size, the release of the new daemon, and the note of the daemon that wrote the cache.
# shellcheck disable=SC2016
output=$(docker run --rm --network none --volume "$volume:$folder" --entrypoint sh "$image" -c '
	df -Pk "$1" | awk "NR == 2 { printf \"%.0f\\n\", \$2 * 1024 }"
	dockerd --version || echo
	! test -e "$1/docker-build-machine.note" || cat "$1/docker-build-machine.note"' sh "$folder") ||
	refuse 'the release that wrote the cache cannot be read (the line above says why)' 'correct that'
size=$(printf '%s\n' "$output" | sed -n 1p)
new_release=$(printf '%s\n' "$output" | sed -n '2s/.*version \([0-9]*\.[0-9]*\).*/\1/p')
[ -n "$new_release" ] || refuse 'its dockerd is missing or prints no version' 'use an image like docker:<version>-dind-rootless'
note=$(printf '%s\n' "$output" | sed 1,2d)
old_release=${note%% *} old_driver=${note##* }
if [ -n "$note" ]; then
	printf '%s %s\n' "$new_release" "$old_release" | awk '{
		split($1, new, "[.]"); split($2, old, "[.]")
		exit !(new[1] < old[1] || (new[1] == old[1] && new[2] + 0 < old[2] + 0))
	}' && refuse "it is Docker $new_release, and Docker $old_release last used the cache; an older release may be unable to read it" \
		"set daemonImage to Docker $old_release or newer"
	[ "$old_driver" = "$driver" ] ||
		refuse "its daemon would use the storage driver $driver, which cannot read the cache: the cache was written with $old_driver" \
			"use a release of this program whose daemon uses $old_driver"
fi
printf '%s\n' "$size"
