# shellcheck shell=bash
# Repairs after a `pulumi up` that was killed: its lock, and what it created without recording it.

. scripts/host.sh

# Nobody else may work on the stack meanwhile. Containers and networks hold no data, so those that the state
# does not have are removed.
repair_interruption() {
	local state
	if stack_is_locked; then
		quietly 'Remove the lock of an interrupted pulumi' cancel_update
	fi
	state=$(cd "$ROOT" && pulumi stack export --stack "$STACK")
	pending_operations <<<"$state" || return 0
	step 'Repair after an interrupted pulumi up'
	remove_unknown "$state"
	quietly 'Read the current state of the host' stack refresh --parallel 8 --yes --skip-preview --clear-pending-creates
}

# remove_unknown STATE: removes what belongs to this stack on the host and is not in its state. In a
# subshell, because docker uses the host in here.
remove_unknown() (
	reach_host "$(setting host)" "$(setting hostKey)" "${STATE:?}/host"
	owner=docker-build-machine/$STACK/builder
	for kind in container network; do
		every=() force=()
		[[ $kind == network ]] || { every=(--all) && force=(--force --volumes); }
		listed=$(docker "$kind" ls "${every[@]}" --quiet --no-trunc --filter "label=docker-build-machine.owner=$owner") ||
			fail "the ${kind}s on $DOCKER_HOST cannot be listed (the lines above say why); next: repair that and run this again"
		for id in $listed; do
			[[ $1 == *"$id"* ]] || quietly "Remove the $kind ${id:0:12}" docker "$kind" rm "${force[@]}" "$id"
		done
	done
)

cancel_update() { (cd "$ROOT" && pulumi --non-interactive cancel --yes --stack "$STACK"); }

stack_is_locked() { compgen -G "${PULUMI_BACKEND_URL#file://}/.pulumi/locks/*/*/$STACK/*.json" >/dev/null; }

pending_operations() {
	python3 -c 'import json, sys; sys.exit(not json.load(sys.stdin)["deployment"].get("pending_operations"))'
}
