# shellcheck shell=sh
# Copies the files of /new into the volume /access, each atomically. The list comes last, because the
# session monitor reads it to close the connections of removed keys.
chmod 0755 /access
: >/new/revoked_keys
for entries in /new/revoked/*; do
	case $entries in *.pub | */'*') continue ;; esac
	set -- -q -k -f /new/revoked_keys
	[ ! -s /new/revoked_keys ] || set -- "$@" -u
	# Serials and ids belong to one certificate authority, whose key is in this file.
	[ ! -f "$entries.pub" ] || set -- "$@" -s "$entries.pub"
	ssh-keygen "$@" "$entries"
done
for file in revoked_keys authorized_keys identities list; do
	# Without the setting identities nobody reads that file.
	[ -e "/new/$file" ] || continue
	install -m 0444 "/new/$file" "/access/.$file.new"
	sync "/access/.$file.new"
	mv "/access/.$file.new" "/access/$file"
done
