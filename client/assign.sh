#!/bin/sh
# Prints which builder of a fleet a project lives on (client/assign.py says how), with sha256sum alone.
# Usage: assign.sh PROJECT NAME[=WEIGHT]...
#   as in: DOCKER_HOST=ssh://team-builder-$(assign.sh acme/web eu1 eu2=2)
set -eu
[ $# -ge 2 ] || {
	sed -n '2,4s/^# //p' "$0" >&2
	exit 2
}
project=$1
shift
for builder in "$@"; do
	name=${builder%%=*} weight=1 number=0
	case $builder in *=*) weight=${builder#*=} ;; esac
	while [ "$number" -lt "$weight" ]; do
		number=$((number + 1))
		printf '%s %s\n' "$(printf '%s %s %s' "$project" "$name" "$number" | sha256sum | cut -d ' ' -f 1)" "$name"
	done
done | LC_ALL=C sort | sed -n '$s/.* //p'
