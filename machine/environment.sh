# shellcheck shell=bash
# Where everything of this machine is kept: below .state and .venv, out of git.

ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
STATE=$ROOT/.state
STACK=${STACK:-dev}
export ROOT STATE STACK
export PATH=$STATE/bin:$ROOT/.venv/bin:$PATH
export PULUMI_BACKEND_URL=file://$STATE/backend
export PULUMI_CONFIG_PASSPHRASE_FILE=$STATE/passphrase
export PULUMI_SKIP_UPDATE_CHECK=1
umask 022
# Each stack has a client of its own: one team's key is not another's.
CLIENT=$STATE/client
[[ $STACK == dev ]] || CLIENT=$STATE/clients/$STACK
export CLIENT
mkdir -p "$STATE/bin" "$STATE/log" "$STATE/backend"

. machine/terminal.sh

# Two at a time would step on each other's toes; whatever is started in the background closes 9.
exec 9>"$STATE/lock"
flock -n 9 || fail "another make is at work in this folder; next: wait until it has ended"
