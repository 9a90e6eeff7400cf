#!/usr/bin/env bash
# Who is connected, by name: `session-monitor watch` writes a line for each login and refusal, closes the
# connections of keys that no longer count, and keeps places free for those who come to log in;
# `session-monitor who` prints a table. Runs as root in the gateway.
#
# sshd's log says which process let which fingerprint in (LogVerbose, sshd_config(5)), /access/list
# which fingerprints count now and what their names are. What is remembered beside them is only what
# the list said before.
set -uo pipefail
export TZ=UTC

list=/access/list
log=/config/logs/openssh
acted_on=/run/gateway/acted-on
# Touched for each login of the health check; by it the check tells that all of this works.
seen=/run/gateway/seen

# Of the list, by fingerprint: name, what is said of its role, last second; addresses, principals and
# role together; and what is revoked.
declare -A name_of=() role_of=() until_of=() conditions_of=() revoked=()

read_list() {
	local kind fingerprint second third fourth
	# Names stay, for the lines about connections whose key is gone.
	role_of=() until_of=() conditions_of=() revoked=()
	while read -r kind fingerprint second third fourth; do
		case $kind in
		key | ca)
			name_of[$fingerprint]=$second
			until_of[$fingerprint]=$third
			conditions_of[$fingerprint]=$kind:$fourth
			[[ $fourth != *' build' ]] || role_of[$fingerprint]=' role=build'
			;;
		# A fingerprint, or a certificate as "CA's fingerprint serial: N" or "... id: TEXT".
		revoked) revoked["$fingerprint${second:+ $second $third}"]=1 ;;
		esac
	done <"$list"
}

# counts FINGERPRINT: whether a listed key or authority is in force at this second.
counts() {
	local now
	[[ -n ${until_of[$1]:-} ]] || return 1
	printf -v now '%(%Y%m%d%H%M%S)T' -1
	[[ ${until_of[$1]} == - || $now < ${until_of[$1]} ]]
}

line_pattern='^([0-9-]+) ([0-9:]+)[.0-9]* .*pid=([0-9]+)\): (Accepted|Failed) publickey for (invalid user )?([^ ]*) from ([^ ]+) port ([0-9]+) ssh2: [^ ]+ (SHA256:[^ ]+)(.*)$'
certificate_pattern='^ ID (.*) \(serial ([0-9]+)\) CA [^ ]+ (SHA256:[^ ]+)'

# parse LINE: one line of sshd's log into time, pid, outcome, login_name, address, port,
# fingerprint, authority, label; fails when the line is about no key.
parse() {
	# sshd ends its lines for a terminal.
	[[ ${1%$'\r'} =~ $line_pattern ]] || return 1
	time=${BASH_REMATCH[1]}T${BASH_REMATCH[2]}Z pid=${BASH_REMATCH[3]} outcome=${BASH_REMATCH[4]}
	login_name=${BASH_REMATCH[6]} address=${BASH_REMATCH[7]} port=${BASH_REMATCH[8]}
	fingerprint=${BASH_REMATCH[9]} authority='' serial='' certificate=''
	if [[ ${BASH_REMATCH[10]} =~ $certificate_pattern ]]; then
		certificate=${BASH_REMATCH[1]} serial=${BASH_REMATCH[2]} authority=${BASH_REMATCH[3]}
	fi
	local listed=${authority:-$fingerprint}
	label="name=${name_of[$listed]:--}${role_of[$listed]:-}"
	[[ -z $authority ]] || label+=" certificate=$certificate serial=$serial"
	label+=" key=$fingerprint from=$address:$port"
}

# Whether what was parsed last may be connected now.
may_stay() {
	[[ -z ${revoked[$fingerprint]:-} ]] || return 1
	counts "${authority:-$fingerprint}" || return 1
	if [[ -n $authority ]]; then
		[[ -z ${revoked["$authority serial: $serial"]:-} && -z ${revoked["$authority id: $certificate"]:-} ]]
	fi
}

# close REASON: end the connection that was parsed last.
close() {
	[[ $(cat "/proc/$pid/comm" 2>/dev/null) == sshd* ]] && kill "$pid" && say "closed $label reason=$1"
}

say() { printf '%(%Y-%m-%dT%H:%M:%SZ)T %s\n' -1 "$1"; }

# Every login and refusal of the log in the order of time, without those of the health check; what
# s6-log has rotated is compressed.
logins() {
	local file
	{
		for file in "$log"/@*; do
			[[ -f $file ]] && { gzip -cd "$file" 2>/dev/null || cat "$file"; }
		done
		cat "$log/current" 2>/dev/null
	} | grep -E ': (Accepted|Failed) publickey' | grep -v ' from 127.0.0.1 '
}

# The process that logs a login; Alpine calls the program sshd-session.pam, and OpenSSH the process
# [priv], from 10.5 on [postauth].
session_pattern="^sshd-session[^ ]*: ${USER_NAME:?} \\[(priv|postauth)\\] *\$"

