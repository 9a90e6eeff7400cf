# shellcheck shell=sh
# Waits, on the Docker host, until the builder can build; says why when it cannot.
# Usage: cat health.sh readiness.sh | sh -s -- SOCKET FOLDER KEYS_SHA256 SECONDS_1 SECONDS DAEMON GATEWAY CONTAINER...
#   SOCKET        where the daemon listens; the guard's socket is beside it
#   FOLDER        where the daemon has the cache volume; a note in it names who wrote it last
#   KEYS_SHA256   of the authorized keys that the gateway must have
#   SECONDS_1     how long the daemon gets, on a slow host with a large cache, to answer
#   SECONDS       how long everything else gets after that
#   CONTAINER...  the builder's other containers
set -u
socket=$1 folder=$2 keys_sha256=$3 first_seconds=$4 seconds=$5
shift 5
daemon=$1 gateway=$2 containers=$*

fail() {
	printf 'The builder is not ready: %s.\n' "$1" >&2
	# shellcheck disable=SC2086
	for name in $containers; do show_log "$name"; done
	printf 'Next: mend the cause and run pulumi up again; nothing has to be removed.\n' >&2
	exit 1
}

in_daemon() { docker exec --user 1000:1000 "$daemon" sh -c "$@"; }

wait_at_most "$first_seconds"
# drain.sh moves the sockets away; they come back even if nothing was replaced after it.
# shellcheck disable=SC2016
until_passes "$daemon" 'does not let its sockets be put back' in_daemon '
	for socket; do
		[ -e "$socket" ] || [ ! -e "$socket.away" ] || mv "$socket.away" "$socket"
	done' sh "$socket" "${socket%/*}/guard.sock"
until_healthy "$daemon"
wait_at_most "$seconds"
for container; do until_healthy "$container"; done

installed=$(docker exec "$gateway" sha256sum /access/authorized_keys 2>&1)
[ "${installed%% *}" = "$keys_sha256" ] ||
	fail "the gateway's authorized keys are not the configured ones ($installed)"

# A first build, and a note for cache/check.sh: the release (major.minor) and the storage driver that
# the cache belongs to.
# shellcheck disable=SC2016
output=$(in_daemon '
	image=$(printf "FROM scratch\nLABEL docker-build-machine.readiness=1\n" | DOCKER_BUILDKIT=1 docker build --quiet -) &&
		docker image rm "$image" >/dev/null || exit 1
	release=$(docker info --format "{{.ServerVersion}} {{.Driver}}") || exit 3
	echo "$release" | sed "s/^\([0-9]*\.[0-9]*\)[^ ]*/\1/" >"$1/docker-build-machine.note" || exit 2' \
	sh "$folder" 2>&1)
case $? in
0) ;;
2) fail "the cache cannot be written: $output" ;;
3) fail "the daemon does not tell its release: $output" ;;
*) fail "a first build failed: $output" ;;
esac
echo ready
