# shellcheck shell=bash
# What a person sees: one line for each step, with its seconds, and errors with the next step.

step() { printf '\033[1m==>\033[0m %s\n' "$1" >&2; }
note() { printf '    %s\n' "$1" >&2; }
fail() {
	printf '\033[1merror:\033[0m %s\n' "$1" >&2
	exit 1
}

# quietly WHAT COMMAND...: runs COMMAND with its output in a log; shows the end of the log if it fails.
quietly() {
	local what=$1 log start=$SECONDS
	shift
	log=$STATE/log/$(tr -c '[:alnum:]\n' '-' <<<"$what").log
	mkdir -p "$STATE/log"
	step "$what"
	if ! "$@" >"$log" 2>&1; then
		tail -n 20 "$log" >&2
		fail "$what: failed; the full log is ${log#"$ROOT"/}"
	fi
	note "done ($((SECONDS - start)) s)"
}

as_root() {
	if [[ $(id -u) -eq 0 ]]; then
		"$@"
	elif command -v sudo >/dev/null; then
		sudo "$@"
	else
		fail "this needs root: $*; next: run this as root or install sudo"
	fi
}

# have_packages PACKAGE...: installs those of these Debian packages that are missing.
have_packages() {
	local package missing=()
	for package in "$@"; do
		[[ $(dpkg-query -W -f '${Status}' "$package" 2>/dev/null) == 'install ok installed' ]] || missing+=("$package")
	done
	[[ ${#missing[@]} -gt 0 ]] || return 0
	command -v apt-get >/dev/null || fail "missing programs, and no apt-get to install them: ${missing[*]}; next: install them"
	[[ -n ${apt_updated:-} ]] || quietly 'Package lists' as_root apt-get update
	apt_updated=yes
	quietly "Install ${missing[*]}" as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
}

# reachable URL: whether something answers there within five seconds.
reachable() {
	python3 - "$1" <<-'PYTHON' 2>/dev/null
		import sys, urllib.request
		urllib.request.urlopen(urllib.request.Request(sys.argv[1], method="HEAD"), timeout=5)
	PYTHON
}
