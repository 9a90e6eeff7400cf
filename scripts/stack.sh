# shellcheck shell=bash
# The commands that source this share its variables.
# shellcheck disable=SC2034,SC2154
# The stack of this run. The configuration of `dev` belongs to this machine and is in .state; that of a team
# is Pulumi.<team>.yaml, for git. The state of all stacks is in .state.

# choose_stack: sets the configuration file and the client folder of STACK, and of_stack, the words that name
# it in a `make` command. Each stack has its own client, because teams do not share keys.
choose_stack() {
	stack_config=$STATE/Pulumi.$STACK.yaml CLIENT=$STATE/client of_stack=''
	[[ $STACK == dev ]] || stack_config=$ROOT/Pulumi.$STACK.yaml CLIENT=$STATE/clients/$STACK of_stack=" STACK=$STACK"
	export CLIENT
}
choose_stack

have_key() {
	mkdir -p "$CLIENT"
	[[ -f $CLIENT/id_ed25519 ]] || quietly 'Client key' ssh-keygen -q -t ed25519 -N '' -C "$(id -un)@$(hostname)" -f "$CLIENT/id_ed25519"
}

# is_remote: whether the stack's host is another machine.
is_remote() { grep -q '^ *docker-build-machine:host: ssh://' "$ROOT/Pulumi.$STACK.yaml" "$stack_config" 2>/dev/null; }

have_stack() {
	[[ -f $ROOT/Pulumi.$STACK.yaml ]] || fail "STACK = $STACK has no Pulumi.$STACK.yaml; next: make team NAME=$STACK"
	have_key
	if [[ $STACK != dev ]]; then
		pulumi --cwd "$ROOT" stack ls --json | grep -q "\"name\": \"$STACK\"" ||
			quietly "Stack $STACK" pulumi --cwd "$ROOT" --non-interactive stack init "$STACK" --no-select
		local image
		for image in daemonImage=$daemon_image gatewayImage=$gateway_image guardImage=$guard_image; do
			[[ ${image#*=} != localhost/* ]] || quietly "Stand-in ${image%%=*}" pulumi --cwd "$ROOT" config set --stack "$STACK" "${image%%=*}" "${image#*=}"
		done
		return
	fi
	mkdir -p "$STATE/project"
	# `stack init` writes the encryption salt beside Pulumi.yaml; a separate project folder keeps the
	# committed Pulumi.dev.yaml clean.
	if ! ls "$STATE"/backend/.pulumi/stacks/*/"$STACK".json >/dev/null 2>&1; then
		printf 'name: docker-build-machine\nruntime: python\n' >"$STATE/project/Pulumi.yaml"
		quietly "Stack $STACK" pulumi --cwd "$STATE/project" --non-interactive stack init "$STACK" --no-select
	fi
	"$ROOT/.venv/bin/python" "$ROOT/scripts/stack_config.py" "$ROOT/Pulumi.$STACK.yaml" "$stack_config" \
		"$CLIENT/id_ed25519.pub" "$daemon_image" "$gateway_image" "$guard_image"
}

# stack COMMAND...: runs pulumi COMMAND on this stack.
stack() {
	local command=$1
	shift
	(cd "$ROOT" && pulumi --non-interactive "$command" --stack "$STACK" --config-file "$stack_config" "$@" 9>&-)
}

output() { (cd "$ROOT" && pulumi stack output --stack "$STACK" "$1"); }

# setting NAME: its value in the stack's configuration, or the default.
setting() { (cd "$ROOT" && pulumi config get --stack "$STACK" --config-file "$stack_config" "$1"); }
