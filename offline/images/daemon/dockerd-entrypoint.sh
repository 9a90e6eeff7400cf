#!/bin/sh
# Entrypoint of the daemon image; keeps the contract of docker:<version>-dind-rootless.
#   no command, or options alone: the default Unix socket and TCP, mutual TLS where
#     DOCKER_TLS_CERTDIR is set (certificates found there are used, missing ones are made);
#   dockerd ...: exactly these hosts;
#   anything else: docker-entrypoint.sh runs it.
set -eu
uid=$(id -u)

# names: subject alternative names of the server's certificate.
names() {
	for name in docker localhost "$(cat /etc/hostname)" "$(hostname -f)" "$(hostname -s)"; do
		[ -z "$name" ] || echo "DNS:$name"
	done
	ip -oneline address | awk '{ sub("/.*", "", $4); print "IP:" $4 }'
	[ -z "${DOCKER_TLS_SAN:-}" ] || echo "$DOCKER_TLS_SAN"
}

# make_certificates FOLDER: a CA, a server's and a client's certificate. Keys that are there are kept;
# a folder with the server's files and no key of a CA belongs to the user and is only checked.
make_certificates() {
	folder=$1
	if [ -s "$folder/server/ca.pem" ] && [ -s "$folder/server/cert.pem" ] &&
		[ -s "$folder/server/key.pem" ] && ! [ -s "$folder/ca/key.pem" ]; then
		openssl verify -CAfile "$folder/server/ca.pem" "$folder/server/cert.pem"
		return
	fi
	if [ -s "$folder/ca/key.pem" ] || ! [ -s "$folder/ca/cert.pem" ]; then
		mkdir -p "$folder/ca"
		[ -s "$folder/ca/key.pem" ] || openssl genrsa -out "$folder/ca/key.pem" 4096
		openssl req -x509 -new -key "$folder/ca/key.pem" -subj '/CN=docker:dind CA' -days 825 \
			-addext keyUsage=critical,digitalSignature,keyCertSign -out "$folder/ca/cert.pem"
	fi
	[ -s "$folder/ca/key.pem" ] || return 0
	for role in server client; do
		mkdir -p "$folder/$role"
		[ -s "$folder/$role/key.pem" ] || openssl genrsa -out "$folder/$role/key.pem" 4096
		openssl req -new -key "$folder/$role/key.pem" -subj "/CN=docker:dind $role" \
			-out "$folder/$role/csr.pem"
		{
			echo '[ x509_exts ]'
			echo "extendedKeyUsage = ${role}Auth"
			[ "$role" = client ] || echo "subjectAltName = $(names | sort -u | paste -sd , -)"
		} >"$folder/$role/openssl.cnf"
		openssl x509 -req -in "$folder/$role/csr.pem" -CA "$folder/ca/cert.pem" \
			-CAkey "$folder/ca/key.pem" -CAcreateserial -days 825 \
			-extfile "$folder/$role/openssl.cnf" -extensions x509_exts -out "$folder/$role/cert.pem"
		cp "$folder/ca/cert.pem" "$folder/$role/ca.pem"
		openssl verify -CAfile "$folder/$role/ca.pem" "$folder/$role/cert.pem"
	done
	chmod 0644 "$folder/client/key.pem"
}

# needs_legacy_tables: the host has rules of that kind, or no other kind works.
needs_legacy_tables() {
	if [ -n "${DOCKER_IPTABLES_LEGACY+set}" ]; then
		if [ -n "$DOCKER_IPTABLES_LEGACY" ]; then modprobe ip_tables ip6_tables || :; else modprobe nf_tables || :; fi
		[ -n "$DOCKER_IPTABLES_LEGACY" ]
		return
	fi
	for names in /proc/net/ip_tables_names /proc/net/ip6_tables_names /proc/net/arp_tables_names; do
		if used=$(cat "$names") && [ -n "$used" ]; then return 0; fi
	done
	if iptables -nL >/dev/null 2>&1; then return 1; fi
	modprobe nf_tables || :
	if iptables -nL >/dev/null 2>&1; then return 1; fi
	modprobe ip_tables ip6_tables || :
	/usr/local/sbin/.iptables-legacy/iptables -nL >/dev/null 2>&1
}

fail() {
	echo "error: attempting to run rootless dockerd but $1" >&2
	exit 1
}

if [ $# -eq 0 ] || [ "${1#-}" != "$1" ]; then
	socket=unix:///var/run/docker.sock
	if [ "$uid" != 0 ]; then
		: "${XDG_RUNTIME_DIR:=/run/user/$uid}"
		socket=unix://$XDG_RUNTIME_DIR/docker.sock
	fi
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
[ "$1" = dockerd ] || exec docker-entrypoint.sh "$@"

# A pid file of an unclean end would keep the daemon from starting.
find /run /var/run -iname 'docker*.pid' -exec rm -f {} + || :
set -- docker-init -- "$@"
if needs_legacy_tables; then export PATH="/usr/local/sbin/.iptables-legacy:$PATH"; fi
iptables --version
[ "$uid" != 0 ] || exec dind "$@"

command -v rootlesskit >/dev/null || fail "missing 'rootlesskit'"
user=$(id -un 2>/dev/null || :)
for file in /etc/subuid /etc/subgid; do
	grep -qE "^($uid${user:+|$user}):" "$file" || fail "missing necessary entries in $file for $uid"
done
: "${XDG_RUNTIME_DIR:=/run/user/$uid}"
export XDG_RUNTIME_DIR
for folder in "$XDG_RUNTIME_DIR" "$HOME/.local/share/docker"; do
	{ mkdir -p "$folder" && [ -w "$folder" ]; } || fail "need writable HOME ($HOME) and XDG_RUNTIME_DIR ($XDG_RUNTIME_DIR) for user $uid"
done
refuses() { [ -f "$1" ] && [ "$(cat "$1")" = 0 ]; }
for setting in kernel/unprivileged_userns_clone user/max_user_namespaces; do
	! refuses "/proc/sys/$setting" || fail "need /proc/sys/$setting above 0"
done
# The flags are several words on purpose.
# shellcheck disable=SC2086
exec rootlesskit --net="${DOCKERD_ROOTLESS_ROOTLESSKIT_NET:-slirp4netns}" \
	--mtu="${DOCKERD_ROOTLESS_ROOTLESSKIT_MTU:-1500}" --disable-host-loopback \
	--port-driver=builtin --copy-up=/etc --copy-up=/run \
	${DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS:-} "$@"
