#!/bin/sh
# Serves the store, and clears away what nobody needs. Runs as long as its container; says what it
# removed, and nothing when there was nothing to remove.
#   by age   tags that were not pushed for STORE_AGE seconds
#   by size  while blobs have more than STORE_SIZE bytes: the tags that were pushed the longest ago
# then what no tag leads to. Whatever was pushed, or asked for by one who pushes, within the grace (a
# tenth of STORE_AGE, from 5 seconds to an hour) stays, so that no push in flight misses a blob.
# distribution's own garbage-collect knows no such grace, and its --delete-untagged (2.8) breaks images
# of several platforms. STORE_CONFIG is distribution's configuration file.
set -eu
root=/var/lib/registry/docker/registry/v2
# On the volume, so that moving there is renaming.
trash=/var/lib/registry/trash
# In memory: what is kept is written there before anything goes, on a full disk too.
work=/run/store

tell() { printf '[store] %s\n' "$1"; }
now() { date +%s; }
readable() { awk -v kib="$1" 'BEGIN { printf "%.2f GB", kib * 1024 / 1e9 }'; }
used_kib() { if [ -d "$root/blobs" ]; then du -sk "$root/blobs"; else echo 0; fi | awk '{ print $1 }'; }

# files PATTERN: seconds of last change and path of each file below the root whose path is like that.
files() { [ ! -d "$root" ] || find "$root" -path "$root/$1" -type f -exec stat -c '%Y %n' {} +; }
tags() { files 'repositories/*/_manifests/tags/*/current/link' | sort -n; }
revisions() { files 'repositories/*/_manifests/revisions/sha256/*/link'; }
layers() { files 'repositories/*/_layers/sha256/*/link'; }
blobs() { files 'blobs/sha256/*/data'; }

# young, old SECONDS: of those lines the ones changed within so many seconds, or before.
young() { awk -v since="$(($(now) - $1))" '$1 >= since'; }
old() { awk -v since="$(($(now) - $1))" '$1 < since'; }
# The digest, without its "sha256:", that a path ends with, and the folder that it names.
digest() { awk '{ n = split($2, part, "/"); print part[n - 1] }'; }
folder() { awk '{ sub(/\/[^\/]*$/, "", $2); print $2 }'; }
hexadecimal() { { grep -oE 'sha256:[0-9a-f]{64}' || :; } | cut -c 8-; }
# those, others FILE: the lines whose digest is in the file, or is not.
those() { awk -v file="$1" 'BEGIN { while ((getline line <file) > 0) digests[line] } { n = split($2, part, "/") } part[n - 1] in digests'; }
others() { awk -v file="$1" 'BEGIN { while ((getline line <file) > 0) digests[line] } { n = split($2, part, "/") } !(part[n - 1] in digests)'; }

# follow: passes distribution's log on but for blobs, and notes which of them those who push asked for.
follow() {
	while read -r line; do
		case $line in
		*'"HEAD /v2/'*/blobs/sha256:*)
			line=${line#*/blobs/sha256:}
			printf '%s\n' "${line%%[!0-9a-f]*}" >>"$work/asked"
			;;
		*' /v2/'*/blobs/*) ;;
		*) printf '%s\n' "$line" ;;
		esac
	done
}

# mark: into the file keep, all that tags, and what is on its way, lead to.
mark() {
	revisions | digest >"$work/manifests"
	{
		tags | awk '{ print $2 }' | xargs -r cat | hexadecimal
		revisions | young "$grace" | digest
	} | sort -u >"$work/next"
	: >"$work/keep"
	while [ -s "$work/next" ]; do
		cat "$work/next" >>"$work/keep"
		awk -v blobs="$root/blobs/sha256" '{ print blobs "/" substr($1, 1, 2) "/" $1 "/data" }' "$work/next" |
			xargs cat | hexadecimal | sort -u >"$work/found"
		# An index leads to other manifests.
		awk -v keep="$work/keep" -v manifests="$work/manifests" '
			BEGIN {
				while ((getline line <keep) > 0) kept[line]
				while ((getline line <manifests) > 0) manifest[line]
			}
			($1 in manifest) && !($1 in kept)' "$work/found" >"$work/next"
		cat "$work/found" >>"$work/keep"
	done
	layers | young "$grace" | digest >>"$work/keep"
	cat "$work/asked.before" "$work/asked" >>"$work/keep"
}

# collect: takes away what is not kept. The server stands still meanwhile, and its clients wait.
collect() {
	kill -STOP "$server"
	mark
	mkdir -p "$trash"
	revisions | old "$grace" | others "$work/keep" | folder | xargs -r rm -r
	blobs | old "$grace" | others "$work/keep" >"$work/gone"
	folder <"$work/gone" | while read -r blob; do mv "$blob" "$trash/"; done
	digest <"$work/gone" >"$work/trash"
	layers | those "$work/trash" | folder | xargs -r rm -r
	kill -CONT "$server"
	rm -r "$trash"
}

# drop: removes the tags whose lines come in, and counts them.
drop() {
	awk '{ sub(/\/current\/link$/, "", $2); print $2 }' >"$work/dropped"
	xargs -r rm -r <"$work/dropped"
	cat "$work/dropped" >>"$work/removed"
}

# begin; report WHY: one line about what went in between.
begin() {
	: >"$work/removed"
	before=$(used_kib)
}
report() {
	after=$(used_kib)
	[ -s "$work/removed" ] || [ "$after" -lt "$before" ] || return 0
	tell "$1: removed $(awk -v root="$root/repositories/" '
		NR == 1 { sub(root, ""); sub("/_manifests/tags/", ":"); first = $0 }
		END { if (!NR) print "what no tag leads to"; else printf "%s%s", first, (NR > 1 ? " and " NR - 1 " more tags" : "") }
	' "$work/removed"); $(readable "$before") -> $(readable "$after")"
}

sweep() {
	begin
	tags | old "$STORE_AGE" | drop
	collect
	report 'by age'
	# Two spans of the grace are remembered, so that each request is for one at least.
	mv "$work/asked" "$work/asked.before"
	: >"$work/asked"
}

is_full() { [ "$(used_kib)" -gt $((STORE_SIZE / 1024)) ]; }

relieve() {
	begin
	while is_full; do
		tags | old "$grace" >"$work/candidates"
		[ -s "$work/candidates" ] || break
		# A tenth of them at a time.
		head -n $((($(wc -l <"$work/candidates") + 9) / 10)) "$work/candidates" | drop
		collect
	done
	report 'by size'
}

rm -rf "$trash"
: >"$work/asked"
: >"$work/asked.before"
mkfifo "$work/log"
follow <"$work/log" &
registry serve "$STORE_CONFIG" >"$work/log" &
server=$!
trap 'kill -CONT "$server"; kill -TERM "$server"; wait "$server"; exit 0' TERM INT
grace=$((STORE_AGE / 10))
[ "$grace" -ge 5 ] || grace=5
[ "$grace" -le 3600 ] || grace=3600
pause=$((grace < 60 ? grace : 60))
next=$(($(now) + grace))
while kill -0 "$server" 2>/dev/null; do
	! is_full || relieve
	[ "$(now)" -lt "$next" ] || {
		sweep
		next=$(($(now) + grace))
	}
	sleep "$pause" &
	wait $! || :
done
wait "$server"
