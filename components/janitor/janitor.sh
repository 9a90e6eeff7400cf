#!/bin/sh
# Keeps the daemon's disk from filling up with what jobs leave behind. Runs as long as its
# container; says what it removed, and nothing when there was nothing to remove.
#   by age       leftovers after JANITOR_LEFTOVER_SECONDS, unused tagged images after
#                JANITOR_IMAGE_SECONDS
#   by pressure  at once while less than JANITOR_MIN_FREE bytes are free: leftovers, images older
#                than leftovers may get, cache beyond JANITOR_RESERVED bytes, then all other images;
#                with less than half of them free, leftovers, all other images and then that cache
# Never: what a container uses, what is younger than a minute (5 seconds with less than that half), a
# named volume, whatever carries the label docker-build-machine.keep, images like one of JANITOR_KEEP
# (patterns, one a line).
# Health: `unwell` in the work folder says why the last rounds did not work, and is empty when they did.
set -eu
# Templates name the fields of the docker CLI's own structures (.ID, not the API's .Id): with a name that
# these lack the CLI takes the raw answer, from which engine 29 leaves out what is empty.
# A word more where the label is, for templates on .Labels.
kept='{{with .Labels}}{{with index . "docker-build-machine.keep"}}kept{{end}}{{end}}'
# What Docker says of a thing that went, or came into use, since it was listed.
gone='no such (container|image|volume|object)'
taken='conflict: |volume is in use|is already in progress|cannot remove .*(running|paused|restarting)'
data=/data
work=/run/janitor
seen=$work/seen

tell() { printf '[janitor] %s\n' "$1"; }
now() { date +%s; }
free_bytes() { look df -Pk "$data" | awk 'NR == 2 { printf "%.0f", $4 * 1024; found = 1 } END { exit !found }'; }
is_low() { free=$(free_bytes) && [ "$free" -lt "$JANITOR_MIN_FREE" ]; }
readable() { awk -v bytes="$1" 'BEGIN { printf "%.2f GB", bytes / 1e9 }'; }

# ask FILE HARMLESS COMMAND...: prints what COMMAND prints. When COMMAND fails, returns 2 if all of its
# complaints match HARMLESS, else 1 with each other complaint as a line in FILE.
ask() {
	complaints=$1 harmless=$2 code=0
	shift 2
	{ output=$("$@" 2>&1 >&3) || code=$?; } 3>&1
	[ "$code" -ne 0 ] || return 0
	output=$(printf '%s\n' "${output:-exit code $code}" | grep -viE "$harmless") || return 2
	printf '%s\n' "$output" | sed "s|^|$1 $2 $3: |" >>"$complaints"
	return 1
}
# For commands that say what may go: without their answer nothing goes.
look() { ask "$work/troubles" "$gone" "$@" || [ $? -eq 2 ]; }
# For commands that remove.
attempt() { ask "$work/refused" "$gone|$taken" "$@"; }

# ago SECONDS: that moment as Docker writes it, so that text compares as time does.
ago() { date -u -d "@$(($(now) - $1))" +%Y-%m-%dT%H:%M:%S; }

# begin; remove KIND NAME COMMAND...; report WHY: one line about what went in between.
begin() {
	: >"$work/removed"
	free_before=$(free_bytes) || return 1
}
remove() {
	kind=$1 name=$2
	shift 2
	attempt "$@" >/dev/null || return 0
	printf '%s\t%s\n' "$kind" "$name" >>"$work/removed"
}
report() {
	[ -s "$work/removed" ] || return 0
	tell "$1: removed $(awk -F '\t' '
		!($1 in names) { kinds[++n] = $1; names[$1] = $2; next }
		{ more[$1]++ }
		END {
			for (i = 1; i <= n; i++) {
				kind = kinds[i]
				printf "%s%s %s%s", (i > 1 ? ", " : ""), kind, names[kind], (more[kind] ? " and " more[kind] " more" : "")
			}
		}' "$work/removed"); free $(readable "$free_before") -> $(readable "$(free_bytes)")"
}

# stopped_containers SECONDS: those that ended, or were made and never started, longer ago.
stopped_containers() {
	before=$(ago "$1")
	ids=$(look docker container ls --all --quiet --no-trunc --filter status=exited --filter status=created --filter status=dead) || return 1
	[ -n "$ids" ] || return 0
	# shellcheck disable=SC2086
	look docker container inspect --format "{{.ID}} {{if eq .State.Status \"created\"}}{{.Created}}{{else}}{{.State.FinishedAt}}{{end}} {{with .Config}}$kept{{end}}" $ids |
		awk -v before="$before" 'NF == 2 && $2 < before { print $1 }'
}

