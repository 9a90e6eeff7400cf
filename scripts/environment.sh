# shellcheck shell=bash
# Where everything of this machine is kept: below .state and .venv, out of git.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STATE=$ROOT/.state
given_stack=${STACK:-}
STACK=${STACK:-dev}
export ROOT STATE STACK
export PATH=$STATE/bin:$ROOT/.venv/bin:$PATH
export PULUMI_BACKEND_URL=file://$STATE/backend
export PULUMI_CONFIG_PASSPHRASE_FILE=$STATE/passphrase
export PULUMI_SKIP_UPDATE_CHECK=1
umask 022
mkdir -p "$STATE/bin" "$STATE/log" "$STATE/backend"

. scripts/terminal.sh

# without_stack WORD: refuses STACK where `make WORD` is about no stack.
without_stack() {
	[[ -z $given_stack ]] || fail "STACK = $given_stack: make $1 is about no single stack; next: make $1 without STACK"
}

# in_docker_group: begins this run anew with the groups that /etc/group names now.
this_run=("$ROOT/scripts/${0##*/}" "$@")
in_docker_group() {
	command -v sudo >/dev/null || fail "$(id -un) is in Docker's group and this login is not; next: log in anew"
	exec 9>&- # sudo would hold the lock
	exec sudo --preserve-env --user "$(id -un)" -- env JOINED_DOCKER_GROUP=yes STACK="$given_stack" HOME="$HOME" PATH="$PATH" "${this_run[@]}"
}
# Who has joined since this login, as make up lets one with sudo do, gets in all the same.
docker_socket=/var/run/docker.sock
if [[ -z ${JOINED_DOCKER_GROUP:-} && -S $docker_socket && ! -w $docker_socket ]] &&
	[[ " $(id -nG "$(id -un)") " == *" $(stat -c %G "$docker_socket") "* ]]; then
	in_docker_group
fi

# Two at a time would step on each other's toes; whatever is started in the background closes 9.
exec 9>"$STATE/lock"
flock -n 9 || fail "another make is at work in this folder; next: wait until it has ended"
