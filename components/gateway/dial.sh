#!/bin/sh
# sshd runs this for every session: it connects the client with the daemon's API and does nothing else.
# Usage: dial SOCKET        SOCKET is an absolute path
#        dial COMMAND...    COMMAND connects standard input and output itself; it is no absolute path
# While the daemon starts or is being replaced, the client waits for its socket instead of failing.
hint='This is a Docker builder: it has no shell and no commands. Use it as a Docker host: DOCKER_HOST=ssh://... docker build'
# The client's command is compared and never run. Docker's clients write it in several ways:
# docker system dial-stdio, docker --host=unix://... system dial-stdio, quoted or with a path.
case ${SSH_ORIGINAL_COMMAND-} in
*docker*system*dial-stdio*) ;;
# Standard input may still carry requests for the API.
'') echo "$hint" >&2 ;;
*)
	echo "$hint" >&2
	exit 1
	;;
esac
case $1 in /*) ;; *) exec "$@" ;; esac

socket=$1
# One process per direction. When the client stops sending, the daemon sees a shutdown of its socket. When
# the daemon stops sending, the session ends even if the client still sends, as with docker system
# dial-stdio. Each process notices on its own when its peer is gone.
pump='/command/s6-ioconnect <&3 3<&- 6</dev/null >/dev/null &
/command/s6-ioconnect 3<&- </dev/null 7>/dev/null
kill -KILL $!'
tries=0
while :; do
	/command/s6-ipcclient "$socket" sh -c "$pump" 3<&0 2>/dev/null
	# 111: nobody listens at the socket. The pump itself exits with 0, or with 1 when the client had ended
	# too.
	case $? in
	111) ;;
	0 | 1) exit 0 ;;
	*)
		echo 'The gateway cannot carry this session; ask who runs the builder to look at its logs.' >&2
		exit 1
		;;
	esac
	[ "$tries" -ne 4 ] ||
		echo 'The builder is starting or being changed; waiting until it is back, 10 minutes at most.' >&2
	tries=$((tries + 1))
	if [ "$tries" -ge 1200 ]; then
		echo 'The builder did not come back within 10 minutes; ask who runs it to look at its logs.' >&2
		exit 1
	fi
	[ -d "/proc/$PPID" ] || exit 1
	sleep 0.5
done
