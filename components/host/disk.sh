#!/bin/sh
# Tells how many bytes the file system has that the cache lies on.
# Usage: sh -s -- VOLUME IMAGE FOLDER < disk.sh
#   FOLDER  where the daemon has the volume: whoever mounts a new volume first settles its owner
set -eu
docker run --rm --network none --volume "$1:$3" --entrypoint df "$2" -Pk "$3" |
	awk 'NR == 2 { printf "%.0f\n", $2 * 1024 }'
