# shellcheck shell=sh
# Waits for containers' own health checks. A script that uses this follows it, begins with
# wait_at_most, and defines fail REASON, which prints the reason with what helps and exits.

# wait_at_most SECONDS: how long everything below may wait together.
wait_at_most() { deadline=$(($(date +%s) + $1)); }

# check_health CONTAINER: runs its health check now; Docker itself first does so after 30 seconds.
check_health() {
	check=$(docker container inspect --format '{{range slice .Config.Healthcheck.Test 1}}{{println .}}{{end}}' "$1") || return
	# One word a line.
	(
		set -f
		IFS='
'
		# shellcheck disable=SC2086
		docker exec "$1" $check
	)
}

# until_passes CONTAINER WHAT COMMAND...: repeats COMMAND until it succeeds; fails with WHAT and its
# last output when time is up, or when the container keeps ending.
until_passes() {
	container=$1 what=$2
	shift 2
	until output=$("$@" 2>&1); do
		restarts=$(docker container inspect --format '{{.RestartCount}}' "$container" 2>/dev/null || echo 0)
		[ "$restarts" -lt 4 ] || fail "$container ends again and again"
		[ "$(date +%s)" -lt "$deadline" ] || fail "$container $what: $output"
		sleep 0.3
	done
}

until_healthy() { until_passes "$1" 'does not pass its health check' check_health "$1"; }

# show_log CONTAINER: its state and its last lines.
show_log() {
	printf -- '--- %s: %s; its last lines:\n' "$1" \
		"$(docker container inspect --format '{{.State.Status}}, exit code {{.State.ExitCode}}, restarted {{.RestartCount}} times' "$1" 2>&1)" >&2
	docker container logs --tail 20 "$1" >&2 2>&1
}