# untagged_images SECONDS: those that have been seen without tag and container for so long.
untagged_images() {
	before=$(ago "$1")
	used=$(used_images) || return 1
	ids=$(look docker image ls --quiet --no-trunc --filter dangling=true) || return 1
	[ -n "$ids" ] || return 0
	# shellcheck disable=SC2086
	look docker image inspect --format "{{.ID}} {{with .Config}}$kept{{end}}" $ids |
		awk 'NF == 1' | sort -u | while read -r image; do
		case $used in
		*"$image"*) rm -f "$seen/untagged $image" ;;
		*) printf '%s %s\n' "$(first_seen "untagged $image")" "$image" ;;
		esac
	done | awk -v before="$before" '$1 < before { print $2 }'
}

# first_seen NAME: when it was asked for the first time. Docker does not tell when an image lost
# its last tag, nor when one was loaded from an archive.
first_seen() {
	[ -f "$seen/$1" ] || ago 0 >"$seen/$1"
	touch "$seen/$1"
	cat "$seen/$1"
}

used_images() {
	ids=$(look docker container ls --all --quiet) || return 1
	[ -n "$ids" ] || return 0
	# shellcheck disable=SC2086
	look docker container inspect --format '{{.Image}}' $ids
}

# tagged_images SECONDS: the names, oldest first, of images that nobody uses and nobody tagged,
# pulled or loaded since.
tagged_images() {
	before=$(ago "$1")
	used=$(used_images) || return 1
	ids=$(look docker image ls --quiet --no-trunc --filter dangling=false) || return 1
	[ -n "$ids" ] || return 0
	# shellcheck disable=SC2086
	look docker image inspect --format "{{\$i := .}}{{range .RepoTags}}{{json \$i.Metadata.LastTagTime}} {{\$i.ID}} {{.}} {{with \$i.Config}}$kept{{end}}{{\"\n\"}}{{end}}" $ids |
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

# anonymous_volumes SECONDS: without a name, without a container, made longer ago.
anonymous_volumes() {
	before=$(ago "$1")
	names=$(look docker volume ls --quiet --filter dangling=true) || return 1
	names=$(printf '%s\n' "$names" | grep -Ex '[0-9a-f]{64}') || return 0
	# shellcheck disable=SC2086
	look docker volume inspect --format '{{.Name}} {{.CreatedAt}}' $names |
		awk -v before="$before" '$2 < before { print $1 }'
}

# idle_builders SECONDS: of setup-buildx-action (their names are random), started longer ago, in
# which no build step runs: id and name.
idle_builders() {
	before=$(ago "$1")
	ids=$(look docker container ls --quiet --no-trunc --filter 'name=^/buildx_buildkit_builder-[0-9a-f]{8}-[0-9a-f-]{27}') || return 1
	[ -n "$ids" ] || return 0
	# shellcheck disable=SC2086
	look docker container inspect --format "{{.ID}} {{.State.StartedAt}} {{.Name}} {{with .Config}}$kept{{end}}" $ids |
		awk -v before="$before" 'NF == 3 && $2 < before { print $1, substr($3, 2) }' | while read -r id name; do
		# `docker top` needs cgroups, which a rootless daemon may lack.
		# Without ps it is none of setup-buildx-action.
		runs=$(ask "$work/refused" "$gone|is not running|is paused|executable file not found" docker container exec "$id" ps -o args) || continue
		case $runs in *runc*) ;; ?*) printf '%s %s\n' "$id" "$name" ;; esac
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

name_of() { look docker container inspect --format '{{.Name}}' "$1" | tr -d /; }

remove_networks() {
	for name in $(attempt docker network prune --force --filter "until=${1}s" --filter "label!=docker-build-machine.keep" | sed '1d;/^$/d'); do
		remove network "$name" true
	done
}

# remove_images SECONDS [is_low]: with it, only as long as that holds. A few in one call, for jobs may
# fill the disk meanwhile.
remove_images() {
	tagged_images "$1" >"$work/tagged" || return 0
	while names=$(head -n 5 "$work/tagged") && [ -n "$names" ]; do
		sed -i 1,5d "$work/tagged"
		[ -z "${2:-}" ] || is_low || return 0
		# shellcheck disable=SC2086
		attempt docker image rm $names |
			awk '$1 == "Untagged:" && $2 !~ /@/ { print "image\t" $2 }' >>"$work/removed"
	done
}

# Renamed in release 28; the old name is kept, but not for ever.
reserve=--reserved-space
docker builder prune --help | grep -q -- "$reserve" || reserve=--keep-storage

# shrink_cache BYTES
shrink_cache() {
	freed=$(attempt docker builder prune --all --force "$reserve" "$1" | awk '/^Total/ { print $NF }')
	case $freed in '' | 0B) ;; *) remove cache "$freed" true ;; esac
}

