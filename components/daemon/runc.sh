#!/bin/sh
# Comes before the real runc on the daemon's PATH and limits the processes of containers and build steps,
# which inherit runc's limits. dockerd itself has no limit, so it still works when they have reached theirs.
set -eu

# make_group: makes a container's control group, below those that `cgroups enter` made. The group gets the
# limits of the whole builder, because programs such as the JVM and Go size themselves by their own group;
# runc then overwrites them with the container's own limits.
make_group() {
	containers=/sys/fs/cgroup/user.slice/user-$ROOTLESSKIT_PARENT_EUID.slice
	# Without systemd runc makes the container's group next to the group that runc itself is in.
	echo $$ >"$containers/runc/cgroup.procs"
	group=$(sed -n 's/.*"cgroupsPath":"\([^"]*\)".*/\1/p' "$bundle/config.json")
	group=$containers/${group:-$container}
	mkdir -p "$group"
	for file in memory.max cpu.max; do
		! [ -e "/run/container-cgroup/$file" ] || ! [ -e "$group/$file" ] ||
			cat "/run/container-cgroup/$file" >"$group/$file"
	done
}

verb='' bundle='' container=''
for word; do
	shift
	case $word in
	--systemd-cgroup) [ -z "${BUILDER_CGROUPS:-}" ] || continue ;;
	create | run | exec) verb=$word ;;
	esac
	[ "$container" != --bundle ] || bundle=$word
	container=$word
	set -- "$@" "$word"
done
# The kernel counts all processes of the daemon's user. runc's other verbs get no limit, so that a
# container can always be stopped. The option is -p in dash and -u in Alpine's shell.
# shellcheck disable=SC3045
[ -z "$verb" ] || ulimit -p "$BUILDER_PROCESSES" 2>/dev/null || ulimit -u "$BUILDER_PROCESSES"
case ${BUILDER_CGROUPS:+$verb} in create | run) make_group ;; esac
IFS=:
for folder in $PATH; do
	[ "$folder/runc" = "$0" ] || ! [ -x "$folder/runc" ] || exec "$folder/runc" "$@"
done
echo "runc: not found on $PATH" >&2
exit 127
