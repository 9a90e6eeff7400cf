#!/bin/sh
# Checks, on the Docker host and without changing anything, that a builder can run there.
# Usage: sh -s -- OWNER PREFIX ADDRESS PORT < preflight.sh
#   OWNER    owner label of this builder's volumes and containers
#   PREFIX   what their names start with
# Every shortfall is one line on standard error with the command that mends it; then exit 1.
set -u
owner=$1 prefix=$2 address=$3 port=$4
owner_label=docker-build-machine.owner
oldest_docker=20.10 oldest_kernel=5.11
least_free_mib=2048

shortfalls=0
shortfall() {
	shortfalls=$((shortfalls + 1))
	printf 'host: %s\n' "$1" >&2
}

# older VERSION MINIMUM: whether VERSION is older than MINIMUM (major.minor).
older() {
	awk -v have="$1" -v want="$2" 'BEGIN {
		split(have, h, "[.]"); split(want, w, "[.]")
		exit !(h[1] + 0 < w[1] + 0 || (h[1] + 0 == w[1] + 0 && h[2] + 0 < w[2] + 0))
	}'
}

if ! docker_version=$(docker version --format '{{.Server.Version}}' 2>&1); then
	printf 'host: Docker does not answer (DOCKER_HOST=%s): %s\n' "${DOCKER_HOST:-default}" "$docker_version" >&2
	printf 'host: start it (systemctl start docker), let this user use it (usermod -aG docker USER), or correct the setting host\n' >&2
	exit 1
fi
if older "$docker_version" "$oldest_docker"; then
	shortfall "Docker $docker_version is too old; $oldest_docker or newer is needed: upgrade docker.io or docker-ce"
fi

kernel=$(uname -r)
if older "$kernel" "$oldest_kernel"; then
	shortfall "kernel $kernel is too old for overlay mounts in a user namespace; $oldest_kernel or newer is needed: upgrade and reboot"
fi

# read_kernel SETTING: the value of a file below /proc/sys, nothing where the kernel lacks it.
read_kernel() { cat "/proc/sys/$1" 2>/dev/null || :; }
if [ "$(read_kernel user/max_user_namespaces)" = 0 ]; then
	shortfall 'user namespaces are refused (user.max_user_namespaces = 0): sysctl -w user.max_user_namespaces=28633'
fi
if [ "$(read_kernel kernel/unprivileged_userns_clone)" = 0 ]; then
	shortfall 'user namespaces are refused (kernel.unprivileged_userns_clone = 0): sysctl -w kernel.unprivileged_userns_clone=1'
fi
if [ "$(read_kernel kernel/apparmor_restrict_unprivileged_userns)" = 1 ]; then
	shortfall 'AppArmor refuses user namespaces (kernel.apparmor_restrict_unprivileged_userns = 1): sysctl -w kernel.apparmor_restrict_unprivileged_userns=0'
fi

if ! [ -c /dev/net/tun ]; then
	shortfall '/dev/net/tun is missing: modprobe tun'
else
	case $(stat -c %a /dev/net/tun) in
	*[67]) ;;
	*) shortfall '/dev/net/tun is not usable by everybody (the rootless network needs it): chmod 0666 /dev/net/tun' ;;
	esac
fi

# The first folder on the way up from Docker's own that this user can see.
folder=$(docker info --format '{{.DockerRootDir}}')
until [ -d "$folder" ]; do folder=$(dirname "$folder"); done
free_mib=$(df -Pm "$folder" | awk 'NR == 2 { print $4 }')
if [ "$free_mib" -lt "$least_free_mib" ]; then
	shortfall "$free_mib MiB are free at $folder; at least $least_free_mib MiB are needed: docker system prune, or a larger disk"
fi
free_inodes=$(df -Pi "$folder" | awk 'NR == 2 { print $4 }')
case $free_inodes in
'' | - | *[!0-9]*) ;; # a file system that counts none
*) [ "$free_inodes" -ge 20000 ] || [ "$(df -Pi "$folder" | awk 'NR == 2 { print $2 }')" -eq 0 ] ||
	shortfall "$free_inodes inodes are free at $folder; at least 20000 are needed: docker system prune, or a larger file system" ;;
esac

# A port of this builder's own gateway counts as free.
gateway_port=$(docker container inspect --format \
	'{{range $_, $bindings := .HostConfig.PortBindings}}{{range $bindings}}{{.HostPort}}{{end}}{{end}}' \
	"$prefix-gateway" 2>/dev/null || :)
if [ "$gateway_port" != "$port" ] &&
	awk -v port="$(printf ':%04X' "$port")" \
		'$4 == "0A" && substr($2, length($2) - 4) == port { taken = 1 } END { exit !taken }' \
		/proc/net/tcp /proc/net/tcp6 2>/dev/null; then
	shortfall "sshPort = $port (sshAddress = $address) is taken by another program: ss -ltnp 'sport = :$port' shows it; next: pulumi config set sshPort with a free one"
fi

for name in cache runtime access tls-server tls-client; do
	holder=$(docker volume inspect --format "{{index .Labels \"$owner_label\"}}" "$prefix-$name" 2>/dev/null) || continue
	[ "$holder" = "$owner" ] ||
		shortfall "the volume $prefix-$name belongs to ${holder:-something else}, not to $owner: rename this stack, or remove the volume if nobody needs it"
done

[ "$shortfalls" -eq 0 ] || exit 1
printf 'docker %s, kernel %s\n' "$docker_version" "$kernel"
