#!/bin/sh
# Looks, on the Docker host, at what a builder needs there.
# Usage: sh -s -- VERB OWNER PREFIX ADDRESS PORT PLATFORMS PREPARE < preflight.sh
#   VERB       look: tell what is there, change nothing, and succeed
#              check: fail where a builder cannot run; with PREPARE mend first what can be mended
#   OWNER      owner label of this builder's volumes and containers
#   PREFIX     what their names start with
#   PLATFORMS  what the host is declared to build for, by commas; empty for what it is
#   PREPARE    true or false
# CLOCK, if set, is the client's time in seconds. Standard output is a fact a line, name=value, the
# same as long as nothing changes; each shortfall is one line on standard error with the command that
# mends it. A builder that is there already is told of shortfalls of the host and not refused for
# them, so that keys can be taken out whatever has become of it.
set -u
verb=$1 owner=$2 prefix=$3 address=$4 port=$5 platforms=$6 prepare=$7
owner_label=docker-build-machine.owner
oldest_docker=20.10 oldest_kernel=5.11
least_free_mib=2048 least_free_inodes=20000 most_skew_seconds=30

shortfalls=0 conflicts=0
tell() { printf 'host: %s\n' "$1" >&2; }
# shortfall: the host lacks something; conflict: something else has what this builder wants.
shortfall() {
	shortfalls=$((shortfalls + 1))
	tell "$1"
}
conflict() {
	conflicts=$((conflicts + 1))
	tell "$1"
}
fact() { printf '%s=%s\n' "$1" "$2"; }

# mended WHAT COMMAND: whether `prepare` has run the shell COMMAND, as root, or would.
mended() {
	[ "$prepare" = true ] || return 1
	if [ "$verb" = look ]; then
		tell "$1: prepare will run: $2"
		# Before a builder's first update the fact is what it will be, so that a second changes nothing.
		[ -z "$exists" ]
		return
	fi
	if [ "$(id -u)" -eq 0 ]; then said=$(sh -c "$2" 2>&1); else said=$(sudo -n sh -c "$2" 2>&1); fi || {
		tell "prepare could not run: $2: $said"
		return 1
	}
	tell "$1: prepared: $2"
}

# older VERSION MINIMUM: whether VERSION is older than MINIMUM (major.minor).
older() {
	awk -v have="$1" -v want="$2" 'BEGIN {
		split(have, h, "[.]"); split(want, w, "[.]")
		exit !(h[1] + 0 < w[1] + 0 || (h[1] + 0 == w[1] + 0 && h[2] + 0 < w[2] + 0))
	}'
}

if ! docker_version=$(docker version --format '{{.Server.Version}}' 2>&1); then
	tell "Docker does not answer (DOCKER_HOST=${DOCKER_HOST:-default}): $docker_version"
	tell 'start it (systemctl start docker), let this user use it (usermod -aG docker USER), or correct the setting host'
	[ "$verb" = look ]
	exit
fi
exists=$(docker container ls --all --quiet --filter "name=^/$prefix-daemon\$" --filter "label=$owner_label=$owner")
if older "$docker_version" "$oldest_docker"; then
	shortfall "Docker $docker_version is too old; $oldest_docker or newer is needed: upgrade docker.io or docker-ce"
fi

kernel=$(uname -r)
if older "$kernel" "$oldest_kernel"; then
	shortfall "kernel $kernel is too old for overlay mounts in a user namespace; $oldest_kernel or newer is needed: upgrade and reboot"
fi

# read_kernel SETTING: the value of a file below /proc/sys, nothing where the kernel lacks it.
read_kernel() { cat "/proc/sys/$1" 2>/dev/null || :; }

# allow SETTING REFUSING VALUE WHO: that the kernel does not refuse user namespaces.
namespaces=allowed
allow() {
	[ "$(read_kernel "$(printf %s "$1" | tr . /)")" = "$2" ] || return 0
	what="$4 user namespaces ($1 = $2)"
	mended "$what" "sysctl -w $1=$3 && echo '$1 = $3' >/etc/sysctl.d/80-docker-build-machine-${1##*.}.conf" && return
	namespaces=refused
	shortfall "$what: sysctl -w $1=$3"
}
allow user.max_user_namespaces 0 28633 'the kernel refuses'
allow kernel.unprivileged_userns_clone 0 1 'the kernel refuses'
allow kernel.apparmor_restrict_unprivileged_userns 1 0 'AppArmor refuses'

tun=usable
if ! [ -c /dev/net/tun ] &&
	! mended '/dev/net/tun is missing' 'modprobe tun && test -c /dev/net/tun && echo tun >/etc/modules-load.d/docker-build-machine-tun.conf'; then
	tun=missing
	shortfall '/dev/net/tun is missing: modprobe tun (in a container that is the host: give it --device /dev/net/tun)'
elif [ -c /dev/net/tun ]; then
	case $(stat -c %a /dev/net/tun) in
	*[67]) ;;
	*)
		what='/dev/net/tun is not usable by everybody (the rootless network needs it)'
		mended "$what" "chmod 0666 /dev/net/tun && mkdir -p /etc/tmpfiles.d && echo 'z /dev/net/tun 0666' >/etc/tmpfiles.d/docker-build-machine-tun.conf" || {
			tun=closed
			shortfall "$what: chmod 0666 /dev/net/tun"
		}
		;;
	esac
fi

