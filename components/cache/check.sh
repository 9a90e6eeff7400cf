# shellcheck shell=sh
# Runs on the Docker host before a daemon of this image gets the cache volume. Fails, before anything
# changes, when that daemon could not read the cache. Prints the size in bytes of the volume's file system
# and the image store that the daemon is to use.
# Usage: cat releases.sh check.sh | sh -s -- VOLUME FOLDER IMAGE REFERENCE STORE
#   FOLDER  where the daemon mounts the volume. The check mounts it there too, because the first mount of
#           a new volume sets its owner; readiness.sh leaves a note in this folder
#   IMAGE   id of the daemon's image, REFERENCE its name in the settings
#   STORE   the setting imageStore
set -u
volume=$1 folder=$2 image=$3 reference=$4 store=$5
# containerd's image store was an experiment before this release of Docker.
oldest_with_containerd=25.0

# refuse SETTING WHY NEXT
refuse() {
	printf '%s: %s; nothing was changed.\nNext: %s.\n' "$@" >&2
	exit 1
}
empty_cache='or begin with an empty cache: pulumi config set keepCache false && pulumi up (with the old image) && pulumi destroy'

# The size, the release of the new daemon, and the note of the daemon that wrote the cache. A daemon that
# never built left no note, but may have left images.
# shellcheck disable=SC2016
output=$(docker run --rm --network none --volume "$volume:$folder" --entrypoint sh "$image" -c '
	df -Pk "$1" | awk "NR == 2 { printf \"%.0f\\n\", \$2 * 1024 }"
	dockerd --version || echo
	if test -e "$1/docker-build-machine.note"; then cat "$1/docker-build-machine.note"
	elif test -d "$1/overlay2"; then echo 0.0 overlay2
	fi' sh "$folder") ||
	refuse "daemonImage = $reference" 'the release that wrote the cache cannot be read (the line above says why)' "correct that, $empty_cache"
size=$(printf '%s\n' "$output" | sed -n 1p)
new_release=$(printf '%s\n' "$output" | sed -n '2s/.*version \([0-9]*\.[0-9]*\).*/\1/p')
[ -n "$new_release" ] ||
	refuse "daemonImage = $reference" 'its dockerd is missing or prints no version' "use an image like docker:<version>-dind-rootless, $empty_cache"
note=$(printf '%s\n' "$output" | sed 1,2d)
old_release=${note%% *}
# The name of Docker's storage driver, as a value of imageStore.
case ${note##* } in
overlayfs) old_store=containerd ;;
*) old_store=${note##* } ;;
esac
if [ -n "$note" ]; then
	! older "$new_release" "$old_release" ||
		refuse "daemonImage = $reference" \
			"it is Docker $new_release, and Docker $old_release last used the cache; an older release may be unable to read it" \
			"set daemonImage to Docker $old_release or newer, $empty_cache"
	case $old_store in
	containerd | overlay2) ;;
	*) refuse "imageStore = $store" \
		"the cache was written with the storage driver $old_store, which neither containerd nor overlay2 can read" \
		"use a daemon of your own for that cache, $empty_cache" ;;
	esac
fi
[ "$store" != keep ] || store=${old_store:-overlay2}
if [ "$store" = containerd ] && older "$new_release" "$oldest_with_containerd"; then
	refuse "imageStore = containerd" "daemonImage = $reference is Docker $new_release, which lacks it" \
		"set daemonImage to Docker $oldest_with_containerd or newer, or imageStore to overlay2"
fi
printf '%s\n%s\n' "$size" "$store"
