# shellcheck shell=bash
# Everything that belongs to this machine is in .state and .venv, which git ignores.

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

# without_stack WORD: refuses STACK for a command that does not work on one stack.
without_stack() {
	[[ -z $given_stack ]] || fail "STACK = $given_stack: make $1 does not work on a single stack; next: make $1 without STACK"
}

# in_docker_group: restarts this run with the groups that /etc/group has now.
this_run=("$ROOT/scripts/${0##*/}" "$@")
in_docker_group() {
	command -v sudo >/dev/null || fail "$(id -un) is in Docker's group, but this login is older; next: log in again"
	exec 9>&- # sudo would keep the lock
	exec sudo --preserve-env --user "$(id -un)" -- env JOINED_DOCKER_GROUP=yes STACK="$given_stack" HOME="$HOME" PATH="$PATH" "${this_run[@]}"
}
# A user who joined the group after this login, as make up does with sudo, may use Docker at once.
docker_socket=/var/run/docker.sock
if [[ -z ${JOINED_DOCKER_GROUP:-} && -S $docker_socket && ! -w $docker_socket ]] &&
	[[ " $(id -nG "$(id -un)") " == *" $(stat -c %G "$docker_socket") "* ]]; then
	in_docker_group
fi

# Only one run at a time. Whatever starts in the background closes file descriptor 9.
exec 9>"$STATE/lock"
flock -n 9 || fail "another make runs in this folder; next: wait until it has ended"
