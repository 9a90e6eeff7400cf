# shellcheck shell=sh
# Runs on the Docker host: waits until the registry's containers are healthy and the upstreams serve the mirrors,
# or prints what is wrong.
# Usage: cat health.sh readiness.sh | sh -s -- SECONDS UPSTREAM STORE [MIRROR REPOSITORY]...
#   UPSTREAM    upstream.sh in a mirror's container
#   REPOSITORY  which the mirror's login reaches; -: none is known, so a refusal may be about the repository
set -u
seconds=$1 upstream=$2 store=$3
shift 3
names=$store
number=0
for word; do
	number=$((number + 1))
	[ $((number % 2)) -eq 0 ] || names="$names $word"
done
# shellcheck disable=SC2086
report_on registry $names
wait_at_most "$seconds"
for container in $names; do until_healthy "$container"; done

while [ $# -gt 0 ]; do
	mirror=$1 repository=$2
	shift 2
	[ "$repository" != - ] || repository=library/hello-world known=no
	verdict=$(docker exec "$mirror" sh "$upstream" "$repository" 2>&1)
	case $verdict:${known:-yes} in
	ok:* | 'refused '*:no) ;;
	'refused '*) fail "the upstream of $mirror refuses its login, or $repository to it (${verdict#* }); correct user and token, with pulumi config set --secret" ;;
	'limited '*) printf 'The upstream of %s serves it no more for a while (%s). Builds pull without the mirror meanwhile. Next: a login (registry.user and registry.token) has a higher limit.\n' "$mirror" "${verdict#* }" >&2 ;;
	*) fail "the upstream of $mirror does not serve it: ${verdict#failed }" ;;
	esac
	unset known
done
echo ready
