# shellcheck shell=sh
# Runs on the Docker host: waits until the builder can build, or prints why it cannot.
# Usage: cat health.sh readiness.sh | sh -s -- SOCKET FOLDER KEYS_SHA256 SECONDS_1 SECONDS DAEMON GATEWAY CONTAINER...
#   SOCKET        where the daemon listens; the guard's socket is in the same folder
#   FOLDER        where the daemon mounts the cache volume, in which this script leaves a note
#   KEYS_SHA256   SHA-256 of the authorized_keys file that the gateway must have
#   SECONDS_1     how long to wait for the daemon, which starts slowly with a large cache on a slow host
#   SECONDS       how long to wait for everything else after that
#   CONTAINER...  the builder's other containers
set -u
socket=$1 folder=$2 keys_sha256=$3 first_seconds=$4 seconds=$5
shift 5
daemon=$1 gateway=$2

in_daemon() { docker exec --user 1000:1000 "$daemon" sh -c "$@"; }

report_on builder "$@"
wait_at_most "$first_seconds"
# drain.sh renames the sockets; rename them back even if no container was replaced after it.
# shellcheck disable=SC2016
until_passes "$daemon" 'still has the sockets that drain.sh renamed' in_daemon '
	for socket; do
		[ -e "$socket" ] || [ ! -e "$socket.away" ] || mv "$socket.away" "$socket"
	done' sh "$socket" "${socket%/*}/guard.sock"
until_healthy "$daemon"
wait_at_most "$seconds"
for container; do until_healthy "$container"; done

installed=$(docker exec "$gateway" sha256sum /access/authorized_keys 2>&1)
[ "${installed%% *}" = "$keys_sha256" ] ||
	fail "the gateway's authorized keys are not the configured ones ($installed)"

# Builds an image and another one on top of it, because a daemon may be able to do only the first. Then writes
# a note for cache/check.sh: the release (major.minor) and the storage driver of the daemon that uses the
# cache. The images have names, because daemons before 29 with containerd's store cannot find one without.
# shellcheck disable=SC2016
output=$(in_daemon '
	base=docker-build-machine/readiness:base top=docker-build-machine/readiness:top
	build() { DOCKER_BUILDKIT=1 docker build --quiet --label docker-build-machine.readiness=1 --tag "$1" - >/dev/null; }
	printf "FROM scratch\nWORKDIR /base\n" | build "$base" || exit 1
	printf "FROM %s\nWORKDIR /top\n" "$base" | build "$top" || exit 1
	docker image rm "$base" "$top" >/dev/null || exit 1
	release=$(docker info --format "{{.ServerVersion}} {{.Driver}}") || exit 3
	echo "$release" | sed "s/^\([0-9]*\.[0-9]*\)[^ ]*/\1/" >"$1/docker-build-machine.note" || exit 2' \
	sh "$folder" 2>&1)
case $? in
0) ;;
2) fail "the cache cannot be written: $output" ;;
3) fail "the daemon does not report its release: $output" ;;
*) fail "a first build failed: $output" ;;
esac
echo ready
