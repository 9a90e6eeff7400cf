# shellcheck shell=bash
# The stack `dev` on this machine: its configuration and state are kept in .state, not in git.

stack_config=$STATE/Pulumi.$STACK.yaml

have_stack() {
	mkdir -p "$STATE/client" "$STATE/project"
	[[ -f $STATE/client/id_ed25519 ]] || quietly 'Client key' ssh-keygen -q -t ed25519 -N '' -C "$(id -un)@$(hostname)" -f "$STATE/client/id_ed25519"
	# `stack init` writes the encryption salt beside Pulumi.yaml; a project folder of its own keeps
	# the committed Pulumi.dev.yaml clean.
	if ! ls "$STATE"/backend/.pulumi/stacks/*/"$STACK".json >/dev/null 2>&1; then
		printf 'name: docker-build-machine\nruntime: python\n' >"$STATE/project/Pulumi.yaml"
		quietly "Stack $STACK" pulumi --cwd "$STATE/project" --non-interactive stack init "$STACK" --no-select
	fi
	"$ROOT/.venv/bin/python" "$ROOT/machine/stack_config.py" "$ROOT/Pulumi.$STACK.yaml" "$stack_config" \
		"$STATE/client/id_ed25519.pub" "$daemon_image" "$gateway_image"
}

# stack COMMAND...: pulumi on this stack.
stack() {
	local command=$1
	shift
	(cd "$ROOT" && pulumi --non-interactive "$command" --stack "$STACK" --config-file "$stack_config" "$@" 9>&-)
}

output() { (cd "$ROOT" && pulumi stack output --stack "$STACK" "$1"); }

# setting NAME: its value in the stack's configuration, or the default.
setting() { (cd "$ROOT" && pulumi config get --stack "$STACK" --config-file "$stack_config" "$1"); }
