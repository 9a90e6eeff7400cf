# shellcheck shell=sh
# Runs on the Docker host: waits until the registry's containers are healthy, or prints why one is not.
# Usage: cat health.sh readiness.sh | sh -s -- SECONDS CONTAINER...
set -u
wait_at_most "$1"
shift
report_on registry "$@"
for container; do until_healthy "$container"; done
echo ready