overlay=supported
if ! grep -qw overlay /proc/filesystems &&
	! mended 'overlay file systems are not supported' 'modprobe overlay && grep -qw overlay /proc/filesystems && echo overlay >/etc/modules-load.d/docker-build-machine-overlay.conf'; then
	overlay=missing
	shortfall 'overlay file systems are not supported: modprobe overlay'
fi

machine=$(uname -m)
case $machine in
x86_64) native=linux/amd64,linux/amd64/v2,linux/amd64/v3,linux/amd64/v4,linux/386 ;;
aarch64) native=linux/arm64,linux/arm/v7,linux/arm/v6 ;;
armv7l) native=linux/arm/v7,linux/arm/v6 ;;
*) native=linux/$machine ;;
esac
for platform in $(printf %s "$platforms" | tr , ' '); do
	case ,$native, in *",$platform,"*) continue ;; esac
	emulated=${platform#linux/}
	case $emulated in amd64*) emulated=x86_64 ;; arm64*) emulated=aarch64 ;; *) emulated=${emulated%%/*} ;; esac
	[ -e "/proc/sys/fs/binfmt_misc/qemu-$emulated" ] ||
		shortfall "platforms has $platform, and the host is $machine and has no emulation for it: correct platforms, or apt-get install qemu-user-static binfmt-support"
done

clock=right
if [ -n "${CLOCK:-}" ]; then
	skew=$(($(date +%s) - CLOCK))
	if [ "${skew#-}" -gt "$most_skew_seconds" ]; then
		clock=wrong
		shortfall "the clock differs by $skew s from this machine's, more than $most_skew_seconds s (keys with an end and certificates need it): timedatectl set-ntp true, there or here"
	fi
fi

# The first folder on the way up from Docker's own that this user can see.
read -r cgroup_version cgroup_driver folder <<-INFO
	$(docker info --format '{{.CgroupVersion}} {{.CgroupDriver}} {{.DockerRootDir}}')
INFO
until [ -d "$folder" ]; do folder=$(dirname "$folder"); done
free_mib=$(df -Pm "$folder" | awk 'NR == 2 { print $4 }')
disk=enough
if [ "$free_mib" -lt "$least_free_mib" ]; then
	disk=short
	shortfall "$free_mib MiB are free at $folder; at least $least_free_mib MiB are needed: docker system prune, or a larger disk"
fi
inodes=enough
free_inodes=$(df -Pi "$folder" | awk 'NR == 2 { print $4 }')
case $free_inodes in
'' | - | *[!0-9]*) ;; # a file system that counts none
*) [ "$free_inodes" -ge "$least_free_inodes" ] || [ "$(df -Pi "$folder" | awk 'NR == 2 { print $2 }')" -eq 0 ] || {
	inodes=short
	shortfall "$free_inodes inodes are free at $folder; at least $least_free_inodes are needed: docker system prune, or a larger file system"
} ;;
esac

# A port of this builder's own gateway counts as free.
gateway_port=$(docker container inspect --format \
	'{{range $_, $bindings := .HostConfig.PortBindings}}{{range $bindings}}{{.HostPort}}{{end}}{{end}}' \
	"$prefix-gateway" 2>/dev/null || :)
if [ "$gateway_port" != "$port" ] &&
	awk -v port="$(printf ':%04X' "$port")" \
		'$4 == "0A" && substr($2, length($2) - 4) == port { taken = 1 } END { exit !taken }' \
		/proc/net/tcp /proc/net/tcp6 2>/dev/null; then
	conflict "sshPort = $port (sshAddress = $address) is taken by another program: ss -ltnp 'sport = :$port' shows it; next: pulumi config set sshPort with a free one"
fi

# The least of what systemd, the slice that it is in and the kernel let a container have.
processes=
least() {
	case $1 in
	'' | *[!0-9]* | ??????????????????*) ;; # none, or no limit
	*) if [ -z "$processes" ] || [ "$1" -lt "$processes" ]; then processes=$1; fi ;;
	esac
}
if [ "$cgroup_driver" = systemd ]; then
	least "$(systemctl show --property=DefaultTasksMax --value)"
	for file in /sys/fs/cgroup/system.slice/pids.max /sys/fs/cgroup/pids/system.slice/pids.max; do
		[ ! -r "$file" ] || least "$(cat "$file")"
	done
fi
least "$(read_kernel kernel/pid_max)"
least "$(read_kernel kernel/threads-max)"

set --
for role in cache runtime access sysfs tls-server tls-client; do set -- "$@" "$prefix-$role"; done
foreign=$(docker volume inspect --format "{{.Name}} {{index .Labels \"$owner_label\"}}" "$@" 2>/dev/null |
	awk -v owner="$owner" '$2 != owner')
while read -r name holder; do
	[ -z "$name" ] ||
		conflict "the volume $name belongs to ${holder:-something else}, not to $owner: rename this stack, or remove the volume if nobody needs it"
done <<-FOREIGN
	$foreign
FOREIGN

fact docker "$docker_version"
fact cgroup "$cgroup_version"
fact processes "$processes"
fact kernel "$kernel"
fact architecture "$machine"
fact namespaces "$namespaces"
fact tun "$tun"
fact fuse "$([ -c /dev/fuse ] && echo present || echo missing)"
fact overlay "$overlay"
fact disk "$disk"
fact inodes "$inodes"
fact clock "$clock"
fact acks "$([ -e /proc/sys/net/ipv4/tcp_pingpong_thresh ] && echo tunable || echo fixed)"
fact conflicts "$conflicts"

[ "$verb" = check ] || exit 0
[ "$conflicts" -eq 0 ] || exit 1
[ "$shortfalls" -eq 0 ] || [ -n "$exists" ]
