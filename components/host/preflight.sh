# shellcheck shell=sh
# Runs on the Docker host and checks what a builder needs there.
# Usage: cat releases.sh preflight.sh | sh -s -- VERB OWNER PREFIX ADDRESS PORT PLATFORMS PREPARE
#        cat releases.sh preflight.sh | sh -s -- prepare
#   VERB       look: report the facts, change nothing, and succeed
#              check: fail if a builder cannot run; with PREPARE fix first what can be fixed
#              prepare: fix what can be fixed, without Docker; a person runs it at a terminal
#   OWNER      owner label of this builder's volumes and containers
#   PREFIX     what their names start with
#   ADDRESS    the builder's sshAddress, PORT its sshPort
#   PLATFORMS  platforms that the host is declared to build for, separated by commas; empty for the host's
#              own
#   PREPARE    true or false
# CLOCK, if set, is the client's time in seconds. Each line of standard output is a fact, name=value, and
# stays the same as long as nothing changes. Standard error has a line for each shortfall, with the command
# that fixes it. For a builder that exists already, `check` reports shortfalls of the host but does not
# fail, so that keys can be removed in any state of the host.
set -u
now=$(date +%s) # first, because the checks take time
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
warn() { printf 'host: %s\n' "$1" >&2; }
# shortfall: the host lacks something; conflict: something else uses a name or port of this builder.
shortfall() {
	shortfalls=$((shortfalls + 1))
	warn "$1"
}
conflict() {
	conflicts=$((conflicts + 1))
	warn "$1"
}
fact() { printf '%s=%s\n' "$1" "$2"; }

# fix WHAT COMMAND [HINT]: with `prepare`, runs the shell COMMAND as root (with `look`, only reports it).
# Otherwise, or if COMMAND fails, WHAT is a shortfall, reported with a line to run by hand. Succeeds if the
# problem is fixed, or will be. COMMAND has no single quotes, and its effect outlives a reboot.
fix() {
	if [ "$(id -u)" -eq 0 ]; then line=$2; else line="sudo sh -c '$2'"; fi
	if [ "$prepare" = true ] && [ "$verb" = look ]; then
		warn "$1: prepare will run: $2"
		# For a new builder, the fact is already the one after the fix, so that the second update changes
		# nothing.
		[ -z "$exists" ]
		return
	elif [ "$prepare" = true ]; then
		# shellcheck disable=SC2086
		if [ "$(id -u)" -eq 0 ]; then output=$(sh -c "$2" 2>&1); else output=$($sudo sh -c "$2" 2>&1); fi && {
			warn "$1: prepared: $2"
			return
		}
		warn "prepare could not run: $2: $output"
	fi
	shortfall "$1: $line${3:+ ($3)}"
	return 1
}

exists='' store='' gateway_port=''
if [ "$verb" != prepare ]; then
	if ! docker_version=$(docker version --format '{{.Server.Version}}' 2>&1); then
		warn "Docker does not answer (DOCKER_HOST=${DOCKER_HOST:-default}): $docker_version"
		warn 'start it (systemctl start docker), let this user use it (usermod -aG docker USER), or correct the setting host'
		[ "$verb" = look ]
		exit
	fi
	# One docker for both containers: each is a process, and the look is part of every run.
	# Daemons of earlier releases, which knew overlay2 only, have no BUILDER_IMAGE_STORE.
	seen=$(docker container inspect --format "{{.Name}}|{{index .Config.Labels \"$owner_label\"}}|\
{{range .HostConfig.PortBindings}}{{range .}}{{.HostPort}}{{end}}{{end}}|\
{{range .Config.Env}}{{\$pair := split . \"=\"}}{{if eq (index \$pair 0) \"BUILDER_IMAGE_STORE\"}}{{index \$pair 1}}{{end}}{{end}}" \
		"$prefix-daemon" "$prefix-gateway" 2>&1)
	while IFS='|' read -r name holder published found; do
		case $name in
		"/$prefix-daemon") [ "$holder" != "$owner" ] || exists=yes store=${found:-overlay2} ;;
		"/$prefix-gateway") gateway_port=$published ;;
		'' | *[Nn]o\ such\ container*) ;;
		*) warn "docker container inspect: $name" ;;
		esac
	done <<-SEEN
		$seen
	SEEN
	if older "$docker_version" "$oldest_docker"; then
		shortfall "Docker $docker_version is too old; $oldest_docker or newer is needed: upgrade docker.io or docker-ce"
	fi
