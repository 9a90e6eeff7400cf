#!/usr/bin/env bash
# Runs as root at each start of the gateway's container, after the image's own configuration step
# and before sshd. Writes sshd's complete configuration and host keys, so that earlier contents of
# /config do not matter. Stops the container with a message when anything fails.
set -euo pipefail

library=/usr/local/lib/gateway
user=${USER_NAME:?}
run=/run/gateway

stop_container() {
	echo "[gateway] $1; the container stops, because sshd must not start without this step" >&2
	rm -f /config/sshd/sshd_config
	echo 1 >/run/s6-linux-init-container-results/exitcode
	/run/s6/basedir/bin/halt
	# halt waits without limit until all services have started, and sshd would never start.
	pkill -f '(^|/)s6-rc .*-u ' || echo '[gateway] no services were starting' >&2
	exit 1
}
trap 'stop_container "init script failed at line $LINENO"' ERR

# sshd starts each session with the user's shell; sh starts fastest.
usermod --shell /bin/sh "$user"

# Jobs send their tokens as a user of their own. sshd is not root, so it can serve only users with its id.
if [[ -n ${TOKEN_USER:-} ]] && ! grep -q "^$TOKEN_USER:" /etc/passwd; then
	printf '%s:x:%s:%s::/config:/bin/sh\n' "$TOKEN_USER" "$(id -u "$user")" "$(id -g "$user")" >>/etc/passwd
fi

# The key of the health check; sshd accepts it only from 127.0.0.1.
rm -rf "$run"
install -d -m 0755 "$run"
ssh-keygen -q -t ed25519 -N '' -C health -f "$run/health"
sed -i 's/^/restrict,from="127.0.0.1" /' "$run/health.pub"

# The stack's host key is the only one.
install -d -m 0700 -o "$user" -g "$user" /config/ssh_host_keys
rm -f /config/ssh_host_keys/*
install -m 0600 -o "$user" -g "$user" "$library/host_key" /config/ssh_host_keys/ssh_host_ed25519_key
ssh-keygen -y -f "$library/host_key" >/config/ssh_host_keys/ssh_host_ed25519_key.pub
printf '127.0.0.1 %s\n' "$(cat /config/ssh_host_keys/ssh_host_ed25519_key.pub)" >"$run/known_hosts"

# The image can put keys into this file, and sshd would accept them besides the configured ones.
rm -f /config/.ssh/authorized_keys

install -d -m 0755 /config/sshd
install -m 0644 "$library/sshd_config" /config/sshd/sshd_config
if ! problem=$(/usr/sbin/sshd.pam -t -f /config/sshd/sshd_config \
	-h /config/ssh_host_keys/ssh_host_ed25519_key 2>&1); then
	stop_container "sshd refuses its configuration: $problem"
fi
echo "[gateway] configured for user $user"
