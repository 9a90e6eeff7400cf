# shellcheck shell=bash
# A client on this machine: its ssh configuration in .state, and a first build through the builder.

have_client() {
	local real_ssh
	hash -r
	real_ssh=$(type -aP ssh | grep -v "^$STATE" | head -n 1)
	mkdir -p "$CLIENT/bin"
	# ssh ends at once when the folder of its ControlPath is missing.
	[[ -d $HOME/.ssh ]] || mkdir -m 0700 "$HOME/.ssh"
	{
		output sshConfig | sed "/^$/d"
		echo "  IdentityFile $CLIENT/id_ed25519"
		echo '  IdentitiesOnly yes'
	} >"$CLIENT/ssh_config"
	printf '#!/bin/sh\nexec %s -F %q "$@"\n' "$real_ssh" "$CLIENT/ssh_config" >"$CLIENT/bin/ssh"
	chmod 0755 "$CLIENT/bin/ssh"
}

# client COMMAND...: as a client of the builder.
client() { PATH=$CLIENT/bin:$PATH DOCKER_HOST=ssh://$(output sshAlias) DOCKER_BUILDKIT=1 "$@" 9>&-; }

first_build() {
	if [[ $base_image == localhost/* ]]; then
		docker save "$base_image" | client docker load >/dev/null
	fi
	local start pass log=$STATE/log/first-build.log
	for pass in first again; do
		start=$(date +%s%N)
		step "docker build through the builder ($pass)"
		client docker build --progress=plain --build-arg "BASE=$base_image" --tag first-build "$ROOT/machine/first-build" >"$log" 2>&1 || {
			tail -n 20 "$log" >&2
			fail 'the build failed; the whole log is .state/log/first-build.log'
		}
		note "done ($((($(date +%s%N) - start) / 1000000)) ms, $(grep -c CACHED "$log") steps CACHED)"
	done
}
