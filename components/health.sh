# shellcheck shell=sh
# Functions that wait for containers' health checks. The script that uses them is appended to this file. It
# first calls report_on and wait_at_most.

# report_on WHAT CONTAINER...: sets what `fail` says is not ready, and whose logs it shows.
report_on() {
	what_waits=$1
	shift
	containers=$*
}

# fail REASON: prints the reason, the containers' logs and the next step, and exits.
fail() {
	printf 'The %s is not ready: %s.\n' "$what_waits" "$1" >&2
	# shellcheck disable=SC2086
	for name in $containers; do show_log "$name"; done
	printf 'Next: correct the cause and run pulumi up again; nothing has to be removed first.\n' >&2
	exit 1
}

# wait_at_most SECONDS: sets a deadline for all waiting from now on.
wait_at_most() { deadline=$(($(date +%s) + $1)); }

# check_health CONTAINER: runs its health check now; Docker would first run it after 30 seconds.
check_health() {
	check=$(docker container inspect --format '{{range slice .Config.Healthcheck.Test 1}}{{println .}}{{end}}' "$1") || return
	# Each line is one word of the command.
	(
		set -f
		IFS='
'
		# shellcheck disable=SC2086
		docker exec "$1" $check
	)
}

# until_passes CONTAINER WHAT COMMAND...: repeats COMMAND until it succeeds. Fails with WHAT and COMMAND's
# last output after the deadline, or when the container keeps restarting.
until_passes() {
	container=$1 what=$2
	shift 2
	until output=$("$@" 2>&1); do
		restarts=$(docker container inspect --format '{{.RestartCount}}' "$container" 2>/dev/null || echo 0)
		[ "$restarts" -lt 4 ] || fail "$container keeps restarting"
		[ "$(date +%s)" -lt "$deadline" ] || fail "$container $what: $output"
		sleep 0.3
	done
}

until_healthy() { until_passes "$1" 'does not pass its health check' check_health "$1"; }

# show_log CONTAINER: prints its state and the last lines of its log.
show_log() {
	printf -- '--- %s: %s; its last lines:\n' "$1" \
		"$(docker container inspect --format '{{.State.Status}}, exit code {{.State.ExitCode}}, restarted {{.RestartCount}} times' "$1" 2>&1)" >&2
	docker container logs --tail 20 "$1" >&2 2>&1
}
