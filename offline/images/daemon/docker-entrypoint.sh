#!/bin/sh
# What the daemon image runs for any other command than dockerd, to the contract of docker:<version>-cli:
# options and the docker CLI's own words go to it, and DOCKER_HOST is set where nobody has set it.
set -eu
if [ "${1#-}" != "$1" ] || docker help "$1" >/dev/null 2>&1; then set -- docker "$@"; fi

has_certificates() {
	[ -n "${DOCKER_TLS_CERTDIR:-}" ] || return 1
	for file in ca cert key; do [ -s "$DOCKER_TLS_CERTDIR/client/$file.pem" ] || return 1; done
}

if [ -z "${DOCKER_HOST:-}" ]; then
	DOCKER_HOST=tcp://docker:2375
	if [ -n "${DOCKER_TLS_VERIFY:-}" ] || has_certificates; then DOCKER_HOST=tcp://docker:2376; fi
	for socket in "${XDG_RUNTIME_DIR:-/run/user/$(id -u)}/docker.sock" /var/run/docker.sock; do
		if [ -S "$socket" ]; then DOCKER_HOST=unix://$socket; fi
	done
	export DOCKER_HOST
fi
case $DOCKER_HOST in
tcp:*)
	if [ -z "${DOCKER_TLS_VERIFY:-}${DOCKER_CERT_PATH:-}" ] && has_certificates; then
		export DOCKER_TLS_VERIFY=1 DOCKER_CERT_PATH="$DOCKER_TLS_CERTDIR/client"
	fi
	;;
esac
exec "$@"
