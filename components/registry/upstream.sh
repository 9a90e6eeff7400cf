#!/bin/sh
# Runs in a mirror's container: says whether its upstream serves it. A second registry, with the same upstream
# and login, serves on 127.0.0.1 for a moment; its store is in memory and empty, so nothing that the mirror has
# hides a failure. It is asked for a manifest that nobody has: the upstream says so if all is well.
# Usage: upstream REPOSITORY; prints one line:
#   ok                  the upstream serves the mirror
#   refused REASON      it refuses the login, or the repository to this login
#   limited REASON      it serves no more to this login or address for a while
#   failed REASON       anything else, such as an upstream that does not answer
set -u
config=/etc/docker-build-machine/registry/upstream.json
url=http://127.0.0.1:5002/v2
seconds=20
nowhere=sha256:$(printf '%064d' 0)
log=$(mktemp)
# The variable is for the real mirror, whose clients show a certificate.
env -u REGISTRY_HTTP_TLS_CLIENTCAS registry serve "$config" >"$log" 2>&1 &
server=$!
trap 'kill "$server" 2>/dev/null; rm -f "$log"' EXIT

# field NAME: the value of this field in the log.
field() { sed -n "s/.* $1=\"\(\([^\"\\\\]\|\\\\.\)*\)\".*/\1/p; t; s/.* $1=\([^ \"]*\).*/\1/p" "$log" | head -n 1; }

deadline=$(($(date +%s) + seconds))
until wget -q -T 5 -O /dev/null "$url/" 2>/dev/null; do
	kill -0 "$server" 2>/dev/null || {
		echo "failed $(head -n 1 "$log" | sed 's/^panic: //')"
		exit
	}
	[ "$(date +%s)" -lt "$deadline" ] || {
		echo "failed it does not answer within $seconds s"
		exit
	}
	sleep 0.2
done
wget -q -T "$seconds" -O /dev/null "$url/$1/manifests/$nowhere" 2>/dev/null
# It begins with the URL.
reason="$(field err.detail | sed 's/.*": //') ($(field err.code), $(field err.message))"
case $reason in
' (, )') echo "failed it does not answer within $seconds s" ;;
*'manifest unknown'* | *'unknown manifest'* | *'name unknown'* | *'not known to registry'*) echo ok ;;
*unauthorized* | *denied*) echo "refused $reason" ;;
*toomanyrequests* | *'oo many requests'*) echo "limited $reason" ;;
*) echo "failed $reason" ;;
esac
