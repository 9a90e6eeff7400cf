#!/bin/sh
# Checks, on the Docker host and without changing anything, that a rootless daemon can run in a
# container of this image that is not privileged.
# Usage: { echo data=PROFILE; cat isolation.sh; } | sh -s -- IMAGE REFERENCE SYSFS FOLDER OPTION...
#   PROFILE    seccomp profile, as JSON
#   IMAGE      id of the daemon's image, REFERENCE its name in the settings
#   SYSFS      volume of that type, FOLDER where the daemon has it
#   OPTION...  of docker run, as the daemon will have them
set -u
image=$1 reference=$2 sysfs=$3 folder=$4
shift 4
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
printf '%s' "${data:?}" >"$work/seccomp.json"

# A rootless network, and the mounts of a container: whole /proc and /sys, and one of its own.
output=$(docker run --rm --network none --volume "$sysfs:$folder" --security-opt "seccomp=$work/seccomp.json" \
	--env XDG_RUNTIME_DIR=/run/xdg --tmpfs /run/xdg:mode=0700,uid=1000,gid=1000 --entrypoint rootlesskit "$@" \
	"$image" --net=slirp4netns --disable-host-loopback --copy-up=/etc --copy-up=/run \
	unshare -m -p -f sh -ec 'mkdir /run/p /run/s /run/t; mount -t proc p /run/p; mount -t sysfs s /run/s; mount -t tmpfs t /run/t' \
	2>&1) && exit 0

printf 'isolation = unprivileged: no rootless daemon of %s runs on this host without --privileged; nothing was touched.\n' "$reference" >&2
printf '%s\n' "$output" | grep -v '^time=' | tail -n 5 >&2
case $output in
*idmap*) echo 'The image: its newuidmap and newgidmap must have file capabilities (setcap cap_setuid=ep, cap_setgid=ep), or be set-user-id and built with libcap.' >&2 ;;
*'No such device'*) echo 'The host: its kernel has no tun; modprobe tun says why, and a kernel that was upgraded needs a reboot.' >&2 ;;
*tap*) echo 'The host: /dev/net/tun must open for everybody, in a container too.' >&2 ;;
*fork/exec*) echo 'The host: it refuses user namespaces to this container; where AppArmor does, dmesg has a line with userns_create.' >&2 ;;
*mount*) echo 'The host: its Docker or a security module forbids mounts in user namespaces.' >&2 ;;
esac
echo 'Next: mend that, or give the container all powers of its host: pulumi config set isolation privileged' >&2
exit 1
