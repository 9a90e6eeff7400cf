# shellcheck shell=bash
# promtool, which checks Prometheus' alert rules, out of the distribution's package. The package is not
# installed, because it would start a Prometheus.

have_promtool() {
	local version folder
	version=$(prometheus_version)
	if [[ -z $version ]]; then
		quietly 'Package lists' as_root apt-get update
		version=$(prometheus_version)
	fi
	[[ -n $version ]] || fail 'the distribution has no package prometheus; next: use Debian or Ubuntu, whose promtool the tests run'
	folder=${XDG_CACHE_HOME:-$HOME/.cache}/docker-build-machine/promtool-$version
	if [[ ! -x $folder/promtool ]]; then
		mkdir -p "$folder"
		quietly 'promtool' take_promtool "$folder"
	fi
	ln -sfn "$folder/promtool" "$STATE/bin/promtool"
}

# Prints the version of the package that apt would take; nothing without package lists.
prometheus_version() { LC_ALL=C apt-cache policy prometheus | sed -n 's/^  Candidate: //p' | grep -vx '(none)' || :; }

take_promtool() {
	(
		cd "$1" || return
		rm -f prometheus_*.deb
		apt-get download prometheus &&
			dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 ./usr/bin/promtool &&
			rm prometheus_*.deb
	)
}
