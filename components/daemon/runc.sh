#!/bin/sh
# Stands before the real runc on the daemon's PATH: build steps inherit the limit on processes that
# runc is started with. dockerd has one for containers (default-ulimits) and none for build steps.
# The kernel counts all that the daemon's user runs, but dockerd itself keeps no limit, so that it
# works on when steps have used theirs up.
processes=@processes@
# dash calls it -p, the shell of Alpine -u.
# shellcheck disable=SC3045
ulimit -p "$processes" 2>/dev/null || ulimit -u "$processes"
IFS=:
for folder in $PATH; do
	[ "$folder/runc" = "$0" ] || ! [ -x "$folder/runc" ] || exec "$folder/runc" "$@"
done
echo "runc: not found on $PATH" >&2
exit 127
