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
set -eu
# A word more where the label is, for templates on .Labels.
kept='{{with .Labels}}{{with index . "docker-build-machine.keep"}}kept{{end}}{{end}}'
data=/data
work=/run/janitor
seen=$work/seen

tell() { printf '[janitor] %s\n' "$1"; }
now() { date +%s; }
free_bytes() { df -Pk "$data" | awk 'NR == 2 { printf "%.0f", $4 * 1024 }'; }
is_low() { [ "$(free_bytes)" -lt "$JANITOR_MIN_FREE" ]; }
readable() { awk -v bytes="$1" 'BEGIN { printf "%.2f GB", bytes / 1e9 }'; }

# ago SECONDS: that moment as Docker writes it, so that text compares as time does.
ago() { date -u -d "@$(($(now) - $1))" +%Y-%m-%dT%H:%M:%S; }

# begin; remove KIND NAME COMMAND...; report WHY: one line about what went in between.
begin() {
	: >"$work/removed"
	free_before=$(free_bytes)
}
remove() {
	kind=$1 name=$2
	shift 2
	# What came into use in the meantime, Docker refuses to remove.
	"$@" >/dev/null 2>&1 || return 0
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
	ids=$(docker container ls --all --quiet --no-trunc --filter status=exited --filter status=created --filter status=dead)
	[ -n "$ids" ] || return 0
	# shellcheck disable=SC2086
	docker container inspect --format "{{.Id}} {{if eq .State.Status \"created\"}}{{.Created}}{{else}}{{.State.FinishedAt}}{{end}} {{with .Config}}$kept{{end}}" $ids 2>/dev/null |
		awk -v before="$before" 'NF == 2 && $2 < before { print $1 }'
}

# untagged_images SECONDS: those that have been seen without tag and container for so long.
untagged_images() {
	before=$(ago "$1")
	used=$(used_images)
	ids=$(docker image ls --quiet --no-trunc --filter dangling=true | sort -u)
	[ -n "$ids" ] || return 0
	# shellcheck disable=SC2086
	docker image inspect --format "{{.Id}} {{with .Config}}$kept{{end}}" $ids 2>/dev/null |
		awk 'NF == 1' | while read -r image; do
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
	ids=$(docker container ls --all --quiet)
	[ -n "$ids" ] || return 0
	# shellcheck disable=SC2086
	docker container inspect --format '{{.Image}}' $ids 2>/dev/null | sort -u
}

# tagged_images SECONDS: the names, oldest first, of images that nobody uses and nobody tagged,
# pulled or loaded since.
tagged_images() {
	before=$(ago "$1")
	used=$(used_images)
	ids=$(docker image ls --quiet --no-trunc --filter dangling=false | sort -u)
	[ -n "$ids" ] || return 0
	# shellcheck disable=SC2086
	docker image inspect --format "{{\$i := .}}{{range .RepoTags}}{{json \$i.Metadata.LastTagTime}} {{\$i.Id}} {{.}} {{with \$i.Config}}$kept{{end}}{{\"\\n\"}}{{end}}" $ids 2>/dev/null |
		tr -d '"' | awk 'NF == 3' | while read -r time image name; do
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
	names=$(docker volume ls --quiet --filter dangling=true | grep -Ex '[0-9a-f]{64}') || return 0
	# shellcheck disable=SC2086
	docker volume inspect --format '{{.Name}} {{.CreatedAt}}' $names 2>/dev/null |
		awk -v before="$before" '$2 < before { print $1 }'
}

# idle_builders SECONDS: of setup-buildx-action (their names are random), started longer ago, in
# which no build step runs.
idle_builders() {
	before=$(ago "$1")
	ids=$(docker container ls --quiet --no-trunc --filter 'name=^/buildx_buildkit_builder-[0-9a-f]{8}-[0-9a-f-]{27}')
	[ -n "$ids" ] || return 0
	# shellcheck disable=SC2086
	docker container inspect --format "{{.Id}} {{.State.StartedAt}} {{with .Config}}$kept{{end}}" $ids 2>/dev/null |
		awk -v before="$before" 'NF == 2 && $2 < before { print $1 }' | while read -r id; do
		# `docker top` needs cgroups, which a rootless daemon may lack.
		runs=$(docker container exec "$id" ps -o args 2>/dev/null) || continue
		case $runs in *runc*) ;; *) printf '%s\n' "$id" ;; esac
	done
}

# remove_leftovers SECONDS
remove_leftovers() {
	for id in $(idle_builders "$1"); do
		name=$(name_of "$id")
		remove builder "$name" docker container rm --force --volumes "$id"
		remove volume "${name}_state" docker volume rm "${name}_state"
	done
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

name_of() { docker container inspect --format '{{.Name}}' "$1" 2>/dev/null | tr -d /; }

remove_networks() {
	for name in $(docker network prune --force --filter "until=${1}s" --filter "label!=docker-build-machine.keep" 2>/dev/null | sed '1d;/^$/d'); do
		remove network "$name" true
	done
}

# remove_images SECONDS [is_low]: with it, only as long as that holds. A few in one call, for jobs may
# fill the disk meanwhile.
remove_images() {
	tagged_images "$1" >"$work/tagged"
	while names=$(head -n 5 "$work/tagged") && [ -n "$names" ]; do
		sed -i 1,5d "$work/tagged"
		[ -z "${2:-}" ] || is_low || return 0
		# shellcheck disable=SC2086
		docker image rm $names 2>/dev/null |
			awk '$1 == "Untagged:" && $2 !~ /@/ { print "image\t" $2 }' >>"$work/removed"
	done
}

# Renamed in release 28; the old name is kept, but not for ever.
reserve=--reserved-space
docker builder prune --help 2>/dev/null | grep -q -- "$reserve" || reserve=--keep-storage

# shrink_cache BYTES
shrink_cache() {
	freed=$(docker builder prune --all --force "$reserve" "$1" 2>/dev/null | awk '/^Total/ { print $NF }')
	case $freed in '' | 0B) ;; *) remove cache "$freed" true ;; esac
}

relieve() {
	begin
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
	begin
	remove_leftovers "$JANITOR_LEFTOVER_SECONDS"
	remove_networks "$JANITOR_LEFTOVER_SECONDS"
	remove_images "$JANITOR_IMAGE_SECONDS"
	find "$seen" -type f -mmin +1440 -exec rm -f {} +
	report 'by age'
}

trap 'exit 0' TERM INT
mkdir -p "$seen"
# A tenth of the shorter age, between five seconds and an hour.
every=$((JANITOR_LEFTOVER_SECONDS < JANITOR_IMAGE_SECONDS ? JANITOR_LEFTOVER_SECONDS / 10 : JANITOR_IMAGE_SECONDS / 10))
[ "$every" -ge 5 ] || every=5
[ "$every" -le 3600 ] || every=3600
next=0
while :; do
	: >"$work/alive"
	if is_low || [ "$(now)" -ge "$next" ]; then
		if docker version >/dev/null 2>&1; then
			[ "$(now)" -lt "$next" ] || {
				sweep
				next=$(($(now) + every))
			}
			! is_low || relieve
		fi
	fi
	sleep 1 &
	wait $!
done
