# shellcheck shell=bash
# How scripts reach a builder's host: like the program, with the pinned host key.

# reach_host URL HOST_KEY FOLDER: from here on docker uses that host. If HOST_KEY is not empty, ssh accepts
# only that key, through a wrapper `ssh` in FOLDER that comes first on PATH.
reach_host() {
	export DOCKER_HOST=$1
	[[ $1 == ssh://* && -n $2 ]] || return 0
	local ssh options
	ssh=$(command -v ssh) || fail 'ssh is missing; next: install openssh-client'
	options=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && python -m scripts.ssh_options "$2") ||
		fail "hostKey = $2 gives no ssh options (the lines above say why); next: correct it, or run this in the program's environment (. .venv/bin/activate)"
	mkdir -p "$3"
	printf '#!/bin/sh\nexec %s %s "$@"\n' "$ssh" "$options" >"$3/ssh"
	chmod 0755 "$3/ssh"
	export PATH=$3:$PATH
}