relieve() {
	begin || return 0
	# A job may still want to run or push what it built, but not at the price of the next build: a
	# minute to begin with, 5 seconds once half of what should be free is gone.
	youngest=$(awk -v free="$free_before" -v least="$JANITOR_MIN_FREE" '
		BEGIN { left = 2 * free / least - 1; print int(5 + 55 * (left > 0 ? left : 0)) }')
	remove_leftovers "$youngest"
	# Cache that images hold too is not freed by pruning, and there may be no time to find that out.
	if [ "$youngest" -gt 5 ]; then
		! is_low || remove_images "$JANITOR_LEFTOVER_SECONDS" is_low
		! is_low || shrink_cache "$JANITOR_RESERVED"
	fi
	if is_low; then
		remove_images "$youngest" is_low
		# What these images shared with the cache is free only now.
		shrink_cache "$JANITOR_RESERVED"
	fi
	report 'the disk is nearly full'
	is_low || return 0
	[ $(($(now) - ${warned:-0})) -ge 300 ] || return 0
	warned=$(now)
	tell "the disk is nearly full and nothing more may go: $(readable "$(free_bytes)") free, minFreeSpace is $(readable "$JANITOR_MIN_FREE"); next: a larger disk, a smaller cacheSize, or fewer images that stay"
}

sweep() {
	begin || return 0
	remove_leftovers "$JANITOR_LEFTOVER_SECONDS"
	remove_networks "$JANITOR_LEFTOVER_SECONDS"
	remove_images "$JANITOR_IMAGE_SECONDS"
	find "$seen" -type f -mmin +1440 -exec rm -f {} +
	report 'by age'
}

# settle: what did not work is counted, and told every five minutes at most. Refused removals do not make
# the janitor unwell as long as something else went.
settle() {
	[ -s "$work/removed" ] || cat "$work/refused" >>"$work/troubles"
	# A daemon that starts, or is being replaced, is away for a moment: nothing to tell.
	case $away in
	[1-9] | 1[0-4]) ;;
	*) sort -u "$work/troubles" "$work/refused" >>"$work/failures" ;;
	esac
	: >"$work/refused"
	if [ -s "$work/failures" ] && [ "$(now)" -ge "$tell_from" ]; then
		tell_from=$(($(now) + 300))
		tell "commands that failed: $(wc -l <"$work/failures"), the last: $(tail -n 1 "$work/failures"); next: if it goes on, look at the log of the daemon's container"
		: >"$work/failures"
	fi
	if [ -s "$work/troubles" ]; then
		mv -f "$work/troubles" "$work/unwell"
		: >"$work/troubles"
	elif [ "${1:-}" = all ] && [ -s "$work/unwell" ]; then
		: >"$work/unwell"
		# From here on the next failure is told at once.
		[ "$tell_from" -eq 0 ] || tell "works again; commands that failed meanwhile: $(wc -l <"$work/failures")"
		tell_from=0
		: >"$work/failures"
	fi
}

# One round: what is due by age, then by pressure.
round() {
	if look docker version --format '{{.Server.Version}}' >/dev/null; then
		away=0
		if [ "$(now)" -ge "$next_sweep" ]; then
			next_sweep=$(($(now) + every))
			sweep
			settle all
		fi
		if is_low; then
			relieve
			settle
		fi
	else
		away=$((away + 1))
		settle
	fi
	soon=$(($(now) + (away > 0 ? 2 : 60)))
	[ ! -s "$work/unwell" ] || [ "$next_sweep" -le "$soon" ] || next_sweep=$soon
	next_round=$((next_sweep < soon ? next_sweep : soon))
}

trap 'exit 0' TERM INT
mkdir -p "$seen"
for file in removed refused troubles failures; do : >"$work/$file"; done
echo 'the first round has not ended' >"$work/unwell"
# A tenth of the shorter age, between five seconds and an hour.
every=$((JANITOR_LEFTOVER_SECONDS < JANITOR_IMAGE_SECONDS ? JANITOR_LEFTOVER_SECONDS / 10 : JANITOR_IMAGE_SECONDS / 10))
[ "$every" -ge 5 ] || every=5
[ "$every" -le 3600 ] || every=3600
away=0 tell_from=0 next_sweep=0 next_round=0
while :; do
	: >"$work/alive"
	: >"$work/troubles"
	# The daemon is asked once a minute, for a janitor that cannot reach it must not look well.
	if is_low || [ -s "$work/troubles" ] || [ "$(now)" -ge "$next_round" ]; then round; fi
	sleep 1 &
	wait $!
done
