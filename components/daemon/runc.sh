#!/bin/sh
# Stands before the real runc on the daemon's PATH. Containers and build steps inherit what runc is
# started with, and dockerd itself keeps no limit, so that it works on when they have used theirs up.
set -eu

# The kernel counts all that the daemon's user runs.
# dash calls it -p, the shell of Alpine -u.
# shellcheck disable=SC3045
ulimit -p "$BUILDER_PROCESSES" 2>/dev/null || ulimit -u "$BUILDER_PROCESSES"

# in_group: a container's control group before it starts, below the ones that `cgroups enter` made.
# It says what the whole builder has, as programs size themselves by their own group (JVM, Go); runc
# then writes the container's own limits over it.
in_group() {
	containers=/sys/fs/cgroup/user.slice/user-$ROOTLESSKIT_PARENT_EUID.slice
	# Without systemd runc makes the group beside the one that it is in.
	echo $$ >"$containers/runc/cgroup.procs"
	group=$(sed -n 's/.*"cgroupsPath":"\([^"]*\)".*/\1/p' "$bundle/config.json")
	group=$containers/${group:-$container}
	mkdir -p "$group"
	for file in memory.max cpu.max; do
		! [ -e "/run/container-cgroup/$file" ] || ! [ -e "$group/$file" ] ||
			cat "/run/container-cgroup/$file" >"$group/$file"
	done
}

if [ -n "${BUILDER_CGROUPS:-}" ]; then
	starts='' bundle='' container=''
	for word; do
		shift
		case $word in
		--systemd-cgroup) continue ;;
		create | run) starts=yes ;;
		esac
		[ "$container" != --bundle ] || bundle=$word
		container=$word
		set -- "$@" "$word"
	done
	[ -z "$starts" ] || in_group
fi
IFS=:
for folder in $PATH; do
	[ "$folder/runc" = "$0" ] || ! [ -x "$folder/runc" ] || exec "$folder/runc" "$@"
done
echo "runc: not found on $PATH" >&2
exit 127
