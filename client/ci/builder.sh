# shellcheck shell=sh
# Lets docker in a CI job build on the builder @alias@. Source this file at the start of a job's script,
# in any POSIX shell with ssh and docker: DOCKER_HOST leads to the builder until that shell ends, and
# then all that this file made is removed. Written by docker-build-machine; it holds no secret.
#   BUILDER_KEY    the private key, from the CI's secret store: the path of its file, its text, or its
#                  text in base64 for a store that keeps no line breaks
#   BUILDER_TOKEN  without a key, if this file was written with --keyless: a token of the CI, as a file or
#                  as text. GitHub, Forgejo, Buildkite and CircleCI need neither; they are asked for tokens.

{ set +x; } 2>/dev/null # a traced script would print the job's secrets, here and in what follows

# builder_fail MESSAGE: ends the job with this message.
builder_fail() {
	printf 'builder @alias@: %s\n' "$1" >&2
	[ -z "${builder_dir:-}" ] || rm -rf "$builder_dir"
	exit 1
}

# Prints the private key.
builder_key() {
	if [ -f "$BUILDER_KEY" ]; then
		cat "$BUILDER_KEY"
	else
		case $BUILDER_KEY in
		*'PRIVATE KEY'*) printf '%s\n' "$BUILDER_KEY" ;;
		*) printf '%s\n' "$BUILDER_KEY" | base64 -d ;;
		esac
	fi | tr -d '\r'
	echo # secret stores often drop the last line break, and ssh refuses a key without it
}

# builder_token AUDIENCE: prints a token of this job. No secret is in an argument of a program.
builder_token() {
	if [ -f "$builder_dir/token" ]; then
		cat "$builder_dir/token"
	elif [ -n "${ACTIONS_ID_TOKEN_REQUEST_URL:-}" ]; then
		printf 'header = "Authorization: bearer %s"\n' "${ACTIONS_ID_TOKEN_REQUEST_TOKEN:-}" |
			curl --silent --show-error --fail --max-time 30 --config - \
				--get --data-urlencode "audience=$1" "$ACTIONS_ID_TOKEN_REQUEST_URL" |
			sed -n 's/.*"value" *: *"\([^"]*\)".*/\1/p'
	elif [ -n "${BUILDKITE_JOB_ID:-}" ]; then
		# The last two are in a token only if the job asks for them.
		buildkite-agent oidc request-token --audience "$1" --claim organization_id --claim pipeline_id
	elif [ -n "${CIRCLECI:-}" ]; then
		circleci run oidc get --claims "{\"aud\": \"$1\"}"
	fi
}

# Sends a token, which lets this job's own key in for minutes. The audience names the key, where the CI
# lets the job choose it, so that the token is of no use to anybody else.
builder_enrol() {
	builder_token "$builder_audience#$builder_print" |
		ssh -F "$builder_dir/config" -o ControlMaster=no -o ControlPath=none -T -l token @alias@
}

# Writes the key, and the configuration of ssh and docker; fails if the key cannot be used.
builder_configure() {
	umask 077
	if [ -n "${BUILDER_KEY:-}" ]; then
		builder_key >"$builder_dir/key" 2>/dev/null
		# ssh offers a key before it uses it, which takes a round trip, unless the key's file has this form.
		# OpenSSH before 10 does not write it for ed25519 and leaves the file as it is.
		ssh-keygen -q -p -m PKCS8 -P '' -N '' -f "$builder_dir/key" >/dev/null 2>&1 || :
		ssh-keygen -y -P '' -f "$builder_dir/key" >/dev/null 2>&1 || return 1
	else
		ssh-keygen -q -t ed25519 -N '' -C job -f "$builder_dir/key" || return 1
		if [ -f "${BUILDER_TOKEN:-}" ]; then
			cat "$BUILDER_TOKEN"
		else
			printf '%s' "${BUILDER_TOKEN:-}"
		fi >"$builder_dir/token"
		[ -s "$builder_dir/token" ] || rm "$builder_dir/token"
	fi
	cat >"$builder_dir/known_hosts" <<'KNOWN_HOSTS'
@known_hosts@
KNOWN_HOSTS
	# ssh takes the first value of each option; before 8.5 it does not know KnownHostsCommand.
	cat >"$builder_dir/config" <<CONFIG
IgnoreUnknown KnownHostsCommand
Host @alias@
  BatchMode yes
  ConnectTimeout 15
  ConnectionAttempts 3
  LogLevel ERROR
  IdentityFile $builder_dir/key
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile $builder_dir/known_hosts
  KnownHostsCommand none
  ControlPath $builder_dir/%C
CONFIG
	cat >>"$builder_dir/config" <<'CONFIG'
@ssh_config@
Match all
  Include ~/.ssh/config
  Include /etc/ssh/ssh_config
CONFIG
	# docker login in this job writes to this folder only; earlier logins keep working.
	mkdir "$builder_dir/docker"
	[ ! -f "$builder_docker/config.json" ] || cp "$builder_docker/config.json" "$builder_dir/docker/"
	[ ! -d "$builder_docker/cli-plugins" ] || ln -s "$builder_docker/cli-plugins" "$builder_dir/docker/"
}

# Sends another token, in time before the last one has ended, and before every new connection.
builder_renew() {
	builder_age=0
	[ -z "$builder_print" ] || builder_enrol || :
}

