# shellcheck shell=bash
# An earlier `pulumi up` that was killed: its lock, and what it made without noting it down.

. scripts/host.sh

# Nobody else may be at work on the stack.
# Containers and networks hold nothing of their own, so what the state does not know is removed.
mend_interruption() {
	local state
	if stack_is_locked; then
		quietly 'Lift the lock of an interrupted pulumi' cancel_update
	fi
	state=$(cd "$ROOT" && pulumi stack export --stack "$STACK")
	pending_operations <<<"$state" || return 0
	step 'Mend an interrupted pulumi up'
	remove_unknown "$state"
	quietly 'Read what there is' stack refresh --parallel 8 --yes --skip-preview --clear-pending-creates
}

# remove_unknown STATE: what the host has of this stack and its state does not name. In a shell of its
# own, for docker is the host's here.
remove_unknown() (
	reach_host "$(setting host)" "$(setting hostKey)" "${STATE:?}/host"
	owner=docker-build-machine/$STACK/builder
	for kind in container network; do
		every=() force=()
		[[ $kind == network ]] || { every=(--all) && force=(--force --volumes); }
		listed=$(docker "$kind" ls "${every[@]}" --quiet --no-trunc --filter "label=docker-build-machine.owner=$owner") ||
			fail "the ${kind}s on $DOCKER_HOST cannot be listed (the lines above say why); next: mend that and run this again"
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
