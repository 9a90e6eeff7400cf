# shellcheck shell=sh
# Puts the files of /new into the volume /access: the old file or the new one, never a part. The
# list comes last: by it the session monitor ends the connections of those who cannot log in any more.
chmod 0755 /access
: >/new/revoked_keys
for entries in /new/revoked/*; do
	case $entries in *.pub | */'*') continue ;; esac
	set -- -q -k -f /new/revoked_keys
	[ ! -s /new/revoked_keys ] || set -- "$@" -u
	# Serials and ids are those of one authority.
	[ ! -f "$entries.pub" ] || set -- "$@" -s "$entries.pub"
	ssh-keygen "$@" "$entries"
done
for file in revoked_keys authorized_keys list; do
	install -m 0444 "/new/$file" "/access/.$file.new"
	sync "/access/.$file.new"
	mv "/access/.$file.new" "/access/$file"
done
