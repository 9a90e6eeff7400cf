#!/bin/sh
# Waits, on the Docker host, until the builder can build; says why when it cannot.
# Usage: sh -s -- DAEMON GATEWAY KEYS_SHA256 SOCKET FOLDER SECONDS GUARD JANITOR < readiness.sh
#   SOCKET  where the daemon listens; the guard's is beside it
#   FOLDER  where the daemon has the cache volume; a note in it tells who wrote it last
#   GUARD   its container, or nothing where there is none
set -u
daemon=$1 gateway=$2 keys_sha256=$3 socket=$4 folder=$5 seconds=$6 guard=$7 janitor=$8
guarded=${socket%/*}/guard.sock
deadline=$(($(date +%s) + seconds))

show_log() {
	printf -- '--- %s: %s; its last lines:\n' "$1" \
		"$(docker container inspect --format '{{.State.Status}}, exit code {{.State.ExitCode}}, restarted {{.RestartCount}} times' "$1" 2>&1)" >&2
	docker container logs --tail 20 "$1" >&2 2>&1
}

fail() {
	printf 'The builder is not ready: %s.\n' "$1" >&2
	show_log "$daemon"
	show_log "$gateway"
	show_log "$janitor"
	printf 'Next: mend the cause and run pulumi up again; nothing has to be removed.\n' >&2
	exit 1
}

# until_passes CONTAINER WHAT COMMAND...: repeats COMMAND until it succeeds; fails with its last
# words when time is up or the container keeps ending.
until_passes() {
	container=$1 what=$2
	shift 2
	until said=$("$@" 2>&1); do
		restarts=$(docker container inspect --format '{{.RestartCount}}' "$container" 2>/dev/null || echo 0)
		[ "$restarts" -lt 4 ] || fail "$what, its container ends again and again"
		[ "$(date +%s)" -lt "$deadline" ] || fail "$what: $said"
		sleep 0.3
	done
}

in_daemon() { docker exec --user 1000:1000 "$daemon" sh -c "$@"; }

# drain.sh takes the sockets away; here they are back even if nothing was replaced after it.
# shellcheck disable=SC2016
until_passes "$daemon" 'the daemon does not answer' in_daemon '
	for socket; do test -e "$socket" || mv "$socket.away" "$socket" 2>/dev/null; done
	docker version --format "{{.Server.Version}}"' sh "$socket" "$guarded"
version=$said
# shellcheck disable=SC2016
until_passes "$gateway" 'the gateway does not pass its health check' docker exec "$gateway" sh -c '
	bash /usr/local/lib/gateway/health && sha256sum /access/authorized_keys'
[ "${said%% *}" = "$keys_sha256" ] || fail "the gateway's authorized keys are not the configured ones"
[ -z "$guard" ] || until_passes "$guard" 'the guard does not pass a Docker API ping' docker exec "$guard" python3 -m guard ping "$guarded"
# Its own health check, before Docker runs it: it has made a whole round.
# shellcheck disable=SC2016
until_passes "$janitor" 'the janitor does not work' sh -c '
	set -f
	check=$(docker container inspect --format "{{range slice .Config.Healthcheck.Test 1}}{{println .}}{{end}}" "$1") || exit 1
	IFS="
"
	docker exec "$1" $check' sh "$janitor"

# A first build, and a note for cache/check.sh: the release (major.minor) and the storage driver that
# the cache belongs to.
# shellcheck disable=SC2016
said=$(in_daemon '
	image=$(printf "FROM scratch\nLABEL docker-build-machine.readiness=1\n" | DOCKER_BUILDKIT=1 docker build --quiet -) &&
		docker image rm "$image" >/dev/null || exit 1
	release=$(docker info --format "{{.ServerVersion}} {{.Driver}}") || exit 3
	echo "$release" | sed "s/^\([0-9]*\.[0-9]*\)[^ ]*/\1/" >"$1/docker-build-machine.note" || exit 2' \
	sh "$folder" 2>&1)
case $? in
0) ;;
2) fail "the cache cannot be written: $said" ;;
3) fail "the daemon does not tell its release: $said" ;;
*) fail "a first build failed: $said" ;;
esac
printf 'daemon %s\n' "$version"
