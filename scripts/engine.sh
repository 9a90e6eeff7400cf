# shellcheck shell=bash
# A Docker engine on this machine, and a docker CLI that supports BuildKit.

docker_pid=$STATE/dockerd.pid

# docker_answers: whether the engine answers this user; sets docker_answer to its version or the error.
docker_answers() { docker_answer=$(docker version --format '{{.Server.Version}}' 2>&1); }

have_engine() {
	if docker_answers; then
		note "Docker engine: $docker_answer, already there"
	else
		command -v dockerd >/dev/null || have_packages docker.io
		docker_answers || is_refused || start_engine
		! is_refused || join_docker_group
		docker_answers || fail "Docker does not answer: $docker_answer"
	fi
	have_docker_cli
	# Set up what rootless Docker needs and this machine lacks.
	cat "$ROOT/components/releases.sh" "$ROOT/components/host/preflight.sh" | sh -s -- prepare ||
		note 'a new builder needs what the lines above say'
}

start_engine() {
	if [[ -d /run/systemd/system ]]; then
		quietly 'Start Docker' as_root systemctl start docker
	else
		step 'Start Docker by hand'
		as_root true # so that sudo asks for its password before dockerd goes to the background
		as_root setsid nohup dockerd --pidfile "$docker_pid" >"$STATE/log/dockerd.log" 2>&1 9>&- &
	fi
	local tries=0
	until docker_answers || is_refused; do
		tries=$((tries + 1))
		[[ $tries -lt 60 ]] || {
			[[ ! -f $STATE/log/dockerd.log ]] || tail -n 20 "$STATE/log/dockerd.log" >&2
			fail "Docker does not answer after 30 s: $docker_answer; next: see journalctl -u docker, or .state/log/dockerd.log if it was started by hand"
		}
		sleep 0.5
	done
}

# is_refused: whether Docker runs but refuses this user, who is not in the group of its socket.
is_refused() { [[ $docker_answer == *'permission denied'* ]]; }

# join_docker_group: adds this user to the group and restarts this run as a member, without a new login.
join_docker_group() {
	local user group socket=/var/run/docker.sock
	user=$(id -un) group=$(stat -c %G "$socket")
	[[ -z ${JOINED_DOCKER_GROUP:-} ]] ||
		fail "Docker refuses $user, although it is in the group $group: $docker_answer; next: log in again, or run this as root"
	[[ $group != root ]] ||
		fail "only root may use Docker's socket $socket: $docker_answer; next: groupadd docker and restart Docker, or run this as root"
	if [[ " $(id -nG "$user") " != *" $group "* ]]; then
		note "adding $user to the group $group, which may use Docker and so act as root; to undo: gpasswd -d $user $group"
		quietly "Add $user to the group $group" as_root usermod -aG "$group" "$user"
	fi
	in_docker_group
}

# borrow_engine: have_engine, and at the exit of this run stop the engine that it started.
borrow_engine() {
	local had=no
	! docker_answers || had=yes
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
	hash -r # a docker that bash remembers would hide the others from type
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
	fail 'no docker CLI here supports BuildKit; next: install docker-buildx-plugin (Docker) or docker-buildx (Debian)'
}

# Stops the engine that have_engine started by hand, and no other.
stop_engine() {
	[[ -f $docker_pid ]] || return 0
	local pid
	pid=$(cat "$docker_pid")
	step "Stop the Docker engine (process $pid) that was started here"
	as_root kill "$pid" 2>/dev/null || true
	while as_root kill -0 "$pid" 2>/dev/null; do sleep 0.2; done
	rm -f "$docker_pid"
}
