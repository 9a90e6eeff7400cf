#!/bin/sh
# Runs on the Docker host and changes nothing: checks that a rootless daemon can run in an unprivileged
# container of this image.
# Usage: { echo profile=PROFILE; echo rootlesskit=ROOTLESSKIT; cat isolation.sh; } |
#          sh -s -- IMAGE REFERENCE DRIVER SYSFS FOLDER OPTION...
#   PROFILE      seccomp profile, as JSON
#   ROOTLESSKIT  text of rootlesskit.sh
#   IMAGE        id of the daemon's image, REFERENCE its name in the settings
#   DRIVER       of the rootless network
#   SYSFS        volume of type sysfs, FOLDER where the daemon mounts it
#   OPTION...    of docker run, the same as for the daemon
set -u
image=$1 reference=$2 driver=$3 sysfs=$4 folder=$5
shift 5
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
printf '%s' "${profile:?}" >"$work/seccomp.json"

# Starts a rootless network and makes the mounts of a container: a whole /proc, a whole /sys and a tmpfs.
output=$(docker run --rm --network none --volume "$sysfs:$folder" --security-opt "seccomp=$work/seccomp.json" \
	--env XDG_RUNTIME_DIR=/run/xdg --tmpfs /run/xdg:mode=0700,uid=1000,gid=1000 --entrypoint sh "$@" \
	"$image" -c "${rootlesskit:?}" rootlesskit --net="$driver" --disable-host-loopback --copy-up=/etc --copy-up=/run \
	unshare -m -p -f sh -ec 'mkdir /run/p /run/s /run/t; mount -t proc p /run/p; mount -t sysfs s /run/s; mount -t tmpfs t /run/t' \
	2>&1) && exit 0

printf 'isolation = unprivileged: no rootless daemon of %s runs on this host without --privileged; nothing was changed.\n' "$reference" >&2
printf '%s\n' "$output" | grep -v '^time=' | tail -n 5 >&2
case $output in
*idmap*) echo 'The image: its newuidmap and newgidmap must have file capabilities (setcap cap_setuid=ep, cap_setgid=ep), or be set-user-id and built with libcap.' >&2 ;;
*'unknown network mode'*) echo "The image: it has no network driver for a rootless daemon: neither $driver nor RootlessKit 3.0 or newer, which has one of its own." >&2 ;;
*'No such device'*) echo 'The host: its kernel has no tun; modprobe tun prints why, and an upgraded kernel needs a reboot.' >&2 ;;
*tap*) echo 'The host: every user must be able to open /dev/net/tun, in a container too.' >&2 ;;
*fork/exec*) echo 'The host: it refuses user namespaces to this container; if AppArmor refuses them, dmesg has a line with userns_create.' >&2 ;;
*mount*) echo 'The host: its Docker or a security module forbids mounts in user namespaces.' >&2 ;;
esac
echo 'Next: correct that, or give the container full access to its host: pulumi config set isolation privileged' >&2
exit 1
