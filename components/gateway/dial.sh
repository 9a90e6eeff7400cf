#!/bin/sh
# A pipe from the client to the daemon's socket, for sessions that did not find it there at once.
# While the daemon starts, or is being replaced, the client waits instead of failing.
# Usage: dial SOCKET
socket=$1
tries=0
while :; do
	# Once connected nc ends with 0, however the connection ends; 1 is a connection that never was.
	nc -N -U "$socket" 2>/dev/null
	code=$?
	[ "$code" -eq 1 ] || exit "$code"
	[ "$tries" -ne 4 ] ||
		echo 'The builder is starting or being changed; this waits until it is back, 10 minutes at most.' >&2
	tries=$((tries + 1))
	if [ "$tries" -ge 1200 ]; then
		echo 'The builder did not come back within 10 minutes; ask who runs it to look at its logs.' >&2
		exit 1
	fi
	[ -d "/proc/$PPID" ] || exit 1
	sleep 0.5
done