# Keeps the sockets forwarded while the job's shell lives, however that ends. The gateway lets a key
# through to one of them: the daemon's or, for a key of role build, the guard's.
builder_hold() {
	builder_age=0
	while :; do
		ssh -F "$builder_dir/config" -N -o ControlMaster=no -o ControlPath=none \
			-o ExitOnForwardFailure=yes -o StreamLocalBindUnlink=yes \
			-L "$builder_dir/docker.sock:@sockets@/docker.sock" \
			-L "$builder_dir/guard.sock:@sockets@/guard.sock" @alias@ 2>"$builder_dir/log" &
		builder_ssh=$!
		while sleep 1 && kill -0 $$ && [ -d "$builder_dir" ]; do
			kill -0 "$builder_ssh" || break
			builder_age=$((builder_age + 1))
			[ "$builder_age" -lt 300 ] || builder_renew
		done
		kill "$builder_ssh" || :
		# If the first connection failed, the job reports it.
		[ -e "$builder_dir/open" ] || return 1
		kill -0 $$ || break
		builder_renew
	done
	builder_off
}

# builder_ask NAME: prints the name of the socket and the version of the daemon that answers there.
builder_ask() {
	builder_version=$(DOCKER_HOST="unix://$builder_dir/$1.sock" docker version --format '{{.Server.Version}}') &&
		printf '%s %s\n' "$1" "$builder_version"
}

# Removes all that this file made.
builder_off() {
	ssh -F "$builder_dir/config" -O exit @alias@ 2>/dev/null || :
	rm -rf "$builder_dir"
}

if [ -z "${builder_dir:-}" ]; then
	for builder_tool in ssh ssh-keygen docker; do
		command -v "$builder_tool" >/dev/null ||
			builder_fail "$builder_tool is missing in the job's image; next: use docker:29-cli, or install openssh-client and docker-cli"
	done
	builder_audience='@audience@'
	[ -n "${BUILDER_KEY:-}$builder_audience" ] ||
		builder_fail 'BUILDER_KEY is not set; next: put the private key into the secret store of the CI and let this job read it (jobs of forks and of unprotected branches often may not)'
	builder_dir=$(mktemp -d /tmp/builder.XXXXXX)
	builder_docker=${DOCKER_CONFIG:-${HOME:-}/.docker}
	(builder_configure) ||
		builder_fail 'BUILDER_KEY is no private key without passphrase; next: store the whole file, or its text in base64, in the secret store'
	builder_print=
	if [ -z "${BUILDER_KEY:-}" ]; then
		builder_print=$(ssh-keygen -lf "$builder_dir/key.pub" | sed 's/^[^:]*:\([^ ]*\).*/\1/' | tr '+/' '-_')
		builder_tries=0
		until builder_enrol </dev/null >"$builder_dir/log" 2>&1; do
			builder_tries=$((builder_tries + 1))
			[ "$builder_tries" -lt 3 ] ||
				builder_fail "this job has no BUILDER_KEY, and its token does not let it in: $(cat "$builder_dir/log"); next: let the job have a token (docs/ci.md says how in each CI), or ask who runs the builder what the verifier's log says"
			sleep 2
		done
	fi
	(builder_hold) </dev/null >/dev/null 2>&1 &
	builder_holder=$!
	trap builder_off EXIT
	while [ ! -S "$builder_dir/guard.sock" ]; do
		kill -0 "$builder_holder" 2>/dev/null ||
			builder_fail "ssh cannot log in: $(cat "$builder_dir/log"); next: if the key was refused, add it to the stack's keys; if the host key was, write this file again from the stack"
		sleep 0.1
	done
	: >"$builder_dir/open"

	# A job or its image may set these for another daemon or another buildx builder.
	unset BUILDER_KEY BUILDER_TOKEN DOCKER_CONTEXT DOCKER_TLS DOCKER_TLS_VERIFY DOCKER_CERT_PATH BUILDX_BUILDER
	export DOCKER_CONFIG="$builder_dir/docker" DOCKER_BUILDKIT=1
	builder_way='forwarded socket'
	# Asks at both sockets at once and takes the first answer; over a distance the other one is refused later.
	mkfifo "$builder_dir/answers"
	{
		builder_ask docker &
		builder_ask guard &
	} >"$builder_dir/answers" 2>/dev/null &
	builder_version=
	read -r builder_socket builder_version <"$builder_dir/answers" || :
	export DOCKER_HOST="unix://$builder_dir/$builder_socket.sock"
	if [ -z "$builder_version" ]; then
		# The daemon is starting, or the builder has transport: tls. Plain ssh works with both, as the
		# gateway waits for a daemon that starts.
		mkdir "$builder_dir/bin"
		printf '#!/bin/sh\nexec %s -F %s/config "$@"\n' "$(command -v ssh)" "$builder_dir" >"$builder_dir/bin/ssh"
		chmod 0755 "$builder_dir/bin/ssh"
		export PATH="$builder_dir/bin:$PATH" DOCKER_HOST=ssh://@alias@
		builder_way='plain ssh'
		builder_version=$(docker version --format '{{.Server.Version}}') ||
			builder_fail "the gateway accepts this job's key, but docker gets no answer (the line above says why); next: use a docker CLI closer to the daemon's release, or ask who runs the builder"
	fi
	printf 'builder @alias@: Docker %s, %s\n' "$builder_version" "$builder_way" >&2
fi
