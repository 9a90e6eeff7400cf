#!/bin/sh
# Prints the builder of a fleet on which a project builds, as client/assign.py does; needs only sha256sum.
# Usage: assign.sh PROJECT NAME[=WEIGHT]...
#   for example: DOCKER_HOST=ssh://team-builder-$(assign.sh acme/web eu1 eu2=2)
set -eu
if [ $# -lt 2 ]; then
	sed -n '2,4s/^# //p' "$0" >&2
	exit 2
fi
project=$1
shift

# draws NAME WEIGHT: prints one line for each draw, its number and the name.
draws() {
	draw=1
	while [ "$draw" -le "$2" ]; do
		number=$(printf '%s %s %s' "$project" "$1" "$draw" | sha256sum | cut -d ' ' -f 1)
		printf '%s %s\n' "$number" "$1"
		draw=$((draw + 1))
	done
}

for builder in "$@"; do
	name=${builder%%=*}
	weight=${builder#"$name"}
	weight=${weight#=}
	draws "$name" "${weight:-1}"
done | LC_ALL=C sort | sed -n '$s/.* //p'
