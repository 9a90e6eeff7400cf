#!/usr/bin/env bash
# The gateway's health check with the setting metrics. Before it, writes the file `connections`: a line
# `session NAME` for each open connection, and `refused COUNT`, which begins with 0 in each container.
# Usage: report FOLDER
set -euo pipefail
folder=$1

# The count, and the time of the last refusal in it. The health check's own logins come from 127.0.0.1.
state=/run/gateway/refused
log=/config/logs/openssh
count=0 last=''
[[ ! -f $state ]] || read -r count last <"$state"
{
	# What s6-log has put aside since the last check.
	for file in "$log"/@*; do
		[[ ! -f $file || ! $file -nt $state ]] || gzip -cd "$file" 2>/dev/null || cat "$file"
	done
	cat "$log/current"
} | awk -v count="$count" -v last="$last" '
	/: Failed publickey / && ! / from 127\.0\.0\.1 / {
		time = $1 "T" $2
		if (time > last) { count++; last = time }
	}
	END { print count, last }' >"$state.$$"
mv -f "$state.$$" "$state"
read -r count last <"$state"

{
	echo "refused $count"
	session-monitor who | sed -n '/^lately/,$d; s/.* login name=\([^ ]*\) .*/session \1/p'
} >"$folder/connections.$$"
mv -f "$folder/connections.$$" "$folder/connections"

exec bash /usr/local/lib/gateway/health
