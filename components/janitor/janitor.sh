#!/bin/sh
# Removes what jobs leave behind, so that the daemon's disk does not fill up. Runs as long as its
# container; prints what it removed, and the free space after each removal by age.
#   by age       leftovers after JANITOR_LEFTOVER_SECONDS, unused tagged images after
#                JANITOR_IMAGE_SECONDS
#   by pressure  at once, while less than JANITOR_MIN_FREE bytes are free, in this order: leftovers,
#                images older than JANITOR_LEFTOVER_SECONDS, cache beyond JANITOR_RESERVED bytes, all
#                other images, records of all builds but the last 50. With less than half of
#                JANITOR_MIN_FREE free: leftovers, all images, then that cache
# Never removes: what a container uses, anything younger than a minute (5 seconds with less than half of
# JANITOR_MIN_FREE free), named volumes, objects with the label docker-build-machine.keep, and images that
# match a pattern of JANITOR_KEEP (one pattern per line).
# Health: the file `unhealthy` in the work folder contains why the last rounds failed; it is empty when
# they succeeded.
set -eu
# Templates use the field names of the docker CLI's own structures (.ID, not the API's .Id). For a name that
# these lack, the CLI uses the raw response, in which engine 29 omits empty fields.
# A template on .Labels that prints one more word for an object with the label.
kept='{{with .Labels}}{{with index . "docker-build-machine.keep"}}kept{{end}}{{end}}'
# Docker's errors for an object that has been removed, or is in use, since it was listed.
gone='no such (container|image|volume|object)|lease "ref_[a-z0-9]+": not found'
in_use='conflict: |volume is in use|is already in progress|cannot remove .*(running|paused|restarting)'
data=/data
work=/run/janitor
seen=$work/seen

log_line() { printf '[janitor] %s\n' "$1"; }
now() { date +%s; }
free_bytes() { query df -Pk "$data" | awk 'NR == 2 { printf "%.0f", $4 * 1024; found = 1 } END { exit !found }'; }
is_low() { free=$(free_bytes) && [ "$free" -lt "$JANITOR_MIN_FREE" ]; }
gigabytes() { awk -v bytes="$1" 'BEGIN { printf "%.2f GB", bytes / 1e9 }'; }

# run FILE HARMLESS COMMAND...: prints the output of COMMAND. If COMMAND fails, returns 2 if all lines of
# its errors match HARMLESS, else 1, with each other line of errors in FILE.
run() {
	errors=$1 harmless=$2 code=0
	shift 2
	{ output=$("$@" 2>&1 >&3) || code=$?; } 3>&1
	[ "$code" -ne 0 ] || return 0
	output=$(printf '%s\n' "${output:-exit code $code}" | grep -viE "$harmless") || return 2
	printf '%s\n' "$output" | sed "s|^|$1 $2 $3: |" >>"$errors"
	return 1
}
# For commands that list what can be removed: when they fail, nothing is removed.
query() { run "$work/problems" "$gone" "$@" || [ $? -eq 2 ]; }
# For commands that remove.
run_removal() { run "$work/failed-removals" "$gone|$in_use" "$@"; }

# ago SECONDS: prints that time in Docker's format, so that comparing text compares times.
ago() { date -u -d "@$(($(now) - $1))" +%Y-%m-%dT%H:%M:%S; }

# count_removed WHY: adds what was removed since `begin` to the totals, for the setting metrics: a line with
# cause, kind and count for each.
count_removed() {
	[ -n "${JANITOR_TOTALS:-}" ] || return 0
	case $1 in 'by age') cause=age ;; *) cause=space ;; esac
	touch "$JANITOR_TOTALS"
	{ cat "$JANITOR_TOTALS" && awk -F '\t' -v OFS='\t' -v cause="$cause" '{ print cause, $1, 1 }' "$work/removed"; } |
		awk -F '\t' -v OFS='\t' '{ count[$1 OFS $2] += $3 } END { for (what in count) print what, count[what] }' \
			>"$JANITOR_TOTALS.new" && mv -f "$JANITOR_TOTALS.new" "$JANITOR_TOTALS"
}

