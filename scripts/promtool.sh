# shellcheck shell=bash
# promtool, which checks Prometheus' alert rules, out of the distribution's package. The package is not
# installed, because it would start a Prometheus.

have_promtool() {
	local folder=${XDG_CACHE_HOME:-$HOME/.cache}/docker-build-machine/promtool
	if [[ ! -x $folder/promtool ]]; then
		mkdir -p "$folder"
		quietly 'promtool' take_promtool "$folder"
	fi
	ln -sfn "$folder/promtool" "$STATE/bin/promtool"
}

take_promtool() {
	(
		cd "$1" || return
		rm -f prometheus_*.deb
		apt-get download prometheus &&
			dpkg-deb --fsys-tarfile prometheus_*.deb | tar -x --strip-components=3 ./usr/bin/promtool &&
			rm prometheus_*.deb
	)
}
