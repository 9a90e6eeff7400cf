#!/bin/sh
# What sshd runs for the user token: passes the key that logged in, and the token on standard input, to the
# verifier, and prints its answer. Neither is in an argument or a variable of a process.
# Usage: enrol SOCKET
# ExposeAuthInfo: `publickey TYPE BASE64`.
read -r _ type key _ <"${SSH_USER_AUTH:?}"
answer=$({
	printf '%s %s\n' "$type" "$key"
	timeout 10 head -c 17000
} | nc -N -w 30 -U "$1") || answer=
case $answer in
accepted\ *)
	printf '%s\n' "$answer"
	exit 0
	;;
refused\ *) printf '%s; the log of the verifier (docker logs) has more\n' "$answer" >&2 ;;
*) echo 'the builder cannot check tokens now; try again later' >&2 ;;
esac
exit 1
