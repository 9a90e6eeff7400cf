#!/bin/sh
# Waits, on the Docker host, until containers pass their own health checks; says why when one does not.
# Usage: sh -s -- SECONDS CONTAINER... < readiness.sh
set -u
deadline=$(($(date +%s) + $1))
shift
for container; do
	# Its first check by itself comes after half a minute.
	until said=$(docker container inspect --format '{{range slice .Config.Healthcheck.Test 1}}{{println .}}{{end}}' "$container" 2>&1 |
		{ IFS='
'
			# shellcheck disable=SC2046
			set -- $(cat)
			docker exec "$container" "$@"; } 2>&1); do
		if [ "$(date +%s)" -ge "$deadline" ]; then
			printf '%s is not ready: %s; its last lines:\n' "$container" "$said" >&2
			docker container logs --tail 40 "$container" >&2 2>&1
			printf 'Next: mend the cause and run pulumi up again; nothing has to be removed.\n' >&2
			exit 1
		fi
		sleep 0.3
	done
done
echo ready
