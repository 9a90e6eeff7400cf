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

# cap_limits FILE: lowers the limits that a container asks for itself (--ulimit) to the largest that runc
# can set. FILE is the container's config.json, or the process.json of an exec.
cap_limits() {
	grep -q '"RLIMIT_' "$1" || return 0
	# The awk program has the same limits as runc; its columns are those of proc(5).
	capped=$(awk '
		BEGIN {
			type["Max processes"] = "NPROC"; type["Max open files"] = "NOFILE"; type["Max locked memory"] = "MEMLOCK"
			while ((getline line <"/proc/self/limits") > 0) {
				name = substr(line, 1, 26); sub(/ +$/, "", name); split(substr(line, 27), column, " ")
				if (name in type && column[2] != "unlimited") most[type[name]] = column[2]
			}
		}
		function least(number, limit) { return number + 0 > limit + 0 ? limit : number }
		{
			for (name in most)
				if (match($0, "\"RLIMIT_" name "\",\"hard\":[0-9]+,\"soft\":[0-9]+")) {
					split(substr($0, RSTART, RLENGTH), part, /[:,]/)
					$0 = substr($0, 1, RSTART - 1) part[1] ",\"hard\":" least(part[3], most[name]) ",\"soft\":" \
						least(part[5], most[name]) substr($0, RSTART + RLENGTH)
				}
			print
		}' "$1")
	printf '%s\n' "$capped" >"$1"
}

verb='' bundle='' process='' container=''
for word; do
	shift
	case $word in
	--systemd-cgroup) [ -z "${BUILDER_CGROUPS:-}" ] || continue ;;
	create | run | exec) verb=$word ;;
	esac
	case $container in
	--bundle) bundle=$word ;;
	--process) process=$word ;;
	esac
	container=$word
	set -- "$@" "$word"
done
# The kernel counts all processes of the daemon's user. runc's other verbs get no limit, so that a
# container can always be stopped. The option is -p in dash and -u in Alpine's shell.
# shellcheck disable=SC3045
[ -z "$verb" ] || ulimit -p "$BUILDER_PROCESSES" 2>/dev/null || ulimit -u "$BUILDER_PROCESSES"
for file in ${bundle:+"$bundle/config.json"} ${process:+"$process"}; do cap_limits "$file"; done
case ${BUILDER_CGROUPS:+$verb} in create | run) make_group ;; esac
IFS=:
for folder in $PATH; do
	[ "$folder/runc" = "$0" ] || ! [ -x "$folder/runc" ] || exec "$folder/runc" "$@"
done
echo "runc: not found on $PATH" >&2
exit 127
