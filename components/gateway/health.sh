#!/usr/bin/env bash
# Health of the gateway: a Docker API ping through sshd, its configuration and its forced command.
set -euo pipefail

run=/run/gateway
reply=$(printf 'GET /_ping HTTP/1.0\r\n\r\n' | timeout 10 ssh -F none -T \
	-o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes \
	-o UserKnownHostsFile="$run/known_hosts" -o HostKeyAlias=127.0.0.1 \
	-i "$run/health" -p 2222 "${USER_NAME:?}@127.0.0.1" 2>&1) || true
case $reply in
*'200 OK'*) ;;
*)
	echo "no ping through the gateway: ${reply:-no reply}"
	exit 1
	;;
esac
