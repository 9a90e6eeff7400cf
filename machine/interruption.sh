# shellcheck shell=bash
# An earlier `pulumi up` that was killed: its lock, and what it made without noting it down.

# Nobody else may be at work on the stack.
# Containers and networks hold nothing of their own, so what the state does not know is removed.
mend_interruption() {
	local host owner=docker-build-machine/$STACK/builder state kind id every force
	if stack_is_locked; then
		quietly 'Lift the lock of an interrupted pulumi' cancel_update
	fi
	state=$(cd "$ROOT" && pulumi stack export --stack "$STACK")
	pending_operations <<<"$state" || return 0
	host=$(setting host)
	step 'Mend an interrupted pulumi up'
	for kind in container network; do
		every='' force=''
		[[ $kind == network ]] || { every=--all && force=--force; }
		while read -r id; do
			[[ $state == *"$id"* ]] || quietly "Remove the $kind ${id:0:12}" docker --host "$host" "$kind" rm ${force:+"$force"} "$id"
		done < <(docker --host "$host" "$kind" ls ${every:+"$every"} --quiet --no-trunc --filter "label=docker-build-machine.owner=$owner")
	done
	quietly 'Read what there is' stack refresh --parallel 8 --yes --skip-preview --clear-pending-creates
}

cancel_update() { (cd "$ROOT" && pulumi --non-interactive cancel --yes --stack "$STACK"); }

stack_is_locked() { compgen -G "${PULUMI_BACKEND_URL#file://}/.pulumi/locks/*/*/$STACK/*.json" >/dev/null; }

pending_operations() {
	python3 -c 'import json, sys; sys.exit(not json.load(sys.stdin)["deployment"].get("pending_operations"))'
}
