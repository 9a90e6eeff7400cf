#!/bin/sh
# What sshd runs for every session: a pipe from the client to the daemon's API, and nothing else.
# Usage: dial SOCKET | dial COMMAND...   COMMAND is a pipe itself, and no absolute path.
# While the daemon starts, or is being replaced, the client waits at its socket instead of failing.
hint='This is a Docker builder: it has no shell and no commands. Use it by DOCKER_HOST=ssh://... docker.'
# The client's words are compared and never run. Docker's clients write theirs in several ways:
# docker system dial-stdio, docker --host=unix://... system dial-stdio, quoted or by a path.
case ${SSH_ORIGINAL_COMMAND-} in
*docker*system*dial-stdio*) ;;
# What comes on standard input is for the API.
'') echo "$hint" >&2 ;;
*)
	echo "$hint" >&2
	exit 1
	;;
esac
case $1 in /*) ;; *) exec "$@" ;; esac

socket=$1
# Two processes, one for each direction: the client's end is passed on to the daemon (shutdown), and the
# daemon's end ends the session, whatever the client still sends, as docker system dial-stdio does.
# Either notices by itself that its other side is gone.
pump='/command/s6-ioconnect <&3 3<&- 6</dev/null >/dev/null &
/command/s6-ioconnect 3<&- </dev/null 7>/dev/null
kill -KILL $!'
tries=0
while :; do
	/command/s6-ipcclient "$socket" sh -c "$pump" 3<&0 2>/dev/null
	# 111: nobody listens there; of the pump itself comes 0 or, when the client had ended too, 1.
	case $? in
	111) ;;
	0 | 1) exit 0 ;;
	*)
		echo 'The gateway cannot carry this session; ask who runs the builder to look at its logs.' >&2
		exit 1
		;;
	esac
	[ "$tries" -ne 4 ] ||
		echo 'The builder is starting or being changed; this waits until it is back, 10 minutes at most.' >&2
	tries=$((tries + 1))
	if [ "$tries" -ge 1200 ]; then
		echo 'The builder did not come back within 10 minutes; ask who runs it to look at its logs.' >&2
		exit 1
	fi
	[ -d "/proc/$PPID" ] || exit 1
	sleep 0.5
done