# begin; remove KIND NAME COMMAND...; report WHY: prints one line about everything removed since `begin`.
begin() {
	: >"$work/removed"
	free_before=$(free_bytes) || return 1
}
remove() {
	kind=$1 name=$2
	shift 2
	run_removal "$@" >/dev/null || return 0
	printf '%s\t%s\n' "$kind" "$name" >>"$work/removed"
}
report() {
	[ -s "$work/removed" ] || return 0
	count_removed "$1" || log_line "$JANITOR_TOTALS cannot be written; next: pulumi up"
	log_line "$1: removed $(awk -F '\t' '
		!($1 in names) { kinds[++n] = $1; names[$1] = $2; next }
		{ more[$1]++ }
		END {
			for (i = 1; i <= n; i++) {
				kind = kinds[i]
				printf "%s%s %s%s", (i > 1 ? ", " : ""), kind, names[kind], (more[kind] ? " and " more[kind] " more" : "")
			}
		}' "$work/removed"); free $(gigabytes "$free_before") -> $(gigabytes "$(free_bytes)")"
}

# inspect TYPE TEMPLATE OPTION...: prints the template for each object that `docker TYPE ls` lists with these
# options; fails if docker does.
inspect() {
	type=$1 template=$2
	shift 2
	ids=$(query docker "$type" ls --quiet --no-trunc "$@") || return 1
	[ -n "$ids" ] || return 0
	# shellcheck disable=SC2086
	query docker "$type" inspect --format "$template" $ids
}

# stopped_containers SECONDS: ids of containers that ended, or were created and never started, more than
# SECONDS ago.
stopped_containers() {
	before=$(ago "$1")
	inspect container "{{.ID}} {{if eq .State.Status \"created\"}}{{.Created}}{{else}}{{.State.FinishedAt}}{{end}} {{with .Config}}$kept{{end}}" \
		--all --filter status=exited --filter status=created --filter status=dead |
		awk -v before="$before" 'NF == 2 && $2 < before { print $1 }'
}

# untagged_images SECONDS: ids of images that this script has seen without tag and container for SECONDS.
untagged_images() {
	before=$(ago "$1")
	used=$(used_images) || return 1
	inspect image "{{.ID}} {{with .Config}}$kept{{end}}" --filter dangling=true |
		awk 'NF == 1' | sort -u | while read -r image; do
		case $used in
		*"$image"*) rm -f "$seen/untagged $image" ;;
		*) printf '%s %s\n' "$(first_seen "untagged $image")" "$image" ;;
		esac
	done | awk -v before="$before" '$1 < before { print $2 }'
}

# first_seen NAME: prints the time of the first call with NAME. Docker does not report when an image lost
# its last tag or was loaded from an archive.
first_seen() {
	[ -f "$seen/$1" ] || ago 0 >"$seen/$1"
	touch "$seen/$1"
	cat "$seen/$1"
}

used_images() { inspect container '{{.Image}}' --all; }

# tagged_images SECONDS: names, oldest first, of images that no container uses and that were last tagged,
# pulled or loaded more than SECONDS ago.
tagged_images() {
	before=$(ago "$1")
	used=$(used_images) || return 1
	inspect image "{{\$i := .}}{{range .RepoTags}}{{json \$i.Metadata.LastTagTime}} {{\$i.ID}} {{.}} {{with \$i.Config}}$kept{{end}}{{\"\n\"}}{{end}}" \
		--filter dangling=false |
		sort -u | tr -d '"' | awk 'NF == 3' | while read -r time image name; do
		case $used in *"$image"*) continue ;; esac
		is_kept "$name" && continue
		case $time in 0001-*) time=$(first_seen "$image") ;; esac
		printf '%s %s\n' "$time" "$name"
	done | sort | awk -v before="$before" '$1 < before { print $2 }'
}

is_kept() {
	printf '%s\n' "$JANITOR_KEEP" | {
		while read -r pattern; do
			# shellcheck disable=SC2254
			case $1 in $pattern) exit 0 ;; esac
		done
		exit 1
	}
}

# anonymous_volumes SECONDS: anonymous volumes without a container that were created more than SECONDS ago.
anonymous_volumes() {
	before=$(ago "$1")
	names=$(query docker volume ls --quiet --filter dangling=true) || return 1
	names=$(printf '%s\n' "$names" | grep -Ex '[0-9a-f]{64}') || return 0
	# shellcheck disable=SC2086
	query docker volume inspect --format '{{.Name}} {{.CreatedAt}}' $names |
		awk -v before="$before" '$2 < before { print $1 }'
}

