#!/bin/sh
# Runs as root in the daemon's container, before the daemon. The container's own network namespace
# belongs to the host's user namespace, so root in the daemon's user namespace cannot change these rules.
# Usage: egress start COMMAND...    sets up the rules and the uplink, then runs COMMAND
#        egress as-user COMMAND...  only runs COMMAND
# Both run COMMAND as the image's user, without capabilities.
# EGRESS_PRIVATE is block or allow. These stay reachable with block: the private networks in EGRESS_OPEN
# and the servers in EGRESS_SERVERS (host:port).
set -eu
user=rootless
# rootlesskit's state directory; its file child_pid holds the id of the daemon's first process.
state=$XDG_RUNTIME_DIR/rootlesskit

# Addresses outside the Internet (RFC 6890), and multicast.
closed='0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24
	192.168.0.0/16 198.18.0.0/15 224.0.0.0/4 240.0.0.0/4'
# The same for IPv6, with the ranges that embed IPv4 addresses.
closed6='::/96 ::ffff:0:0/96 64:ff9b::/96 64:ff9b:1::/48 100::/64 2001::/32 2002::/16 fc00::/7 fe80::/10
	fec0::/10 ff00::/8'

# The pair of interfaces: one end here, one in the daemon's network. No real network has these addresses
# (RFC 7335).
outer=builds inner=uplink
outer_address=192.0.0.1 inner_address=192.0.0.2

# as_user COMMAND...: replaces this shell with COMMAND, run as the image's user.
as_user() {
	HOME=$(awk -F : -v user="$user" '$1 == user { print $6 }' /etc/passwd)
	export HOME
	if setpriv --reuid="$user" true 2>/dev/null; then
		exec setpriv --reuid="$user" --regid="$user" --init-groups --inh-caps=-all \
			--bounding-set=-all,+setuid,+setgid -- "$@"
	fi
	# Without setpriv (Alpine): su. The command replaces the shell, and the user has no capability.
	# shellcheck disable=SC2016
	exec su -s /bin/sh -c 'exec "$0" "$@"' -- "$user" "$@"
}

# rule WORD...: adds a rule to $tables; a failure ends the subshell of `try_tables`.
rule() { "$tables" -w "$@" || exit 1; }

# close_networks NETWORK...: rejects packets to these networks, both from the daemon's user here and from
# the uplink.
close_networks() {
	rule -N EGRESS
	for network in ${EGRESS_OPEN:-}; do
		case $tables:$network in
		*ip6*:*:* | *iptables:*.*) rule -A EGRESS -d "$network" -j ACCEPT ;;
		esac
	done
	for server in ${EGRESS_SERVERS:-}; do
		# A server whose name has no address now stays closed until the next start.
		for address in $({ getent ahosts "${server%:*}" || getent hosts "${server%:*}"; } | awk '{ print $1 }' | sort -u); do
			case $tables:$address in
			*ip6*:*:* | *iptables:*.*) rule -A EGRESS -p tcp -d "$address" --dport "${server##*:}" -j ACCEPT ;;
			esac
		done
	done
	for network; do rule -A EGRESS -d "$network" -j REJECT; done

	rule -A OUTPUT -o lo -j ACCEPT
	# ICMP errors to the other end of the uplink.
	rule -A OUTPUT -o "$outer" -j ACCEPT
	# Docker's resolver queries the host's name servers from here, as root; nothing else here runs as root.
	for protocol in udp tcp; do
		rule -A OUTPUT -p "$protocol" --dport 53 -m owner --uid-owner 0 -j ACCEPT
	done
	# Answers to the gateway, over TLS.
	rule -A OUTPUT -m conntrack --ctstate ESTABLISHED -j ACCEPT
	case $tables in *ip6*) rule -A OUTPUT -p icmpv6 -j ACCEPT ;; esac
	rule -A OUTPUT -j EGRESS
	rule -A FORWARD -i "$outer" -j EGRESS
}

# The uplink forwards only packets that come from the daemon's end with its own address, and the answers.
guard_uplink() {
	rule -t nat -A POSTROUTING -s "$inner_address" ! -o "$outer" -j MASQUERADE
	# Packets on the builds' bridge are larger than those of the way out.
	rule -t mangle -A FORWARD -i "$outer" -p tcp --tcp-flags SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu
	rule -A INPUT -i "$outer" -j DROP
	rule -I FORWARD -i "$outer" ! -s "$inner_address" -j DROP
	rule -I FORWARD -o "$outer" -m conntrack ! --ctstate ESTABLISHED,RELATED -j DROP
}

# try_tables NAME COMMAND...: runs COMMAND with NAME, else with the older kind of tables, which needs a
# raw socket (CAP_NET_RAW).
try_tables() {
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
	echo 'egress: so the daemon does not start. Next: load the modules named above (such as xt_owner, xt_conntrack, ipt_REJECT) on the host, or pulumi config set privateNetworks allow' >&2
	exit 1
}

# inside COMMAND...: runs COMMAND as root of the daemon's user namespace, in the daemon's network.
inside() { (as_user nsenter -t "$daemon" -U -n --preserve-credentials "$@"); }

# add_uplink: connects this network namespace with the daemon's, once the rootless network is up.
add_uplink() {
	until daemon=$( (as_user cat "$state/child_pid") 2>/dev/null) && [ -n "$daemon" ] &&
		inside ip route show default 2>/dev/null | grep -q .; do
		tries=$((${tries:-0} + 1))
		[ "$tries" -lt 300 ] || { echo 'there is no rootless network'; return 1; }
		sleep 0.1
	done
	echo 1 >/proc/sys/net/ipv4/ip_forward || return 1
	ip link add "$outer" type veth peer name "$inner" || return 1
	# iproute2 7 and newer first reads the target process in /proc, which is denied here because that
	# process belongs to the daemon's user. busybox does not read it.
	busybox ip link set "$inner" netns "$daemon" || ip link set "$inner" netns "$daemon" || return 1
	! [ -e "/proc/sys/net/ipv6/conf/$outer" ] || echo 1 >"/proc/sys/net/ipv6/conf/$outer/disable_ipv6" || return 1
	ip address add "$outer_address/30" dev "$outer" && ip link set "$outer" up || return 1
	# The rootless network's own route stays as a fallback, with a higher metric: between two routes with
	# one metric the kernel would choose by the state of their gateways (fib_select_default).
	inside sh -ec "
		ip address add $inner_address/30 dev $inner
		ip link set $inner up
		ip route add \$(ip route show default) metric 1
		ip route replace default via $outer_address dev $inner"
}

report_slow() {
	echo "egress: the kernel cannot forward the packets of builds: $1. The rootless network's process forwards them, more slowly." >&2
}

case $1 in
start)
	if [ "$EGRESS_PRIVATE" = block ]; then
		# shellcheck disable=SC2086
		try_tables iptables close_networks $closed || fail 'the rules could not be set'
		# shellcheck disable=SC2086
		try_tables ip6tables close_networks $closed6 ||
			! grep -qv ' lo$' /proc/net/if_inet6 2>/dev/null || fail 'the rules for IPv6 could not be set'
	fi
	if try_tables iptables guard_uplink; then
		export DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS="${DOCKERD_ROOTLESS_ROOTLESSKIT_FLAGS:-} --state-dir=$state"
		{ why=$(add_uplink 2>&1) || report_slow "$why"; } &
	else
		report_slow "$output"
	fi
	;;
as-user) ;;
*) exit 2 ;;
esac
shift
as_user "$@"
