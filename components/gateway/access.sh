# shellcheck shell=sh
# Puts /authorized_keys into the volume /access: the old file or the new one, never a part.
chmod 0755 /access
install -m 0444 /authorized_keys /access/.authorized_keys.new
sync /access/.authorized_keys.new
mv /access/.authorized_keys.new /access/authorized_keys
