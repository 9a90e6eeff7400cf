#!/bin/sh
# Runs as root in the daemon's container, before the daemon, and gives the daemon's user what only root can
# give; then runs COMMAND.
# Usage: grants COMMAND...
set -eu
user=rootless

# widen FILE MAP: extends the user's range in FILE (subuid(5)) to all higher ids that this container has
# according to MAP. The image's range ends at about 65535 in builds.
widen() {
	range=$(awk -v user="$user" '
		FNR == NR { split($0, field, ":"); if (field[1] == user) next_id = field[2] + field[3] }
		FNR != NR && next_id && $1 <= next_id && next_id < $1 + $3 {
			printf "%s:%.0f:%.0f\n", user, next_id, $1 + $3 - next_id
		}' "$1" "$2")
	[ -z "$range" ] || echo "$range" >>"$1"
}
widen /etc/subuid /proc/self/uid_map
widen /etc/subgid /proc/self/gid_map

# Docker copies the mode of the host's device, which may be for root alone.
! [ -c /dev/fuse ] || chmod 0666 /dev/fuse || echo 'grants: containers cannot use /dev/fuse' >&2

exec "$@"