# idle_builders SECONDS: id and name of builders of setup-buildx-action (they have random names) that were
# started more than SECONDS ago and in which no build step runs.
idle_builders() {
	before=$(ago "$1")
	inspect container "{{.ID}} {{.State.StartedAt}} {{.Name}} {{with .Config}}$kept{{end}}" \
		--filter 'name=^/buildx_buildkit_builder-[0-9a-f]{8}-[0-9a-f-]{27}' |
		awk -v before="$before" 'NF == 3 && $2 < before { print $1, substr($3, 2) }' | while read -r id name; do
		# `docker top` needs cgroups, which a rootless daemon may lack. Builders of setup-buildx-action have ps.
		processes=$(run "$work/failed-removals" "$gone|is not running|is paused|executable file not found" docker container exec "$id" ps -o args) || continue
		case $processes in *runc*) ;; ?*) printf '%s %s\n' "$id" "$name" ;; esac
	done
}

# remove_leftovers SECONDS
remove_leftovers() {
	idle_builders "$1" >"$work/idle" || : >"$work/idle"
	while read -r id name; do
		remove builder "$name" docker container rm --force --volumes "$id"
		remove volume "${name}_state" docker volume rm "${name}_state"
	done <"$work/idle"
	for id in $(stopped_containers "$1"); do
		remove container "$(name_of "$id")" docker container rm --volumes "$id"
	done
	for id in $(untagged_images "$1"); do
		remove 'untagged image' "$id" docker image rm "$id"
	done
	for name in $(anonymous_volumes "$1"); do
		remove 'anonymous volume' "$name" docker volume rm "$name"
	done
}

name_of() { query docker container inspect --format '{{.Name}}' "$1" | tr -d /; }

remove_networks() {
	for name in $(run_removal docker network prune --force --filter "until=${1}s" --filter "label!=docker-build-machine.keep" | sed '1d;/^$/d'); do
		remove network "$name" true
	done
}

# remove_images SECONDS [is_low]: with is_low, stops once enough space is free. Removes five images per
# call, because single calls are too slow while jobs fill the disk.
remove_images() {
	tagged_images "$1" >"$work/tagged" || return 0
	while names=$(head -n 5 "$work/tagged") && [ -n "$names" ]; do
		sed -i 1,5d "$work/tagged"
		[ -z "${2:-}" ] || is_low || return 0
		# shellcheck disable=SC2086
		run_removal docker image rm $names |
			awk '$1 == "Untagged:" && $2 !~ /@/ { print "image\t" $2 }' >>"$work/removed"
	done
}

# Release 28 renamed the option; a later one may drop the old name.
reserve=--reserved-space
docker builder prune --help | grep -q -- "$reserve" || reserve=--keep-storage

# shrink_cache BYTES
shrink_cache() {
	freed=$(run_removal docker builder prune --all --force "$reserve" "$1" | awk '/^Total/ { print $NF }')
	case $freed in '' | 0B) ;; *) remove cache "$freed" true ;; esac
}

# forget_builds: removes what the daemon remembers of builds that ended before the last 50 started. `ls` lists
# 50 builds at most, the newest; `<` compares whole seconds. Releases before 28 have no command for it, and
# print another help with exit code 0. BuildKit refuses to remove a record without a lease ("not found"), which
# stays when the disk was full while the record was being removed: the lease is in another database, and goes
# first.
forget_builds() {
	docker buildx history rm --help 2>&1 | grep -q 'buildx history rm' || return 0
	since=$(query docker buildx history ls --format json | sed -n '50s/.*"created_at":"\([^"]*\)".*/\1/p')
	[ -n "$since" ] || return 0
	before=''
	while refs=$(query docker buildx history ls --filter "completedAt<$since" --format '{{.Ref}}') && [ "$refs" != "$before" ]; do
		for ref in $refs; do remove 'build record' "$ref" docker buildx history rm "$ref"; done
		before=$refs
	done
}