# The login of each connection that is open now, one line of the log each.
open_logins() {
	local file title pids=() of=() line
	for file in /proc/[0-9]*/cmdline; do
		# A title has no end mark when sshd has written it itself.
		title=$({ tr '\0' ' ' <"$file"; } 2>/dev/null) || continue
		# One that has not logged any login yet has the same title.
		[[ $title =~ $session_pattern ]] || continue
		file=${file#/proc/}
		pids+=("${file%/cmdline}")
	done
	((${#pids[@]})) || return 0
	while IFS= read -r line; do
		[[ $line =~ pid=([0-9]+)\) ]] && of[BASH_REMATCH[1]]=$line
	done < <(logins | grep -E "pid=($(IFS='|' && echo "${pids[*]}"))\): Accepted publickey")
	for pid in "${pids[@]}"; do [[ -z ${of[pid]:-} ]] || printf '%s\n' "${of[pid]}"; done
}

# Close every open connection that the list, as it is now, would not let in; `enforced` is what was
# in force then.
enforce() {
	local -A old=()
	local fingerprint line
	for fingerprint in "${!conditions_of[@]}"; do old[$fingerprint]=${conditions_of[$fingerprint]}; done
	touch -r "$list" "$acted_on"
	read_list
	enforced=$(in_force)
	while IFS= read -r line; do
		parse "$line" || continue
		local listed=${authority:-$fingerprint}
		if ! may_stay; then
			close 'removed'
		elif [[ ${old[$listed]:-${conditions_of[$listed]}} != "${conditions_of[$listed]}" ]]; then
			close 'conditions-changed'
		fi
	done < <(open_logins)
}

# What is in force now, in one word that changes when a key comes, goes or expires.
in_force() {
	local fingerprint
	for fingerprint in "${!until_of[@]}"; do ! counts "$fingerprint" || printf '%s ' "$fingerprint"; done
}

# When half of MaxStartups have not logged in, those who had time enough for it go: connections that
# only stand open would otherwise keep everybody out until LoginGraceTime ends them.
end_idlers() {
	local title='' count
	{ IFS= read -r -d '' title <"/proc/$listener/cmdline"; } 2>/dev/null
	if [[ $title != *' [listener] '* ]]; then
		listener=$(pgrep -o -f '^sshd.* \[listener\] ') || listener=none
		return 0
	fi
	[[ $title =~ \[listener\]\ ([0-9]+)\ of ]] && ((BASH_REMATCH[1] > 500)) || return 0
	count=$(pkill --count --older 5 -f '^sshd-(session[^ ]*: \[accepted\]|auth[^ ]*: )')
	((count == 0)) || say "closed $count connections reason=not-logged-in-after-5-s"
}

audit() {
	if parse "$1"; then
		if [[ $address == 127.0.0.1 ]]; then
			: >"$seen"
			return 0
		fi
		if [[ $outcome == Failed ]]; then
			echo "$time refused $label user=$login_name"
			return 0
		fi
		echo "$time login $label"
		# Let in by a list that was replaced at this very moment.
		may_stay || close removed
		return 0
	fi
	case $1 in
	# Part of each login and each end; nothing that the lines above do not say.
	*': Postponed '* | *': Failed none '* | *'Received disconnect '* | *'Disconnected from '* | \
		*'Connection closed by '* | *'Connection reset by '*) ;;
	# The client's choice; OpenSSH 10.6 says it at each login.
	*' is not using a post-quantum key exchange algorithm: '*) ;;
	*) echo "$1" ;;
	esac
}

watch() {
	local line status enforced listener=none from_line=+1
	until [[ -f $log/current && -f $list ]]; do sleep 0.2; done
	say 'session-monitor: watching'
	# All of the log at the first start of the container; from here on after one of this script.
	[[ ! -f /run/gateway/watched ]] || from_line=0
	exec 3< <(exec tail -n "$from_line" -F "$log/current" 2>/dev/null)
	: >/run/gateway/watched
	enforce
	while :; do
		IFS= read -r -t 1 -u 3 line
		status=$?
		if ((status == 0)); then
			audit "$line"
		elif ((status <= 128)); then
			say 'session-monitor: the log has ended'
			return 1
		fi
		# A steady flow of lines must not put this off.
		((SECONDS != ${checked:=-1})) || continue
		checked=$SECONDS
		if [[ ! -f $list || ! -f $log/current ]]; then
			say "session-monitor: $list or $log/current is gone"
			return 1
		fi
		end_idlers
		if [[ $list -nt $acted_on || $list -ot $acted_on || $(in_force) != "$enforced" ]]; then
			enforce
		fi
	done
}

who() {
	read_list
	echo 'connected now:'
	open_logins | print_logins
	echo 'lately (the last 20 logins and refusals):'
	logins | tail -n 20 | print_logins
}

print_logins() {
	local line some=
	while IFS= read -r line; do
		parse "$line" || continue
		some=1
		[[ $outcome == Accepted ]] && outcome=login || outcome=refused
		echo "  $time $outcome $label"
	done
	[[ -n $some ]] || echo '  nobody'
}

case ${1:-watch} in
watch) watch ;;
who) who ;;
*)
	echo "session-monitor: $1 is neither watch nor who" >&2
	exit 2
	;;
esac