fi

kernel=$(uname -r)
if older "$kernel" "$oldest_kernel"; then
	shortfall "kernel $kernel is too old for overlay mounts in a user namespace; $oldest_kernel or newer is needed: upgrade and reboot"
fi

# read_kernel SETTING: prints the value of a setting of sysctl(8); nothing if the kernel lacks it.
read_kernel() { cat "/proc/sys/$(printf %s "$1" | tr . /)" 2>/dev/null || :; }

# at_boot SETTING [NAME]: prints `VALUE FILE`, the last value of SETTING that a boot reads, in the order of
# sysctl.d(5), only from files after NAME if given. Prints nothing if no file sets it.
at_boot() (
	files=$(
		for folder in /etc /run /usr/local/lib /usr/lib /lib; do
			for file in "$folder"/sysctl.d/*.conf; do
				[ ! -e "$file" ] || printf '%s %s\n' "${file##*/}" "$file"
			done
		done | awk '!hidden[$1]++' | LC_ALL=C sort | LC_ALL=C awk -v after="${2:-}" '$1 > after { print $2 }'
		# systemd reads this file only through a link in sysctl.d; other inits read it last.
		[ -d /run/systemd/system ] || [ ! -e /etc/sysctl.conf ] || echo /etc/sysctl.conf
	)
	# shellcheck disable=SC2086
	awk -v setting="$1" -F = '
		/^[ \t]*[#;]/ { next }
		{ key = $1; sub(/^[ \t]*-/, "", key); gsub(/[ \t]/, "", key); gsub("/", ".", key) }
		key == setting && NF > 1 { value = $2; gsub(/[ \t]/, "", value); file = FILENAME }
		END { if (file) print value, file }' $files /dev/null
)

# allow SETTING REFUSING VALUE WHO: fixes a kernel SETTING whose value REFUSING makes WHO ("the kernel
# refuses") refuse user namespaces, now and after a boot; VALUE allows them.
namespaces=allowed
allow() {
	own=zz-docker-build-machine-${1##*.}.conf
	value=$(read_kernel "$1")
	[ -n "$value" ] || return 0
	boot=$(at_boot "$1")
	if [ "$value" = "$2" ]; then
		state=refused what="$4 user namespaces ($1 = $2)"
	elif [ "${boot%% *}" = "$2" ]; then
		state=until-reboot what="$4 user namespaces from the next boot on ($1 = $2 in ${boot#* })"
	else
		return 0
	fi
	fix "$what" "sysctl -w $1=$3 && echo $1=$3 >/etc/sysctl.d/$own" || [ "$namespaces" = refused ] || namespaces=$state
	boot=$(at_boot "$1" "$own")
	if [ "${boot%% *}" = "$2" ]; then
		[ "$namespaces" != allowed ] || namespaces=until-reboot
		shortfall "every boot reads $1 = $2 in ${boot#* } after /etc/sysctl.d/$own: take that line out of ${boot#* }"
	fi
}
allow user.max_user_namespaces 0 28633 'the kernel refuses'
allow kernel.unprivileged_userns_clone 0 1 'the kernel refuses'

# Ubuntu's AppArmor allows user namespaces only to programs with a profile that allows them. Only the
# daemon's container uses this profile; it forbids nothing.
profile=docker-build-machine
profile_file=/etc/apparmor.d/$profile
profile_text="abi <abi/4.0>,\nprofile $profile flags=(unconfined) {\n  userns,\n}\n"
load_profile="printf \"$profile_text\" >$profile_file && apparmor_parser --replace $profile_file"
restriction=kernel.apparmor_restrict_unprivileged_userns

# is_loaded: whether the kernel has the profile; any user may read this.
is_loaded() {
	for name in /sys/kernel/security/apparmor/policy/profiles/"$profile".*/name; do
		[ -e "$name" ] && [ "$(cat "$name")" = "$profile" ] && return
	done
	return 1
}

# is_restricted: whether the kernel has AppArmor's restriction and applies it now, or after the next boot.
is_restricted() {
	case $(read_kernel "$restriction") in
	'') return 1 ;;
	1) return 0 ;;
	*) case $(at_boot "$restriction") in '1 '*) return 0 ;; *) return 1 ;; esac ;;
	esac
}