make_room() {
	begin || return 0
	# A job may still run or push what it built, but the next build must not fail for lack of space: remove
	# what is older than a minute, and down to 5 seconds when half of JANITOR_MIN_FREE is free.
	minimum_age=$(awk -v free="$free_before" -v least="$JANITOR_MIN_FREE" '
		BEGIN { left = 2 * free / least - 1; print int(5 + 55 * (left > 0 ? left : 0)) }')
	remove_leftovers "$minimum_age"
	# Pruning does not free cache that images share. With little time left, images go first.
	if [ "$minimum_age" -gt 5 ]; then
		! is_low || remove_images "$JANITOR_LEFTOVER_SECONDS" is_low
		! is_low || shrink_cache "$JANITOR_RESERVED"
	fi
	if is_low; then
		remove_images "$minimum_age" is_low
		# Only now can the cache that these images shared be freed.
		shrink_cache "$JANITOR_RESERVED"
		! is_low || forget_builds
	fi
	report 'the disk is nearly full'
	is_low || return 0
	[ $(($(now) - ${warned:-0})) -ge 300 ] || return 0
	warned=$(now)
	log_line "the disk is nearly full and nothing more can be removed: $(gigabytes "$(free_bytes)") free, minFreeSpace is $(gigabytes "$JANITOR_MIN_FREE"); next: a larger disk, a smaller cacheSize, or fewer images that are kept"
}

sweep() {
	begin || return 0
	remove_leftovers "$JANITOR_LEFTOVER_SECONDS"
	remove_networks "$JANITOR_LEFTOVER_SECONDS"
	remove_images "$JANITOR_IMAGE_SECONDS"
	# An untagged image that is still there was seen in this sweep or the one before.
	find "$seen" -type f -name 'untagged *' -mmin "+$((sweep_seconds / 30 + 1))" -exec rm -f {} +
	find "$seen" -type f -mmin +1440 -exec rm -f {} +
	report 'by age'
	# client/forecast.py reads this line.
	if free=$(free_bytes); then log_line "$(gigabytes "$free") free"; fi
}

# record_failures [all]: sets the health, and reports failed commands at most every five minutes. Failed
# removals do not make the janitor unhealthy as long as something else was removed. With `all` a round
# without problems makes it healthy again.
record_failures() {
	[ -s "$work/removed" ] || cat "$work/failed-removals" >>"$work/problems"
	# A daemon that starts or is being replaced does not answer for a moment; that is not reported.
	case $unanswered in
	[1-9] | 1[0-4]) ;;
	*) sort -u "$work/problems" "$work/failed-removals" >>"$work/failures" ;;
	esac
	: >"$work/failed-removals"
	if [ -s "$work/failures" ] && [ "$(now)" -ge "$report_from" ]; then
		report_from=$(($(now) + 300))
		log_line "commands that failed: $(wc -l <"$work/failures"), the last: $(tail -n 1 "$work/failures"); next: if this continues, look at the log of the daemon's container"
		: >"$work/failures"
	fi
	if [ -s "$work/problems" ]; then
		mv -f "$work/problems" "$work/unhealthy"
		: >"$work/problems"
	elif [ "${1:-}" = all ] && [ -s "$work/unhealthy" ]; then
		: >"$work/unhealthy"
		# The next failure is reported at once.
		[ "$report_from" -eq 0 ] || log_line "works again; commands that failed meanwhile: $(wc -l <"$work/failures")"
		report_from=0
		: >"$work/failures"
	fi
}

# One round: removal by age when it is due, then by pressure.
round() {
	# `docker version` would leave a connection open in the daemon (components/daemon/__init__.py).
	if query docker container ls --quiet >/dev/null; then
		unanswered=0
		if [ "$(now)" -ge "$next_sweep" ]; then
			next_sweep=$(($(now) + sweep_seconds))
			sweep
			record_failures all
		fi
		if is_low; then
			make_room
			record_failures
		fi
	else
		unanswered=$((unanswered + 1))
		record_failures
	fi
	soon=$(($(now) + (unanswered > 0 ? 2 : 60)))
	[ ! -s "$work/unhealthy" ] || [ "$next_sweep" -le "$soon" ] || next_sweep=$soon
	next_round=$((next_sweep < soon ? next_sweep : soon))
}

trap 'exit 0' TERM INT
mkdir -p "$seen"
for file in removed failed-removals problems failures; do : >"$work/$file"; done
echo 'the first round has not ended' >"$work/unhealthy"
# Seconds between two sweeps: a tenth of the shorter age, between five seconds and an hour.
sweep_seconds=$((JANITOR_LEFTOVER_SECONDS < JANITOR_IMAGE_SECONDS ? JANITOR_LEFTOVER_SECONDS / 10 : JANITOR_IMAGE_SECONDS / 10))
[ "$sweep_seconds" -ge 5 ] || sweep_seconds=5
[ "$sweep_seconds" -le 3600 ] || sweep_seconds=3600
unanswered=0 report_from=0 next_sweep=0 next_round=0
while :; do
	: >"$work/alive"
	: >"$work/problems"
	# Query the daemon at least once a minute: a janitor that cannot reach it must not look healthy.
	if is_low || [ -s "$work/problems" ] || [ "$(now)" -ge "$next_round" ]; then round; fi
	sleep 1 &
	wait $!
done
