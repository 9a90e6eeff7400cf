# shellcheck shell=bash
# How scripts reach a builder's host: as the program does, with the host key that is pinned.

# reach_host URL HOST_KEY FOLDER: from here on docker speaks to that host. Where HOST_KEY is given, ssh
# takes that key alone, by an `ssh` in FOLDER that docker finds first.
reach_host() {
	export DOCKER_HOST=$1
	[[ $1 == ssh://* && -n $2 ]] || return 0
	local ssh options
	ssh=$(command -v ssh) || fail 'ssh is missing; next: install openssh-client'
	options=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && python -m scripts.ssh_options "$2") ||
		fail "the ssh options for hostKey = $2 could not be had (the lines above say why); next: run this with the program's own environment (. .venv/bin/activate)"
	mkdir -p "$3"
	printf '#!/bin/sh\nexec %s %s "$@"\n' "$ssh" "$options" >"$3/ssh"
	chmod 0755 "$3/ssh"
	export PATH=$3:$PATH
}