apparmor=unconfined
if is_loaded; then
	apparmor=profile
	[ -e "$profile_file" ] ||
		fix "the AppArmor profile $profile will be lost at the next reboot ($profile_file is missing)" "$load_profile" || :
elif is_restricted; then
	# Only parses the profile: an older parser does not know userns.
	# shellcheck disable=SC2059
	if output=$(printf "$profile_text" | apparmor_parser --skip-kernel-load --skip-cache 2>&1); then
		if fix "AppArmor refuses user namespaces to programs without a profile ($restriction = 1)" "$load_profile"; then
			apparmor=profile
		else
			namespaces=refused
		fi
	else
		warn "AppArmor cannot allow user namespaces to the daemon's container only: $output"
		allow "$restriction" 1 0 'AppArmor refuses'
	fi
fi

# may_open FILE: whether this user can open the device; if not, `output` is the reason.
may_open() { output=$( (: <>"$1") 2>&1); }
udev_rule=/etc/udev/rules.d/zz-docker-build-machine-tun.rules
tun_rule='KERNEL==\"tun\", MODE=\"0666\", OPTIONS+=\"static_node=net/tun\"'

tun=usable
load_tun='echo tun >/etc/modules-load.d/docker-build-machine-tun.conf'
if ! [ -c /dev/net/tun ]; then
	fix '/dev/net/tun is missing' "modprobe tun && test -c /dev/net/tun && $load_tun" \
		'if the host is a container: give it --device /dev/net/tun' || tun=missing
elif mode=$(stat -c %a /dev/net/tun) && [ "${mode%[67]}" = "$mode" ]; then
	fix '/dev/net/tun is not usable by everybody (the rootless network needs it)' \
		"chmod 0666 /dev/net/tun && mkdir -p ${udev_rule%/*} && echo \"$tun_rule\" >$udev_rule" || tun=closed
elif ! may_open /dev/net/tun; then
	# The device node can exist before the kernel's module; opening the node loads the module.
	fix "/dev/net/tun cannot be opened (${output##*: }), so the kernel has no tun" "modprobe tun && $load_tun" \
		'if modprobe finds no module for this kernel, reboot into the installed one' || tun=broken
fi

