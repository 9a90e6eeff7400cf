#!/usr/bin/env bash
# The gateway's health check: a Docker API ping must pass through sshd, with its configuration and forced
# command, and the session monitor must see this login in sshd's log.
set -euo pipefail

run=/run/gateway
started=$EPOCHREALTIME
reply=$(printf 'GET /_ping HTTP/1.0\r\n\r\n' | timeout 8 ssh -F none -T \
	-o BatchMode=yes -o IdentitiesOnly=yes -o StrictHostKeyChecking=yes \
	-o UserKnownHostsFile="$run/known_hosts" -o HostKeyAlias=127.0.0.1 \
	-i "$run/health" -p 2222 "${USER_NAME:?}@127.0.0.1" docker system dial-stdio 2>&1) || true
case $reply in
*'200 OK'*) ;;
*)
	echo "no ping through the gateway: ${reply:-no reply}"
	exit 1
	;;
esac
if [[ -n ${VERIFIER_SOCKET:-} ]]; then
	answer=$(printf 'ping\n' | timeout 8 nc -N -U "$VERIFIER_SOCKET" 2>&1) || answer="none: $answer"
	if [[ -z $answer || $answer == none* ]]; then
		echo "the verifier does not answer at $VERIFIER_SOCKET (${answer:-no reply}); jobs with tokens cannot log in." \
			"Next: docker logs of the container of this builder that ends in -verifier"
		exit 1
	fi
fi
# The monitor touches the file at each login of this check, if it can also read the access list.
for ((tries = 0; tries < 25; tries++)); do
	seen=$(stat -c %.6Y "$run/seen" 2>&1) || seen="none: $seen"
	# Both are seconds with six decimals.
	[[ $seen == none* || $seen < $started ]] || exit 0
	sleep 0.2
done
echo "the session monitor did not see this login within 5 s, the last one it saw: $seen; connections of" \
	"removed keys stay open and no audit lines are written. The monitor is the service custom-svc-session-monitor and reads" \
	"/config/logs/openssh/current and /access/list; next: docker logs of this container"
exit 1
