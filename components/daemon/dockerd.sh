#!/bin/sh
# Comes before the real dockerd on PATH and runs in the daemon's namespaces: decides how many processes
# containers and build steps may have, gives dockerd the control groups that `cgroups setup` made, and the
# BuildKit folder of its image store.
set -eu

# The smallest of the setting and the limits of host and container. The daemon keeps a reserve, because
# it exits when it cannot start a thread.
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
		# In rootless mode dockerd sets limits only with this driver. systemd is not involved: runc.sh
		# removes --systemd-cgroup, so that runc makes the groups itself.
		set -- --exec-opt native.cgroupdriver=systemd "$@"
	else
		unset BUILDER_CGROUPS
		echo "cgroups: limits of single containers do not work: $output" >&2
	fi
fi

# BuildKit has the keys of its cache in one file for all image stores, and drops at each start those that its
# store lacks. So the folder of the other store is put aside.
(
	cd @data@
	case $BUILDER_IMAGE_STORE in
	containerd) other=overlay2 made_by_it=buildkit/containerd-overlayfs ;;
	*) other=containerd made_by_it=buildkit/snapshots.db ;;
	esac
	own=buildkit.$BUILDER_IMAGE_STORE aside=buildkit.$other
	if [ -d "$own" ] || { [ -d buildkit ] && [ ! -d "$aside" ] && [ ! -e "$made_by_it" ]; }; then
		[ ! -d buildkit ] || mv buildkit "$aside"
		[ ! -d "$own" ] || mv "$own" buildkit
	fi
)
# Only dockerd and the containerd that it starts export traces: buildx, which runs beside them, would too.
if [ -n "${BUILDER_TRACES:-}" ]; then
	export OTEL_EXPORTER_OTLP_TRACES_ENDPOINT="$BUILDER_TRACES/v1/traces" OTEL_EXPORTER_OTLP_TRACES_PROTOCOL=http/protobuf
	export OTEL_RESOURCE_ATTRIBUTES="service.instance.id=$BUILDER_TRACES_FROM"
fi
IFS=:
for folder in $PATH; do
	[ "$folder/dockerd" = "$0" ] || ! [ -x "$folder/dockerd" ] || exec "$folder/dockerd" "$@"
done
echo "dockerd: not found on $PATH" >&2
exit 127