overlay=supported
if ! grep -qw overlay /proc/filesystems; then
	fix 'overlay file systems are not supported' 'modprobe overlay && grep -qw overlay /proc/filesystems && echo overlay >/etc/modules-load.d/docker-build-machine-overlay.conf' ||
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
# emulates ARCHITECTURE: whether the kernel starts QEMU for programs of this architecture, also in a
# container that has no QEMU: with the flag F it opened QEMU's file when that was registered.
emulates() {
	for entry in "/proc/sys/fs/binfmt_misc/qemu-$1" "/proc/sys/fs/binfmt_misc/qemu-$1-static"; do
		if grep -qsx enabled "$entry" && grep -q '^flags:.*F' "$entry"; then return; fi
	done
	return 1
}
emulated=
for platform in $(printf %s "$platforms" | tr , ' '); do
	case ,$native, in *",$platform,"*) continue ;; esac
	qemu=${platform#linux/}
	case $qemu in
	386) qemu=i386 ;;
	amd64*) qemu=x86_64 ;;
	arm64*) qemu=aarch64 ;;
	loong64) qemu=loongarch64 ;;
	mips64le) qemu=mips64el ;;
	*) qemu=${qemu%%/*} ;;
	esac
	# Debian 13 registers QEMU by systemd-binfmt, at each boot too; older releases by binfmt-support.
	registered="grep -qs \"^flags:.*F\" /proc/sys/fs/binfmt_misc/qemu-$qemu"
	install="apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq -o DPkg::Lock::Timeout=300 qemu-user-static binfmt-support && { $registered || systemctl restart systemd-binfmt; } && $registered"
	emulates "$qemu" ||
		fix "platforms has $platform, but the host is $machine and does not emulate it" "$install" \
			'or correct platforms; without apt-get: docker run --rm --privileged tonistiigi/binfmt --install all, after each boot' || continue
	emulated=$emulated${emulated:+,}$platform
done

clock=right
if [ -n "${CLOCK:-}" ]; then
	skew=$((now - CLOCK))
	if [ "${skew#-}" -gt "$most_skew_seconds" ]; then
		clock=wrong
		shortfall "the clock differs by $skew s from this machine's, more than $most_skew_seconds s (keys with \`until\` and certificates need the right time): timedatectl set-ntp true, there or here"
	fi
fi

# The nearest parent of Docker's data folder that this user can see.
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
# A file system without a fixed number of inodes has 0 or - of them.
free_inodes=$(df -Pi "$folder" | awk 'NR == 2 && $2 + 0 > 0 { print $4 }')
if [ -n "$free_inodes" ] && [ "$free_inodes" -lt "$least_free_inodes" ]; then
	inodes=short
	shortfall "$free_inodes inodes are free at $folder; at least $least_free_inodes are needed: docker system prune, or a larger file system"
fi

# The port of this builder's own gateway counts as free.
if [ "$gateway_port" != "$port" ] &&
	awk -v port="$(printf ':%04X' "$port")" \
		'$4 == "0A" && substr($2, length($2) - 4) == port { taken = 1 } END { exit !taken }' \
		/proc/net/tcp /proc/net/tcp6 2>/dev/null; then
	conflict "sshPort = $port (sshAddress = $address) is taken by another program: ss -ltnp 'sport = :$port' shows it; next: pulumi config set sshPort with a free one"
fi

# How many processes a container may have: the smallest limit of systemd, its slice and the kernel.
processes=
limit_to() {
	case $1 in
	'' | *[!0-9]* | ??????????????????*) ;; # none, or no limit
	*) if [ -z "$processes" ] || [ "$1" -lt "$processes" ]; then processes=$1; fi ;;
	esac
}
if [ "$cgroup_driver" = systemd ]; then
	limit_to "$(systemctl show --property=DefaultTasksMax --value)"
	for file in /sys/fs/cgroup/system.slice/pids.max /sys/fs/cgroup/pids/system.slice/pids.max; do
		[ ! -r "$file" ] || limit_to "$(cat "$file")"
	done
fi
limit_to "$(read_kernel kernel.pid_max)"
limit_to "$(read_kernel kernel.threads-max)"

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
fact emulated "$emulated"
fact disk "$disk"
fact inodes "$inodes"
fact clock "$clock"
fact acks "$([ -e /proc/sys/net/ipv4/tcp_pingpong_thresh ] && echo tunable || echo fixed)"
fact store "$store"
fact conflicts "$conflicts"

[ "$verb" = check ] || exit 0
[ "$conflicts" -eq 0 ] || exit 1
[ "$shortfalls" -eq 0 ] || [ -n "$exists" ]
