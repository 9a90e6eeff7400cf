#!/bin/sh
# Looks, on the Docker host, at what a builder needs there.
# Usage: sh -s -- VERB OWNER PREFIX ADDRESS PORT PLATFORMS PREPARE < preflight.sh
#        sh -s -- prepare < preflight.sh
#   VERB       look: tell what is there, change nothing, and succeed
#              check: fail where a builder cannot run; with PREPARE mend first what can be mended
#              prepare: mend what can be mended, without Docker and as a person at a terminal
#   OWNER      owner label of this builder's volumes and containers
#   PREFIX     what their names start with
#   PLATFORMS  what the host is declared to build for, by commas; empty for what it is
#   PREPARE    true or false
# CLOCK, if set, is the client's time in seconds. Standard output is a fact a line, name=value, the
# same as long as nothing changes; each shortfall is one line on standard error with the command that
# mends it. A builder that is there already is told of shortfalls of the host and not refused for
# them, so that keys can be taken out whatever has become of it.
set -u
now=$(date +%s) # before anything that takes its time
verb=$1
if [ "$verb" = prepare ]; then
	prepare=true sudo=sudo
else
	owner=$2 prefix=$3 address=$4 port=$5 platforms=$6 prepare=$7 sudo='sudo -n'
fi
# A user's PATH may lack root's programs.
PATH=$PATH:/usr/sbin:/sbin
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

# mended WHAT COMMAND [HINT]: whether `prepare` has run the shell COMMAND as root, or would. Otherwise
# WHAT is a shortfall, told with a line that does the same. COMMAND has no single quotes, and what it
# does outlives a reboot.
mended() {
	if [ "$(id -u)" -eq 0 ]; then line=$2; else line="sudo sh -c '$2'"; fi
	if [ "$prepare" = true ] && [ "$verb" = look ]; then
		tell "$1: prepare will run: $2"
		# Before a builder's first update the fact is what it will be, so that a second changes nothing.
		[ -z "$exists" ]
		return
	elif [ "$prepare" = true ]; then
		# shellcheck disable=SC2086
		if [ "$(id -u)" -eq 0 ]; then output=$(sh -c "$2" 2>&1); else output=$($sudo sh -c "$2" 2>&1); fi && {
			tell "$1: prepared: $2"
			return
		}
		tell "prepare could not run: $2: $output"
	fi
	shortfall "$1: $line${3:+ ($3)}"
	return 1
}

# older VERSION MINIMUM: whether VERSION is older than MINIMUM (major.minor).
older() {
	awk -v have="$1" -v want="$2" 'BEGIN {
		split(have, h, "[.]"); split(want, w, "[.]")
		exit !(h[1] + 0 < w[1] + 0 || (h[1] + 0 == w[1] + 0 && h[2] + 0 < w[2] + 0))
	}'
}

exists=''
if [ "$verb" != prepare ]; then
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
fi

kernel=$(uname -r)
if older "$kernel" "$oldest_kernel"; then
	shortfall "kernel $kernel is too old for overlay mounts in a user namespace; $oldest_kernel or newer is needed: upgrade and reboot"
fi

# read_kernel SETTING: the value of a file below /proc/sys, nothing where the kernel lacks it.
read_kernel() { cat "/proc/sys/$1" 2>/dev/null || :; }

# at_boot SETTING [NAME]: `VALUE FILE`, the last that a boot reads of SETTING, in the order of
# sysctl.d(5); of files after NAME alone. Nothing where no file has it.
at_boot() (
	files=$(
		for folder in /etc /run /usr/local/lib /usr/lib /lib; do
			for file in "$folder"/sysctl.d/*.conf; do
				[ ! -e "$file" ] || printf '%s %s\n' "${file##*/}" "$file"
			done
		done | awk '!hidden[$1]++' | LC_ALL=C sort | LC_ALL=C awk -v after="${2:-}" '$1 > after { print $2 }'
		# systemd reads it only where a link in sysctl.d leads there; others read it last.
		[ -d /run/systemd/system ] || [ ! -e /etc/sysctl.conf ] || echo /etc/sysctl.conf
	)
	# shellcheck disable=SC2086
	awk -v setting="$1" -F = '
		/^[ \t]*[#;]/ { next }
		{ key = $1; sub(/^[ \t]*-/, "", key); gsub(/[ \t]/, "", key); gsub("/", ".", key) }
		key == setting && NF > 1 { value = $2; gsub(/[ \t]/, "", value); file = FILENAME }
		END { if (file) print value, file }' $files /dev/null
)

