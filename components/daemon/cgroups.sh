#!/bin/sh
# Gives the daemon a subtree of its container's control groups (version 2), so that the limits of single
# containers work. When this fails, it prints the reason and the daemon starts without the subtree.
# Usage: cgroups setup COMMAND...   as root, before the daemon starts: makes the subtree, then runs
#                                   COMMAND
#        cgroups divide             as root of a user namespace and a cgroup namespace: `setup` runs it
#                                   there
#        cgroups enter PROCESSES    as root of the daemon's namespaces: mounts the subtree as the
#                                   daemon's own tree and limits containers and build steps together
#                                   to PROCESSES processes
# The tree below the container's own group, whose limits stay those of the host's Docker:
#   builder                          belongs to the daemon's user, root of the daemon's cgroup namespace
#   builder/daemon                   the daemon and every process that was there before it
#   builder/user.slice/user-N.slice  containers and build steps, where dockerd looks for the controllers
set -eu
user=rootless
tree=/sys/fs/cgroup
# Where the daemon's scripts read the limits of the container itself.
outer=/run/container-cgroup
controllers='cpu cpuset hugetlb io memory pids'

# vacate GROUP LEAF: moves all processes of GROUP to LEAF. A group that passes controllers on must hold
# no process of its own.
vacate() {
	tries=0 output=
	while processes=$(grep -vx 0 "$1/cgroup.procs"); do
		tries=$((tries + 1))
		[ "$tries" -le 200 ] || {
			echo "the processes $(echo "$processes" | tr '\n' ' ')stay in $1: $output"
			return 1
		}
		# A process that has ended meanwhile cannot be moved.
		for process in $processes; do output=$( (echo "$process" >"$2/cgroup.procs") 2>&1) || :; done
	done
}

# pass_on GROUP: makes the controllers of GROUP available to the groups below it.
pass_on() {
	for controller in $controllers; do
		! grep -qw "$controller" "$1/cgroup.controllers" || echo "+$controller" >"$1/cgroup.subtree_control"
	done
}

divide() {
	folder=$(mktemp -d)
	mount -n -t cgroup2 cgroup2 "$folder"
	mkdir -p "$folder/builder"
	vacate "$folder" "$folder/builder"
	pass_on "$folder"
	cd "$folder/builder"
	# A quota for this builder: the kernel allows 65535 groups on the whole host.
	echo 2048 >cgroup.max.descendants
	# In this user namespace the daemon's user has the id 1.
	chown 1:1 . cgroup.procs cgroup.subtree_control cgroup.threads
	cd /
	umount -n "$folder"
	rmdir "$folder"
}

# Root can mount its control groups in namespaces that it owns, without any capability on the host.
# RootlessKit makes these namespaces.
setup() {
	[ -e "$tree/cgroup.controllers" ] || {
		echo 'the host has control groups of version 1'
		return 1
	}
	for kind in uid gid; do
		range=root:$(if [ "$kind" = uid ]; then id -u "$user"; else id -g "$user"; fi):1
		grep -qx "$range" "/etc/sub$kind" || echo "$range" >>"/etc/sub$kind" || return 1
	done
	state=$(mktemp -d) || return 1
	output=$(rootlesskit --cgroupns --state-dir="$state" sh "$0" divide 2>&1) || {
		echo "$output" | grep -v 'is unsupported'
		return 1
	}
}

enter() {
	folder=/run/builder-cgroup
	containers=$folder/user.slice/user-$ROOTLESSKIT_PARENT_EUID.slice
	mkdir -p "$folder" "$outer"
	mount -n -t cgroup2 cgroup2 "$folder"
	mkdir -p "$folder/daemon" "$containers/runc"
	vacate "$folder" "$folder/daemon"
	for group in "$folder" "${containers%/*}" "$containers"; do pass_on "$group"; done
	! [ -e "$containers/pids.max" ] || echo "$1" >"$containers/pids.max"
	# These two come last: if an earlier step fails, the daemon still finds its tree as it was.
	mount -n --move "$tree" "$outer"
	mount -n --move "$folder" "$tree"
}

case $1 in
setup)
	shift
	if output=$(setup 2>&1); then
		export BUILDER_CGROUPS=ready DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS="${DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS:-} --cgroupns"
	else
		echo "cgroups: limits of single containers do not work: $output" >&2
	fi
	exec "$@"
	;;
divide) divide ;;
enter)
	enter "$2"
	;;
*) exit 2 ;;
esac
