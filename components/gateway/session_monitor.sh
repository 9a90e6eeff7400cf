#!/usr/bin/env bash
# Shows who is connected, by name. Runs as root in the gateway.
#   session-monitor watch   writes a line for each login and refusal, closes the connections of keys that
#                           are no longer accepted, and closes idle connections that would block new logins
#   session-monitor who     prints a table of open connections and recent logins
#   session-monitor count   prints `refused COUNT`, and `session NAME` for each open connection
#
# sshd's log contains which process accepted which fingerprint (LogVerbose, sshd_config(5)); /access/list
# contains which fingerprints are accepted now, and their names. The keys of jobs that sent a token are not
# in the list; the verifier writes which rule of the list let each of them in. The monitor itself only
# remembers the previous contents of the list, and the rule and job of the keys that it has seen.
set -uo pipefail
export TZ=UTC

list=/access/list
log=/config/logs/openssh
# A file for each key that a token let in, by its fingerprint: the rule's digest and words about the job.
enrolled=/identities/keys
acted_on=/run/gateway/acted-on
# Touched at each login of the health check, which thereby sees that the monitor works.
seen=/run/gateway/seen
# How many logins were refused since the container's start, for the metrics.
count_of_refused=/run/gateway/refused

# The list by fingerprint. role_of holds the text about the role for a log line, until_of the last second,
# conditions_of addresses, principals and role together.
declare -A name_of=() role_of=() until_of=() conditions_of=() revoked=()
# By the fingerprint of a key that a token let in. A rule is in the list by its digest, as keys are by their
# fingerprint.
declare -A rule_of=() job_of=()

read_list() {
	local kind fingerprint second third fourth
	# Names are kept for log lines about connections whose key has been removed.
	role_of=() until_of=() conditions_of=() revoked=()
	while read -r kind fingerprint second third fourth; do
		case $kind in
		key | ca | rule)
			name_of[$fingerprint]=$second
			until_of[$fingerprint]=$third
			conditions_of[$fingerprint]=$kind:$fourth
			[[ $fourth != *' build' ]] || role_of[$fingerprint]=' role=build'
			;;
		# A fingerprint, or a certificate as "CA_FINGERPRINT serial: N" or "CA_FINGERPRINT id: TEXT".
		revoked) revoked["$fingerprint${second:+ $second $third}"]=1 ;;
		esac
	done <"$list"
}

# is_valid FINGERPRINT: whether the key, authority or rule is listed and has not expired.
is_valid() {
	local now
	[[ -n ${until_of[$1]:-} ]] || return 1
	printf -v now '%(%Y%m%d%H%M%S)T' -1
	# The last second counts, as it does for sshd.
	[[ ${until_of[$1]} == - || ! $now > ${until_of[$1]} ]]
}