# allow SETTING REFUSING VALUE WHO: that the kernel refuses no user namespaces, now and after a boot.
namespaces=allowed
allow() {
	own=zz-docker-build-machine-${1##*.}.conf
	value=$(read_kernel "$(printf %s "$1" | tr . /)")
	[ -n "$value" ] || return 0
	boot=$(at_boot "$1")
	if [ "$value" = "$2" ]; then
		state=refused what="$4 user namespaces ($1 = $2)"
	elif [ "${boot%% *}" = "$2" ]; then
		state=until-reboot what="$4 user namespaces from the next boot on ($1 = $2 in ${boot#* })"
	else
		return 0
	fi
	mended "$what" "sysctl -w $1=$3 && echo $1=$3 >/etc/sysctl.d/$own" || [ "$namespaces" = refused ] || namespaces=$state
	boot=$(at_boot "$1" "$own")
	if [ "${boot%% *}" = "$2" ]; then
		[ "$namespaces" != allowed ] || namespaces=until-reboot
		shortfall "every boot reads $1 = $2 in ${boot#* } after /etc/sysctl.d/$own: take that line out of ${boot#* }"
	fi
}
allow user.max_user_namespaces 0 28633 'the kernel refuses'
allow kernel.unprivileged_userns_clone 0 1 'the kernel refuses'

# Ubuntu's AppArmor lets nobody make user namespaces but whom a profile allows it. This one is for the
# daemon's container alone, which names it; it forbids nothing.
profile=docker-build-machine
profile_file=/etc/apparmor.d/$profile
profile_text="abi <abi/4.0>,\nprofile $profile flags=(unconfined) {\n  userns,\n}\n"
load_profile="printf \"$profile_text\" >$profile_file && apparmor_parser --replace $profile_file"
restriction=kernel.apparmor_restrict_unprivileged_userns

# is_loaded: whether the kernel has the profile; any user may look here.
is_loaded() {
	for name in /sys/kernel/security/apparmor/policy/profiles/"$profile".*/name; do
		[ -e "$name" ] && [ "$(cat "$name")" = "$profile" ] && return
	done
	return 1
}

# is_restricted: now, or from the next boot on, where the kernel has such a restriction.
is_restricted() {
	case $(read_kernel "$(printf %s "$restriction" | tr . /)") in
	'') return 1 ;;
	1) return 0 ;;
	*) case $(at_boot "$restriction") in '1 '*) return 0 ;; *) return 1 ;; esac ;;
	esac
}

apparmor=unconfined
if is_loaded; then
	apparmor=profile
	[ -e "$profile_file" ] ||
		mended "the AppArmor profile $profile is gone after a reboot ($profile_file is missing)" "$load_profile" || :
elif is_restricted; then
	# An older parser knows no userns; on others this only reads.
	# shellcheck disable=SC2059
	if output=$(printf "$profile_text" | apparmor_parser --skip-kernel-load --skip-cache 2>&1); then
		if mended "AppArmor refuses user namespaces ($restriction = 1) to whom no profile allows them" "$load_profile"; then
			apparmor=profile
		else
			namespaces=refused
		fi
	else
		tell "AppArmor cannot allow them to the daemon's container alone: $output"
		allow "$restriction" 1 0 'AppArmor refuses'
	fi
fi

# may_open FILE: whether this user can open the device; otherwise `output` is why not.
may_open() { output=$( (: <>"$1") 2>&1); }
udev_rule=/etc/udev/rules.d/zz-docker-build-machine-tun.rules
tun_rule='KERNEL==\"tun\", MODE=\"0666\", OPTIONS+=\"static_node=net/tun\"'

tun=usable
load_tun='echo tun >/etc/modules-load.d/docker-build-machine-tun.conf'
if ! [ -c /dev/net/tun ]; then
	mended '/dev/net/tun is missing' "modprobe tun && test -c /dev/net/tun && $load_tun" \
		'in a container that is the host: give it --device /dev/net/tun' || tun=missing
elif mode=$(stat -c %a /dev/net/tun) && [ "${mode%[67]}" = "$mode" ]; then
	mended '/dev/net/tun is not usable by everybody (the rootless network needs it)' \
		"chmod 0666 /dev/net/tun && mkdir -p ${udev_rule%/*} && echo \"$tun_rule\" >$udev_rule" || tun=closed
elif ! may_open /dev/net/tun; then
	# The node is there before the kernel's module is, which opening it loads.
	mended "/dev/net/tun cannot be opened (${output##*: }), so the kernel has no tun" "modprobe tun && $load_tun" \
		'where modprobe finds no module for this kernel, reboot into the installed one' || tun=broken
fi

overlay=supported
if ! grep -qw overlay /proc/filesystems; then
	mended 'overlay file systems are not supported' 'modprobe overlay && grep -qw overlay /proc/filesystems && echo overlay >/etc/modules-load.d/docker-build-machine-overlay.conf' ||
		overlay=missing
fi
if [ "$verb" = prepare ]; then
	[ "$shortfalls" -eq 0 ]
	exit
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
	skew=$((now - CLOCK))
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
fact apparmor "$apparmor"
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
