# shellcheck shell=sh
# Makes a CA, and a certificate for a server and for a client. Prints, in PEM, the CA's certificate, then
# certificate and key of the server, then of the client. The CA's key is not kept. The first line of standard
# input is the server's name or IPv4 address.
set -eu
days=3650
umask 077
work=$(mktemp -d)
cd "$work"
read -r server
exec 3>&1 >&2
trap 'rm -r "$work"' EXIT
case $server in *[!0-9.]*) name=DNS:$server ;; *) name=IP:$server ;; esac

request() {
	openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1.key"
	openssl req -new -sha256 -key "$1.key" -subj "/CN=docker-build-machine registry $1" -config req.cnf -out "$1.csr"
}

# sign ROLE USAGE NAME: ROLE.crt and ROLE.key.
sign() {
	request "$1"
	printf 'basicConstraints = critical, CA:FALSE\nkeyUsage = critical, digitalSignature\nextendedKeyUsage = %s\nsubjectAltName = %s\n' "$2" "$3" >"$1.cnf"
	openssl x509 -req -sha256 -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days "$days" -extfile "$1.cnf" -out "$1.crt"
}

printf '[req]\ndistinguished_name = subject\n[subject]\n' >req.cnf
printf 'basicConstraints = critical, CA:TRUE\nkeyUsage = critical, keyCertSign, cRLSign\nsubjectKeyIdentifier = hash\n' >ca.cnf
request ca
openssl x509 -req -sha256 -in ca.csr -signkey ca.key -days "$days" -extfile ca.cnf -out ca.crt
sign server serverAuth "$name"
sign client clientAuth DNS:builder
cat ca.crt server.crt server.key client.crt client.key >&3
