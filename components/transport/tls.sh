# shellcheck shell=sh
# Makes a CA, a server certificate and a client certificate, deletes the CA's key, and copies this image's
# docker CLI next to the client certificate. Runs as root in a container of the daemon's image.
# DAEMON_NAME is the name by which the gateway reaches the daemon; /server and /client are volumes.
days=3650
umask 077
work=$(mktemp -d)
cd "$work" || exit

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 \
	-subj "/CN=docker-build-machine CA" -days "$days" \
	-addext keyUsage=critical,digitalSignature,keyCertSign -keyout ca-key.pem -out ca.pem

# sign ROLE USAGE NAME: makes key.pem and cert.pem for one side, in the folder ROLE.
sign() {
	mkdir "$1"
	openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -sha256 \
		-subj "/CN=docker-build-machine $1" -keyout "$1/key.pem" -out "$1.csr"
	printf 'extendedKeyUsage = %s\nsubjectAltName = DNS:%s\n' "$2" "$3" >"$1.cnf"
	openssl x509 -req -sha256 -in "$1.csr" -CA ca.pem -CAkey ca-key.pem -CAcreateserial \
		-days "$days" -extfile "$1.cnf" -out "$1/cert.pem"
	cp ca.pem "$1/ca.pem"
}
sign server serverAuth "$DAEMON_NAME"
sign client clientAuth gateway

# uid 1000 is the user of both the daemon and the gateway.
for role in server client; do
	chmod 0755 "/$role"
	for file in key.pem cert.pem ca.pem; do
		install -o 1000 -g 1000 -m 0400 "$role/$file" "/$role/.$file.new"
		mv "/$role/.$file.new" "/$role/$file"
	done
done
install -m 0755 "$(command -v docker)" /client/.docker.new
mv /client/.docker.new /client/docker
rm -r "$work"
