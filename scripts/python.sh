# shellcheck shell=bash
# The virtual environment with the packages of the program and its tests.

have_python() {
	local python
	python=$(command -v python3) || fail "python3 is missing; next: apt-get install python3"
	"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
		fail "python3 is $("$python" -V); 3.11 or newer is needed; next: use Debian 12, Ubuntu 24.04 or newer"
	if [[ ! -x $ROOT/.venv/bin/pip ]]; then
		"$python" -c 'import ensurepip' 2>/dev/null || have_packages python3-venv
		quietly 'Virtual environment' "$python" -m venv "$ROOT/.venv"
	fi
	local mark=$ROOT/.venv/.installed wanted
	wanted=$(cat "$@" | sha256sum)
	if [[ $(cat "$mark" 2>/dev/null) != "$wanted" ]]; then
		local options=() file
		for file in "$@"; do options+=(--requirement "$file"); done
		quietly 'Python packages' "$ROOT/.venv/bin/pip" install --disable-pip-version-check "${options[@]}"
		echo "$wanted" >"$mark"
	fi
}
