#!/bin/sh
# Comes before the real rootlesskit on the image's PATH and runs it with a network driver that the image
# has. The daemon also stays in a network namespace of its own: an image whose scripts would leave it in
# that of its container (--detach-netns) would put steps and containers with the host's network there.
set -eu

IFS=:
for folder in $PATH; do
	rootlesskit=$folder/rootlesskit
	[ "$rootlesskit" = "$0" ] || ! [ -x "$rootlesskit" ] || break
done
unset IFS

for word; do
	shift
	case $word in
	--net=slirp4netns)
		# This driver is a part of RootlessKit since 3.0 and needs no other program.
		command -v slirp4netns >/dev/null || {
			word=--net=gvisor-tap-vsock
			echo 'rootlesskit: the image has no slirp4netns; the network driver is gvisor-tap-vsock' >&2
		}
		;;
	--detach-netns | --detach-netns=*) continue ;;
	esac
	set -- "$@" "$word"
done
exec "$rootlesskit" "$@"
