# shellcheck shell=sh
# Waits, on the Docker host, until the registry's containers are healthy; says why when one is not.
# Usage: cat health.sh readiness.sh | sh -s -- SECONDS CONTAINER...
set -u
wait_at_most "$1"
shift
containers=$*

fail() {
	printf 'The registry is not ready: %s.\n' "$1" >&2
	# shellcheck disable=SC2086
	for name in $containers; do show_log "$name"; done
	printf 'Next: mend the cause and run pulumi up again; nothing has to be removed.\n' >&2
	exit 1
}

for container; do until_healthy "$container"; done
echo ready
