#!/bin/sh
# Stands before the real dockerd on PATH, in the daemon's namespaces: decides how many processes
# containers and build steps may have, and gives dockerd the control groups that `cgroups lay` made.
set -eu

# The least of the setting and of what host and container have, less a reserve for the daemon itself:
# one that cannot start a thread ends.
processes=@processes@
reserve=@reserve@
for file in /sys/fs/cgroup/pids.max /sys/fs/cgroup/pids/pids.max /proc/sys/kernel/pid_max /proc/sys/kernel/threads-max; do
	[ -r "$file" ] || continue
	limit=$(cat "$file")
	[ "$limit" != max ] || continue
	if [ "$limit" -gt $((2 * reserve)) ]; then limit=$((limit - reserve)); else limit=$((limit / 2)); fi
	[ "$limit" -ge "$processes" ] || {
		processes=$limit
		echo "processes: the setting is @processes@, builds have $limit: $file is $(cat "$file")" >&2
	}
done
export BUILDER_PROCESSES="$processes"

if [ -n "${BUILDER_CGROUPS:-}" ]; then
	if output=$(sh /usr/local/lib/daemon/cgroups enter "$processes" 2>&1); then
		# dockerd knows no other driver for limits in rootless mode. No systemd is asked: runc, behind
		# its own script, makes the groups itself.
		set -- --exec-opt native.cgroupdriver=systemd "$@"
	else
		unset BUILDER_CGROUPS
		echo "cgroups: limits of single containers do not work: $output" >&2
	fi
fi
IFS=:
for folder in $PATH; do
	[ "$folder/dockerd" = "$0" ] || ! [ -x "$folder/dockerd" ] || exec "$folder/dockerd" "$@"
done
echo "dockerd: not found on $PATH" >&2
exit 127