# Remembers the rule and job of the key that was parsed last; when the verifier has forgotten it, what it was.
read_enrolled() {
	local rule job
	{ read -r rule job <"$enrolled/${fingerprint//\//_}"; } 2>/dev/null || return 0
	# They are only for log lines about keys that the verifier has forgotten.
	((${#rule_of[@]} < 5000)) || rule_of=() job_of=()
	rule_of[$fingerprint]=$rule job_of[$fingerprint]=$job
}

line_pattern='^([0-9-]+) ([0-9:]+)[.0-9]* .*pid=([0-9]+)\): (Accepted|Failed) publickey for (invalid user )?([^ ]*) from ([^ ]+) port ([0-9]+) ssh2: [^ ]+ (SHA256:[^ ]+)(.*)$'
certificate_pattern='^ ID (.*) \(serial ([0-9]+)\) CA [^ ]+ (SHA256:[^ ]+)'

# parse LINE: splits one line of sshd's log into time, pid, outcome, login_name, address, port,
# fingerprint, authority, listed (what the list has it by) and label; fails when the line is not about a key.
parse() {
	# sshd ends its lines with CR LF.
	[[ ${1%$'\r'} =~ $line_pattern ]] || return 1
	time=${BASH_REMATCH[1]}T${BASH_REMATCH[2]}Z pid=${BASH_REMATCH[3]} outcome=${BASH_REMATCH[4]}
	login_name=${BASH_REMATCH[6]} address=${BASH_REMATCH[7]} port=${BASH_REMATCH[8]}
	fingerprint=${BASH_REMATCH[9]} authority='' serial='' certificate=''
	if [[ ${BASH_REMATCH[10]} =~ $certificate_pattern ]]; then
		certificate=${BASH_REMATCH[1]} serial=${BASH_REMATCH[2]} authority=${BASH_REMATCH[3]}
	fi
	listed=${authority:-$fingerprint}
	if [[ -z $authority && -z ${conditions_of[$fingerprint]:-} ]]; then
		read_enrolled
		listed=${rule_of[$fingerprint]:-$fingerprint}
	fi
	label="name=${name_of[$listed]:--}${role_of[$listed]:-}${job_of[$fingerprint]:+ ${job_of[$fingerprint]}}"
	[[ -z $authority ]] || label+=" certificate=$certificate serial=$serial"
	label+=" key=$fingerprint from=$address:$port"
}

# Whether the login that was parsed last would be accepted now.
may_stay() {
	[[ -z ${revoked[$fingerprint]:-} ]] || return 1
	is_valid "$listed" || return 1
	if [[ -n $authority ]]; then
		[[ -z ${revoked["$authority serial: $serial"]:-} && -z ${revoked["$authority id: $certificate"]:-} ]]
	fi
}

# close REASON: ends the connection of the login that was parsed last.
close() {
	[[ $(cat "/proc/$pid/comm" 2>/dev/null) == sshd* ]] && kill "$pid" && log_line "closed $label reason=$1"
}

log_line() { printf '%(%Y-%m-%dT%H:%M:%SZ)T %s\n' -1 "$1"; }

# Every login and refusal of the log in chronological order, without those of the health check and of jobs
# that send a token, which the verifier's log has. Files that s6-log has rotated are compressed.
logins() {
	local file
	{
		for file in "$log"/@*; do
			[[ -f $file ]] && { gzip -cd "$file" 2>/dev/null || cat "$file"; }
		done
		cat "$log/current" 2>/dev/null
	} | grep -E ': (Accepted|Failed) publickey' |
		grep -Ev " from 127.0.0.1 |Accepted publickey for ${TOKEN_USER:-token} from " ||
		(($? == 1)) # there are none
}

# The title of the process that logs a login. Alpine calls the program sshd-session.pam; OpenSSH calls the
# process [priv], and [postauth] from 10.5 on.
session_pattern="^sshd-session[^ ]*: ${USER_NAME:?} \\[(priv|postauth)\\] *\$"

# The log line of each connection that is open now.
open_logins() {
	local file words pids=() line_of=() line
	for file in /proc/[0-9]*/cmdline; do
		{ mapfile -d '' -t words <"$file"; } 2>/dev/null || continue
		# A process that has not logged its login yet has the same title.
		[[ ${words[*]} =~ $session_pattern ]] || continue
		file=${file#/proc/}
		pids+=("${file%/cmdline}")
	done
	((${#pids[@]})) || return 0
	while IFS= read -r line; do
		[[ $line =~ pid=([0-9]+)\) ]] && line_of[BASH_REMATCH[1]]=$line
	done < <(logins | grep -E "pid=($(IFS='|' && echo "${pids[*]}"))\): Accepted publickey")
	for pid in "${pids[@]}"; do [[ -z ${line_of[pid]:-} ]] || printf '%s\n' "${line_of[pid]}"; done
}

# Closes every open connection that the current list would not accept. `enforced` records which keys were
# valid at that time.
enforce() {
	local -A old=()
	local fingerprint line
	for fingerprint in "${!conditions_of[@]}"; do old[$fingerprint]=${conditions_of[$fingerprint]}; done
	touch -r "$list" "$acted_on"
	read_list
	enforced=$(valid_keys)
	while IFS= read -r line; do
		parse "$line" || continue
		if ! may_stay; then
			close 'removed'
		elif [[ ${old[$listed]:-${conditions_of[$listed]}} != "${conditions_of[$listed]}" ]]; then
			close 'conditions-changed'
		fi
	done < <(open_logins)
}

# The fingerprints that are valid now. The output changes when a key is added, removed or expires.
valid_keys() {
	local fingerprint
	for fingerprint in "${!until_of[@]}"; do ! is_valid "$fingerprint" || printf '%s ' "$fingerprint"; done
}

# When connections without a login fill half of MaxStartups, closes those that are older than 5 seconds.
# Otherwise idle connections would block all logins until LoginGraceTime ends them.
close_idle() {
	local title='' count
	{ IFS= read -r -d '' title <"/proc/$listener/cmdline"; } 2>/dev/null
	if [[ $title != *' [listener] '* ]]; then
		listener=$(pgrep -o -f '^sshd.* \[listener\] ') || listener=none
		return 0
	fi
	[[ $title =~ \[listener\]\ ([0-9]+)\ of ]] && ((BASH_REMATCH[1] > 500)) || return 0
	count=$(pkill --count --older 5 -f '^sshd-(session[^ ]*: \[accepted\]|auth[^ ]*: )')
	((count == 0)) || log_line "closed $count connections reason=not-logged-in-after-5-s"
}

# The health check, which reads the file, never finds half of it.
write_count() {
	echo "$refused" >"$count_of_refused.new" && mv -f "$count_of_refused.new" "$count_of_refused" && counted=$refused
}

audit() {
	if parse "$1"; then
		if [[ $address == 127.0.0.1 ]]; then
			: >"$seen"
			return 0
		fi
		if [[ $outcome == Failed ]]; then
			((refused += 1))
			echo "$time refused $label user=$login_name"
			return 0
		fi
		[[ $login_name != "${TOKEN_USER:-}" ]] || return 0
		echo "$time login $label"
		# The list may have been replaced at the moment of this login.
		may_stay || close removed
		return 0
	fi
	case $1 in
	# Logged at each login and each end; repeats what the lines above contain.
	*': Postponed '* | *': Failed none '* | *'Received disconnect '* | *'Disconnected from '* | \
		*'Connection closed by '* | *'Connection reset by '*) ;;
	# The client chooses the algorithm; OpenSSH 10.6 logs this at each login.
	*' is not using a post-quantum key exchange algorithm: '*) ;;
	*) echo "$1" ;;
	esac
}

watch() {
	local line status enforced listener=none from_line=+1 refused=0 counted
	until [[ -f $log/current && -f $list ]]; do sleep 0.2; done
	log_line 'session-monitor: watching'
	# After the container's start, read the whole log; after a restart of this script, only new lines.
	[[ ! -f /run/gateway/watched ]] || from_line=0
	[[ ! -f $count_of_refused ]] || refused=$(<"$count_of_refused")
	write_count
	exec 3< <(exec tail -n "$from_line" -F "$log/current" 2>/dev/null)
	: >/run/gateway/watched
	enforce
	while :; do
		IFS= read -r -t 1 -u 3 line
		status=$?
		if ((status == 0)); then
			audit "$line"
		elif ((status <= 128)); then
			log_line 'session-monitor: the log has ended'
			return 1
		fi
		# Check once a second, even when lines arrive without a pause.
		((SECONDS != ${checked:=-1})) || continue
		checked=$SECONDS
		[[ $refused == "$counted" ]] || write_count
		if [[ ! -f $list || ! -f $log/current ]]; then
			log_line "session-monitor: $list or $log/current is gone"
			return 1
		fi
		close_idle
		if [[ $list -nt $acted_on || $list -ot $acted_on || $(valid_keys) != "$enforced" ]]; then
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

count() {
	local refused line
	read -r refused <"$count_of_refused" || return 1
	echo "refused $refused"
	read_list
	while IFS= read -r line; do
		parse "$line" && echo "session ${name_of[$listed]:--}"
	done < <(open_logins)
	return 0
}

print_logins() {
	local line found=
	while IFS= read -r line; do
		parse "$line" || continue
		found=1
		[[ $outcome == Accepted ]] && outcome=login || outcome=refused
		echo "  $time $outcome $label"
	done
	[[ -n $found ]] || echo '  nobody'
}

case ${1:-watch} in
watch) watch ;;
who) who ;;
count) count ;;
*)
	echo "session-monitor: $1 is neither watch, who nor count" >&2
	exit 2
	;;
esac
