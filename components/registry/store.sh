#!/bin/sh
# Serves the store and deletes what nobody needs, as long as its container runs. Prints what it removed.
#   by age   tags that were last pushed more than STORE_AGE seconds ago
#   by size  while all blobs together have more than STORE_SIZE bytes: the tags with the oldest pushes
# Then deletes manifests, layers and blobs that no tag refers to. What a client pushed, or checked for before
# a push, stays for the grace period (a tenth of STORE_AGE, from 5 seconds to an hour), so that no push loses a
# blob. distribution's own garbage-collect has no such period, and its --delete-untagged (2.8) breaks images of
# several platforms. STORE_CONFIG is distribution's configuration file.
set -eu
root=/var/lib/registry/docker/registry/v2
# On the same volume, so that moving a file there only renames it.
trash=/var/lib/registry/trash
# In memory: the list of what to keep must be complete before anything is deleted, on a full disk too.
work=/run/store

log_line() { printf '[store] %s\n' "$1"; }
now() { date +%s; }
readable() { awk -v kib="$1" 'BEGIN { printf "%.2f GB", kib * 1024 / 1e9 }'; }
used_kib() { if [ -d "$root/blobs" ]; then du -sk "$root/blobs"; else echo 0; fi | awk '{ print $1 }'; }

# files PATTERN: time of the last change, in seconds, and path of each file whose path below the root matches.
# The functions after it read or print such lines.
files() { [ ! -d "$root" ] || find "$root" -path "$root/$1" -type f -exec stat -c '%Y %n' {} +; }
tags() { files 'repositories/*/_manifests/tags/*/current/link' | sort -n; }
revisions() { files 'repositories/*/_manifests/revisions/sha256/*/link'; }
layers() { files 'repositories/*/_layers/sha256/*/link'; }
blobs() { files 'blobs/sha256/*/data'; }

# young SECONDS, old SECONDS: the lines of files that were changed in the last SECONDS, or before that.
young() { awk -v since="$(($(now) - $1))" '$1 >= since'; }
old() { awk -v since="$(($(now) - $1))" '$1 < since'; }
# digest: the digest, without "sha256:", at the end of each path. folder: the folder of each path.
digest() { awk '{ n = split($2, part, "/"); print part[n - 1] }'; }
folder() { awk '{ sub(/\/[^\/]*$/, "", $2); print $2 }'; }
# hexadecimal: every digest in a text, without "sha256:".
hexadecimal() { { grep -oE 'sha256:[0-9a-f]{64}' || :; } | cut -c 8-; }
# listed FILE, unlisted FILE: the lines whose digest is in the file, or is not.
listed() { by_digest 1 "$1"; }
unlisted() { by_digest 0 "$1"; }
by_digest() {
	awk -v listed="$1" -v file="$2" '
		BEGIN { while ((getline line <file) > 0) digests[line] }
		{ n = split($2, part, "/") }
		(part[n - 1] in digests) == listed'
}

# follow_log: prints distribution's log without requests for blobs, and notes the blobs that clients check for
# before they push.
follow_log() {
	while read -r line; do
		case $line in
		*'"HEAD /v2/'*/blobs/sha256:*)
			line=${line#*/blobs/sha256:}
			printf '%s\n' "${line%%[!0-9a-f]*}" >>"$work/checked"
			;;
		*' /v2/'*/blobs/*) ;;
		*) printf '%s\n' "$line" ;;
		esac
	done
}

# list_kept: writes to the file keep the digests of everything that a tag or a push in flight refers to.
list_kept() {
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
		# An index refers to other manifests, whose content must be read too.
		awk -v keep="$work/keep" -v manifests="$work/manifests" '
			BEGIN {
				while ((getline line <keep) > 0) kept[line]
				while ((getline line <manifests) > 0) manifest[line]
			}
			($1 in manifest) && !($1 in kept)' "$work/found" >"$work/next"
		cat "$work/found" >>"$work/keep"
	done
	layers | young "$grace" | digest >>"$work/keep"
	cat "$work/checked.before" "$work/checked" >>"$work/keep"
}

# collect: deletes what is not kept. The server is stopped meanwhile, and its clients wait.
collect() {
	kill -STOP "$server"
	list_kept
	mkdir -p "$trash"
	revisions | old "$grace" | unlisted "$work/keep" | folder | xargs -r rm -r
	blobs | old "$grace" | unlisted "$work/keep" >"$work/gone"
	folder <"$work/gone" | while read -r blob; do mv "$blob" "$trash/"; done
	digest <"$work/gone" >"$work/trash"
	layers | listed "$work/trash" | folder | xargs -r rm -r
	kill -CONT "$server"
	rm -r "$trash"
}

# drop: removes the tags whose lines it reads, and notes them for `report`.
drop() {
	awk '{ sub(/\/current\/link$/, "", $2); print $2 }' >"$work/dropped"
	xargs -r rm -r <"$work/dropped"
	cat "$work/dropped" >>"$work/removed"
}

# begin; report WHY: prints one line about everything removed since `begin`.
begin() {
	: >"$work/removed"
	before=$(used_kib)
}
report() {
	after=$(used_kib)
	[ -s "$work/removed" ] || [ "$after" -lt "$before" ] || return 0
	log_line "$1: removed $(awk -v root="$root/repositories/" '
		NR == 1 { sub(root, ""); sub("/_manifests/tags/", ":"); first = $0 }
		END { if (!NR) print "what no tag leads to"; else printf "%s%s", first, (NR > 1 ? " and " NR - 1 " more tags" : "") }
	' "$work/removed"); $(readable "$before") -> $(readable "$after")"
}

sweep() {
	begin
	tags | old "$STORE_AGE" | drop
	collect
	report 'by age'
	# The requests of the last two grace periods are kept, so that each counts for at least one.
	mv "$work/checked" "$work/checked.before"
	: >"$work/checked"
}

is_full() { [ "$(used_kib)" -gt $((STORE_SIZE / 1024)) ]; }

make_room() {
	begin
	while is_full; do
		tags | old "$grace" >"$work/candidates"
		[ -s "$work/candidates" ] || break
		# Removes a tenth of them at a time.
		head -n $((($(wc -l <"$work/candidates") + 9) / 10)) "$work/candidates" | drop
		collect
	done
	report 'by size'
}

rm -rf "$trash"
: >"$work/checked"
: >"$work/checked.before"
mkfifo "$work/log"
follow_log <"$work/log" &
registry serve "$STORE_CONFIG" >"$work/log" &
server=$!
trap 'kill -CONT "$server"; kill -TERM "$server"; wait "$server"; exit 0' TERM INT
grace=$((STORE_AGE / 10))
[ "$grace" -ge 5 ] || grace=5
[ "$grace" -le 3600 ] || grace=3600
pause=$((grace < 60 ? grace : 60))
next=$(($(now) + grace))
while kill -0 "$server" 2>/dev/null; do
	! is_full || make_room
	[ "$(now)" -lt "$next" ] || {
		sweep
		next=$(($(now) + grace))
	}
	sleep "$pause" &
	wait $! || :
done
wait "$server"
