#!/bin/sh
# Entrypoint of the Debian-built daemon image; keeps the contract of docker:<version>-dind-rootless.
#   no command, or options alone: the default Unix socket and TCP, mutual TLS where
#     DOCKER_TLS_CERTDIR is set (certificates found there are used, missing ones are made);
#   dockerd ...: exactly these hosts;
#   anything else: run as it is.
set -eu

: "${XDG_RUNTIME_DIR:=/run/user/$(id -u)}"
export XDG_RUNTIME_DIR

# make_certificates FOLDER: a CA, a server's and a client's certificate where they are missing.
make_certificates() {
	folder=$1
	if [ -s "$folder/server/key.pem" ] && [ ! -s "$folder/ca/key.pem" ]; then
		openssl verify -CAfile "$folder/server/ca.pem" "$folder/server/cert.pem"
		return
	fi
	names="DNS:docker,DNS:localhost,DNS:$(hostname),IP:127.0.0.1${DOCKER_TLS_SAN:+,$DOCKER_TLS_SAN}"
	mkdir -p "$folder/ca" "$folder/server" "$folder/client"
	[ -s "$folder/ca/key.pem" ] || openssl genrsa -out "$folder/ca/key.pem" 4096
	openssl req -x509 -new -key "$folder/ca/key.pem" -subj '/CN=docker:dind CA' -days 825 \
		-addext keyUsage=critical,digitalSignature,keyCertSign -out "$folder/ca/cert.pem"
	for role in server client; do
		[ -s "$folder/$role/key.pem" ] || openssl genrsa -out "$folder/$role/key.pem" 4096
		openssl req -new -key "$folder/$role/key.pem" -subj "/CN=docker:dind $role" \
			-out "$folder/$role/csr.pem"
		{
			echo "extendedKeyUsage = ${role}Auth"
			[ "$role" = client ] || echo "subjectAltName = $names"
		} >"$folder/$role/openssl.cnf"
		openssl x509 -req -in "$folder/$role/csr.pem" -CA "$folder/ca/cert.pem" \
			-CAkey "$folder/ca/key.pem" -CAcreateserial -days 825 \
			-extfile "$folder/$role/openssl.cnf" -out "$folder/$role/cert.pem"
		cp "$folder/ca/cert.pem" "$folder/$role/ca.pem"
	done
	chmod 0644 "$folder/client/key.pem"
}

if [ $# -eq 0 ] || [ "${1#-}" != "$1" ]; then
	socket=unix://$XDG_RUNTIME_DIR/docker.sock
	case ${DOCKER_HOST:-} in unix://*) socket=$DOCKER_HOST ;; esac
	port=2375
	if [ -n "${DOCKER_TLS_CERTDIR:-}" ]; then
		make_certificates "$DOCKER_TLS_CERTDIR"
		port=2376
		set -- --tlsverify --tlscacert "$DOCKER_TLS_CERTDIR/server/ca.pem" \
			--tlscert "$DOCKER_TLS_CERTDIR/server/cert.pem" \
			--tlskey "$DOCKER_TLS_CERTDIR/server/key.pem" "$@"
	fi
	set -- dockerd --host="$socket" --host="tcp://0.0.0.0:$port" "$@"
	DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS="${DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS:-} -p 0.0.0.0:$port:$port/tcp"
fi
[ "$1" = dockerd ] || exec "$@"

# A pid file of an unclean end would keep the daemon from starting.
find /run /var/run -iname 'docker*.pid' -delete 2>/dev/null || :
if ! mkdir -p "$XDG_RUNTIME_DIR" || ! [ -w "$XDG_RUNTIME_DIR" ] || ! [ -w "$HOME/.local/share/docker" ]; then
	echo "error: rootless dockerd needs writable HOME ($HOME) and XDG_RUNTIME_DIR ($XDG_RUNTIME_DIR) for user $(id -u)" >&2
	exit 1
fi
# The flags are several words on purpose.
# shellcheck disable=SC2086
exec rootlesskit --net="${DOCKERD_ROOTLESS_ROOTLESSKIT_NET:-slirp4netns}" \
	--mtu="${DOCKERD_ROOTLESS_ROOTLESSKIT_MTU:-1500}" --disable-host-loopback \
	--port-driver=builtin --copy-up=/etc --copy-up=/run \
	${DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS:-} docker-init -- "$@"
