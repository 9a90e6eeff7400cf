# shellcheck shell=bash
# The commands that source this share its variables.
# shellcheck disable=SC2034,SC2154
# A client on this machine, with a kit and a home in .state, and a first build through the builder.

kit=$CLIENT/kit

have_kit() {
	quietly 'Client kit' "$ROOT/.venv/bin/python" -m client kit --stack "$STACK" --config-file "$stack_config" \
		--key "$CLIENT/id_ed25519.pub" --out "$kit"
}

# in_client_home COMMAND...: runs COMMAND with a home in .state; ssh too, which otherwise uses the home in
# /etc/passwd.
in_client_home() { HOME=$CLIENT/home BUILDER_HOME=$STATE/b PATH=$CLIENT/bin:$PATH "$@" 9>&-; }

have_client() {
	local real_ssh
	hash -r
	real_ssh=$(type -aP ssh | grep -v "^$STATE" | head -n 1)
	mkdir -p "$CLIENT/bin" "$CLIENT/home"
	printf '#!/bin/sh\nexec %s -F %q "$@"\n' "$real_ssh" "$CLIENT/home/.ssh/config" >"$CLIENT/bin/ssh"
	chmod 0755 "$CLIENT/bin/ssh"
	alias=$(output sshAlias)
	quietly 'Install the kit' in_client_home sh "$kit/builder" install --identity "$CLIENT/id_ed25519"
	eval "$(in_client_home "$STATE/b/builder" env "$alias" 2>"$STATE/log/builder-env.log")"
	[[ -n ${DOCKER_HOST:-} ]] || {
		cat "$STATE/log/builder-env.log" >&2
		in_client_home "$STATE/b/builder" doctor "$alias" >&2 || true
		fail 'the client does not reach the builder; next: see the lines above'
	}
	client_docker_host=$DOCKER_HOST
	unset DOCKER_HOST
}

# client COMMAND...: runs COMMAND as a client of the builder.
client() { PATH=$CLIENT/bin:$PATH DOCKER_HOST=$client_docker_host DOCKER_BUILDKIT=1 "$@" 9>&-; }

# Leaves no connection and no process.
end_client() { in_client_home "$STATE/b/builder" uninstall "$alias" 2>/dev/null; }

first_build() {
	if [[ $base_image == localhost/* ]]; then
		docker save "$base_image" | client docker load >/dev/null
	fi
	local start pass log=$STATE/log/first-build.log
	for pass in first again; do
		start=$(date +%s%N)
		step "docker build through the builder ($pass)"
		client docker build --progress=plain --build-arg "BASE=$base_image" --tag first-build "$ROOT/scripts/first-build" >"$log" 2>&1 || {
			tail -n 20 "$log" >&2
			fail 'the build failed; the full log is .state/log/first-build.log'
		}
		note "done ($((($(date +%s%N) - start) / 1000000)) ms, $(grep -c CACHED "$log") steps CACHED)"
	done
}
