#!/bin/sh
# Runs as root in the daemon's container, before the daemon. The container's own network namespace
# belongs to the host: root inside the daemon's user namespace cannot touch what is set here.
# Usage: egress start COMMAND...    sets rules and uplink, and runs COMMAND
#        egress as-user COMMAND...  runs COMMAND only; both as the image's user, with no power left
# EGRESS_PRIVATE is block or allow; EGRESS_OPEN names the private networks that stay reachable,
# EGRESS_SERVERS the host:port.
set -eu
user=rootless
# Where rootlesskit is told to write which process is the daemon's first.
state=$XDG_RUNTIME_DIR/rootlesskit

# Not the Internet: RFC 6890, and multicast.
closed='0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
	192.168.0.0/16 198.18.0.0/15 224.0.0.0/4 240.0.0.0/4'
# And what carries such addresses inside.
closed6='::/96 ::ffff:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/32 2002::/16 fc00::/7 fe80::/10
	fec0::/10 ff00::/8'

# The pair of interfaces, one here and one with the daemon; addresses that lie in no network (RFC 7335).
outer=builds inner=uplink
outer_address=192.0.0.1 inner_address=192.0.0.2

# as_user COMMAND...: becomes COMMAND.
as_user() {
	HOME=$(awk -F : -v user="$user" '$1 == user { print $6 }' /etc/passwd)
	export HOME
	if setpriv --reuid="$user" true 2>/dev/null; then
		exec setpriv --reuid="$user" --regid="$user" --init-groups --inh-caps=-all \
			--bounding-set=-all,+setuid,+setgid -- "$@"
	fi
	# Alpine's; it becomes the command, and the user has no capability.
	# shellcheck disable=SC2016
	exec su -s /bin/sh -c 'exec "$0" "$@"' -- "$user" "$@"
}

# rule WORD...: ends the try, in the tables of which it is.
rule() { "$tables" -w "$@" || exit 1; }

# close_networks NETWORK...: for what the daemon's user sends from here, and for the uplink.
close_networks() {
	rule -N EGRESS
	for network in ${EGRESS_OPEN:-}; do
		case $tables:$network in
		*ip6*:*:* | *iptables:*.*) rule -A EGRESS -d "$network" -j ACCEPT ;;
		esac
	done
	for server in ${EGRESS_SERVERS:-}; do
		# One without an address now is closed until the next start.
		for address in $({ getent ahosts "${server%:*}" || getent hosts "${server%:*}"; } | awk '{ print $1 }' | sort -u); do
			case $tables:$address in
			*ip6*:*:* | *iptables:*.*) rule -A EGRESS -p tcp -d "$address" --dport "${server##*:}" -j ACCEPT ;;
			esac
		done
	done
	for network; do rule -A EGRESS -d "$network" -j REJECT; done

	rule -A OUTPUT -o lo -j ACCEPT
	# Errors (ICMP) to the other end of the uplink.
	rule -A OUTPUT -o "$outer" -j ACCEPT
	# Docker's resolver asks the host's name servers from here, as root; nobody else here is root.
	for protocol in udp tcp; do
		rule -A OUTPUT -p "$protocol" --dport 53 -m owner --uid-owner 0 -j ACCEPT
	done
	# Answers to the gateway, over TLS.
	rule -A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
	case $tables in *ip6*) rule -A OUTPUT -p icmpv6 -j ACCEPT ;; esac
	rule -A OUTPUT -j EGRESS
	rule -A FORWARD -i "$outer" -j EGRESS
}

# The uplink's end here passes on what the daemon's sends by its own address, and the answers to it.
guard_uplink() {
	rule -t nat -A POSTROUTING -s "$inner_address" ! -o "$outer" -j MASQUERADE
	# The bridge of the builds has larger packets than the way out.
	rule -t mangle -A FORWARD -i "$outer" -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
	rule -A INPUT -i "$outer" -j DROP
	rule -I FORWARD -i "$outer" ! -s "$inner_address" -j DROP
	rule -I FORWARD -o "$outer" -m conntrack ! --ctstate ESTABLISHED,RELATED -j DROP
}

# try_to NAME COMMAND...: with the host's kind of tables, whichever it is. The older kind is set by a
# raw socket (CAP_NET_RAW).
try_to() {
	name=$1 output=
	shift
	for tables in "$name" "/usr/local/sbin/.iptables-legacy/$name"; do
		why=$("$@" 2>&1) && return
		output="${output:+$output; }$tables: $why"
	done
	return 1
}

fail() {
	echo "egress: privateNetworks = block: $1: $output" >&2
	echo 'egress: the daemon does not start like this. Next: load the modules that it names (xt_owner, xt_conntrack, ipt_REJECT) on the host, or pulumi config set privateNetworks allow' >&2
	exit 1
}

# inside COMMAND...: as root of the daemon's user namespace, in its network.
inside() { (as_user nsenter -t "$daemon" -U -n --preserve-credentials "$@"); }

# lay_uplink: from here to the daemon's network namespace, once the rootless network is up.
lay_uplink() {
	until daemon=$( (as_user cat "$state/child_pid") 2>/dev/null) && [ -n "$daemon" ] &&
		inside ip route show default 2>/dev/null | grep -q .; do
		tries=$((${tries:-0} + 1))
		[ "$tries" -lt 300 ] || { echo 'there is no rootless network'; return 1; }
		sleep 0.1
	done
	echo 1 >/proc/sys/net/ipv4/ip_forward || return 1
	ip link add "$outer" type veth peer name "$inner" || return 1
	# iproute2 looks into the process first, from 7 on, and of the daemon's user that is denied here.
	busybox ip link set "$inner" netns "$daemon" || ip link set "$inner" netns "$daemon" || return 1
	! [ -e "/proc/sys/net/ipv6/conf/$outer" ] || echo 1 >"/proc/sys/net/ipv6/conf/$outer/disable_ipv6" || return 1
	ip address add "$outer_address/30" dev "$outer" && ip link set "$outer" up || return 1
	# The rootless network's own route is left for when this one is not there. Of two with one metric
	# the kernel would choose by what it has heard of their gateways (fib_select_default).
	inside sh -ec "
		ip address add $inner_address/30 dev $inner
		ip link set $inner up
		ip route add \$(ip route show default) metric 1
		ip route replace default via $outer_address dev $inner"
}

slower() {
	echo "egress: the kernel does not carry what builds send: $1. The rootless network's process does, slower." >&2
}

case $1 in
start)
	if [ "$EGRESS_PRIVATE" = block ]; then
		# shellcheck disable=SC2086
		try_to iptables close_networks $closed || fail 'the rules could not be set'
		# shellcheck disable=SC2086
		try_to ip6tables close_networks $closed6 ||
			! grep -qv ' lo$' /proc/net/if_inet6 2>/dev/null || fail 'the rules for IPv6 could not be set'
	fi
	if try_to iptables guard_uplink; then
		export DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS="${DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS:-} --state-dir=$state"
		{ why=$(lay_uplink 2>&1) || slower "$why"; } &
	else
		slower "$output"
	fi
	;;
as-user) ;;
*) exit 2 ;;
esac
shift
as_user "$@"
