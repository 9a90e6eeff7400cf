#!/bin/sh
# Runs as root in the daemon's container. The rules lie in the container's own network namespace,
# which belongs to the host: root inside the daemon's user namespace cannot touch them, and what
# builds send leaves from here, by the rootless network's process.
# Usage: egress start COMMAND...   closes the way to private networks, then runs COMMAND
#        egress as-user COMMAND...  runs COMMAND only; both as the image's user, with no power left
# EGRESS_OPEN names the networks that stay reachable, EGRESS_SERVERS the host:port.
set -eu
user=rootless

# Not the Internet: RFC 6890, and multicast.
closed='0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
	192.168.0.0/16 198.18.0.0/15 224.0.0.0/4 240.0.0.0/4'
# And what carries such addresses inside.
closed6='::/96 ::ffff:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/32 2002::/16 fc00::/7 fe80::/10
	fec0::/10 ff00::/8'

# close_networks IPTABLES NETWORK...
close_networks() {
	tables=$1
	shift
	"$tables" -w -F OUTPUT
	"$tables" -w -A OUTPUT -o lo -j ACCEPT
	# Docker's resolver asks the host's name servers from here, as root; nobody else here is root.
	for protocol in udp tcp; do
		"$tables" -w -A OUTPUT -p "$protocol" --dport 53 -m owner --uid-owner 0 -j ACCEPT
	done
	# Answers to the gateway, over TLS.
	"$tables" -w -A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
	case $tables in *ip6*) "$tables" -w -A OUTPUT -p icmpv6 -j ACCEPT ;; esac
	for network in ${EGRESS_OPEN:-}; do
		case $tables:$network in
		*ip6*:*:* | *iptables:*.*) "$tables" -w -A OUTPUT -d "$network" -j ACCEPT ;;
		esac
	done
	for server in ${EGRESS_SERVERS:-}; do
		# One without an address now is closed until the next start.
		for address in $({ getent ahosts "${server%:*}" || getent hosts "${server%:*}"; } | awk '{ print $1 }' | sort -u); do
			case $tables:$address in
			*ip6*:*:* | *iptables:*.*) "$tables" -w -A OUTPUT -p tcp -d "$address" --dport "${server##*:}" -j ACCEPT ;;
			esac
		done
	done
	for network; do "$tables" -w -A OUTPUT -d "$network" -j REJECT; done
}

# try_to_close NAME NETWORK...: with the host's kind of tables, whichever it is.
try_to_close() {
	name=$1
	shift
	for tables in "$name" "/usr/local/sbin/.iptables-legacy/$name"; do
		if said=$( (close_networks "$tables" "$@") 2>&1); then return 0; fi
	done
	return 1
}

fail() {
	echo "egress: privateNetworks = block: $1: $said" >&2
	echo 'egress: the daemon does not start like this. Next: load the modules that it names (xt_owner, xt_conntrack, ipt_REJECT) on the host, or pulumi config set privateNetworks allow' >&2
	exit 1
}

case $1 in
start)
	# shellcheck disable=SC2086
	try_to_close iptables $closed || fail 'the rules could not be set'
	# shellcheck disable=SC2086
	try_to_close ip6tables $closed6 ||
		! grep -qv ' lo$' /proc/net/if_inet6 2>/dev/null || fail 'the rules for IPv6 could not be set'
	;;
as-user) ;;
*) exit 2 ;;
esac
shift
HOME=$(awk -F : -v user="$user" '$1 == user { print $6 }' /etc/passwd)
export HOME
if setpriv --reuid="$user" true 2>/dev/null; then
	exec setpriv --reuid="$user" --regid="$user" --init-groups --inh-caps=-all \
		--bounding-set=-all,+setuid,+setgid -- "$@"
fi
# Alpine's; it becomes the command, and the user has no capability.
# shellcheck disable=SC2016
exec su -s /bin/sh -c 'exec "$0" "$@"' -- "$user" "$@"
