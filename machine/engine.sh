# shellcheck shell=bash
# A Docker engine on this machine, and a docker CLI that can speak BuildKit.

docker_pid=$STATE/dockerd.pid

have_engine() {
	if docker info >/dev/null 2>&1; then
		note "Docker engine: $(docker version --format '{{.Server.Version}}'), already there"
	else
		command -v dockerd >/dev/null || have_packages docker.io
		if [[ -d /run/systemd/system ]]; then
			quietly 'Start Docker' as_root systemctl start docker
		else
			step 'Start Docker by hand'
			as_root setsid nohup dockerd --pidfile "$docker_pid" >"$STATE/log/dockerd.log" 2>&1 9>&- &
			local tries=0
			until docker info >/dev/null 2>&1; do
				tries=$((tries + 1))
				[[ $tries -lt 60 ]] || {
					tail -n 20 "$STATE/log/dockerd.log" >&2
					fail 'Docker does not start; its log is .state/log/dockerd.log'
				}
				sleep 0.5
			done
		fi
	fi
	have_docker_cli
	if [[ -c /dev/net/tun && $(stat -c %a /dev/net/tun) != *[67] ]]; then
		note '/dev/net/tun becomes usable by everybody (chmod 0666), as rootless networking needs'
		note "to keep it over a reboot: echo 'z /dev/net/tun 0666' > /etc/tmpfiles.d/tun.conf"
		as_root chmod 0666 /dev/net/tun
	elif [[ ! -c /dev/net/tun ]]; then
		as_root modprobe tun || true
	fi
}

# have_engine for a run that ends, whatever comes, what it started.
borrow_engine() {
	local had=no
	! docker info >/dev/null 2>&1 || had=yes
	have_engine
	[[ $had == yes ]] || trap stop_engine EXIT
}

# speaks_buildkit CLI: whether it has buildx, or BuildKit built in (before 23).
speaks_buildkit() {
	local major
	"$1" buildx version >/dev/null 2>&1 && return
	major=$("$1" --version | sed -n 's/^Docker version \([0-9]*\).*/\1/p')
	[[ -n $major && $major -lt 23 ]]
}

have_docker_cli() {
	local cli clis
	hash -r # a remembered docker would hide the others from type
	mapfile -t clis < <(type -aP docker)
	for cli in "${clis[@]}"; do
		if speaks_buildkit "$cli" </dev/null; then
			[[ $cli == "$STATE/bin/docker" ]] || ln -sfn "$cli" "$STATE/bin/docker"
			hash -r
			return
		fi
	done
	if [[ -z ${cli_installed:-} ]]; then
		cli_installed=yes
		if apt-cache show docker-buildx >/dev/null 2>&1; then have_packages docker-cli docker-buildx; else have_packages docker.io; fi
		have_docker_cli
		return
	fi
	fail 'no docker CLI here speaks BuildKit; next: install docker-buildx-plugin (Docker) or docker-buildx (Debian)'
}

# Ends the engine that have_engine started by hand, and no other.
stop_engine() {
	[[ -f $docker_pid ]] || return 0
	local pid
	pid=$(cat "$docker_pid")
	step "Stop the Docker engine (process $pid) that was started here"
	as_root kill "$pid" 2>/dev/null || true
	while as_root kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
	rm -f "$docker_pid"
}
