#!/bin/sh
# Stands before the real runc on the daemon's PATH. Containers and build steps inherit what runc is
# started with, and dockerd itself keeps no limit, so that it works on when they have used theirs up.
set -eu

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

starts='' bundle='' container=''
for word; do
	shift
	case $word in
	--systemd-cgroup) [ -z "${BUILDER_CGROUPS:-}" ] || continue ;;
	create | run | exec) starts=$word ;;
	esac
	[ "$container" != --bundle ] || bundle=$word
	container=$word
	set -- "$@" "$word"
done
# The kernel counts all that the daemon's user runs. What ends a container must start in any case.
# dash calls it -p, the shell of Alpine -u.
# shellcheck disable=SC3045
[ -z "$starts" ] || ulimit -p "$BUILDER_PROCESSES" 2>/dev/null || ulimit -u "$BUILDER_PROCESSES"
case ${BUILDER_CGROUPS:+$starts} in create | run) in_group ;; esac
IFS=:
for folder in $PATH; do
	[ "$folder/runc" = "$0" ] || ! [ -x "$folder/runc" ] || exec "$folder/runc" "$@"
done
echo "runc: not found on $PATH" >&2
exit 127
