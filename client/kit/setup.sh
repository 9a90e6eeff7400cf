# shellcheck shell=sh
# The verbs install and uninstall: what they put into ~/.builder, ~/.ssh/config and ~/.local/bin.
# Sourced by builder.
# shellcheck disable=SC2154  # builder sets home, name, folder and sock

config=$HOME/.ssh/config
# Stands above the Include line; uninstall looks for exactly this text, older kits wrote the same.
mark='# docker-build-machine: builder uninstall takes this line and the next away'
# The command on PATH, if ~/.local/bin is there.
command=$HOME/.local/bin/builder

# install [--identity FILE]: sets up all builders of the kit beside $0.
install_kit() {
	kit=$(cd "$(dirname "$0")" && pwd)
	read_install_options "$@"
	[ "$kit" != "$home" ] || fail "this is the installed command; next: run the builder file of a kit"
	[ -n "$(builder_names "$kit")" ] || fail "there is no builder's folder beside $0; next: run the builder file inside its kit"
	has ssh || fail 'ssh is not installed here; next: install OpenSSH (openssh-client)'
	mkdir -p "$home"
	for file in connection.sh setup.sh doctor.sh ahead.py builder; do
		cp "$kit/$file" "$home/$file.new" && mv "$home/$file.new" "$home/$file" || exit 1
	done
	chmod 0755 "$home/builder"
	for name in $(builder_names "$kit"); do install_builder; done
	add_include
	put_on_path
	say "set up: $(builder_names "$kit")"
	say "next: $shown_command on"
}

# Sets identity: the file that --identity names, or nothing.
read_install_options() {
	identity=
	while [ $# -gt 0 ]; do
		[ "$1" = --identity ] || fail "install does not know $1; next: builder help"
		[ -f "${2:-}" ] || fail "--identity ${2:-}: there is no such file; next: name the file of the private key"
		identity=$(cd "$(dirname "$2")" && pwd)/$(basename "$2")
		shift 2
	done
}

# Sets up the builder $name of the kit; sets folder.
install_builder() {
	folder=$home/$name
	# ssh adds 17 characters to the name of a new master's socket; macOS allows 103 in all.
	[ "${#folder}" -le 83 ] || fail "$folder is too long a path for sockets (83 characters at most); next: BUILDER_HOME=/a/shorter/folder sh $0 install"
	check_identity
	mkdir -p "$folder"
	for file in known_hosts key.pub; do
		[ ! -f "$kit/$name/$file" ] || cp "$kit/$name/$file" "$folder/$file"
	done
	key=$identity
	[ -n "$key" ] || key=$(find_key)
	write_ssh_config
	if [ "$key" = "$folder/key.pub" ] && ! in_agent "$(fingerprint "$key")"; then
		say "$name: the private key of $(fingerprint "$key") is neither in ~/.ssh nor in the agent; next: put it there, or sh $0 install --identity FILE"
	fi
	[ -f "$folder/env" ] || ! has docker || point_docker_at "ssh://$name"
}

# Fails if --identity names another key than the kit is for.
check_identity() {
	[ -n "$identity" ] && [ -f "$kit/$name/key.pub" ] || return 0
	expected=$(fingerprint "$kit/$name/key.pub")
	[ "$(fingerprint "$identity")" = "$expected" ] ||
		fail "--identity $identity is another key than the builder knows, $expected; next: name that key, or ask for a kit for yours"
}

# Prints the private key in ~/.ssh that belongs to key.pub; without one key.pub, by which ssh finds the
# key in the agent; nothing if the kit has no key.pub.
find_key() {
	[ -f "$folder/key.pub" ] || return
	expected=$(fingerprint "$folder/key.pub")
	for file in "$HOME"/.ssh/*; do
		{ head -n 1 "$file" | grep -q 'PRIVATE KEY'; } 2>/dev/null || continue
		public=$file
		[ ! -f "$file.pub" ] || public=$file.pub
		if [ "$(fingerprint "$public")" = "$expected" ]; then
			printf '%s\n' "$file"
			return
		fi
	done
	printf '%s\n' "$folder/key.pub"
}

# Writes the builder's ssh_config: the kit's, with the paths of this machine. A connection that was
# opened with a different one is closed.
write_ssh_config() {
	{
		cat "$kit/$name/ssh_config"
		printf '  UserKnownHostsFile "%s"\n  ControlPath "%s"\n' "$folder/known_hosts" "$folder/m"
		[ -z "$key" ] || printf '  IdentityFile "%s"\n  IdentitiesOnly yes\n' "$key"
	} >"$folder/ssh_config.new"
	if [ -f "$folder/ssh_config" ] && ! cmp -s "$folder/ssh_config" "$folder/ssh_config.new"; then
		close_connection
	fi
	mv "$folder/ssh_config.new" "$folder/ssh_config"
}

close_connection() { within 5 ssh -F "$folder/ssh_config" -O exit "$name" 2>/dev/null; }

# Puts the Include line at the top of ~/.ssh/config, where no other block can come before it.
add_include() {
	line="Include \"$home/*/ssh_config\""
	[ "$home" != "$HOME/.builder" ] || line='Include ~/.builder/*/ssh_config'
	if [ ! -d "$HOME/.ssh" ]; then
		mkdir "$HOME/.ssh"
		echo >"$home/made-ssh"
	fi
	if [ ! -e "$config" ]; then
		: >"$config" && echo >"$home/made-config"
	elif grep -qxF "$mark" "$config"; then
		return
	fi
	[ -w "$config" ] || fail "$config cannot be written; next: put this line at its top yourself, then everything works: $line"
	{
		printf '%s\n%s\n' "$mark" "$line"
		cat "$config"
	} | rewrite "$config"
}

# Takes the lines out again and leaves every other byte as it is.
remove_include() {
	[ -f "$config" ] || return
	first=$(grep -nxF "$mark" "$config" | head -n 1 | cut -d : -f 1)
	if [ -n "$first" ]; then
		after=$((first + 1))
		! sed -n "${after}p" "$config" | grep -q '^Include ' || after=$((first + 2))
		{
			[ "$first" -eq 1 ] || head -n $((first - 1)) "$config"
			tail -n "+$after" "$config"
		} | rewrite "$config"
	fi
	if [ -f "$home/made-config" ] && [ ! -s "$config" ]; then rm "$config"; fi
	if [ -f "$home/made-ssh" ]; then rmdir "$HOME/.ssh" 2>/dev/null; fi
}

# rewrite FILE: puts standard input into the file that is there, so that links, owner and mode stay.
rewrite() { cat >"$home/rewrite" && cat "$home/rewrite" >"$1" && rm "$home/rewrite"; }

# Puts the command `builder` into ~/.local/bin if that is on PATH and has no other one: sets
# shown_command, how to call it.
put_on_path() {
	shown_command=$home/builder
	[ "$home" = "$HOME/.builder" ] || shown_command="BUILDER_HOME=$(quoted "$home") $shown_command"
	case :$PATH: in
	*":$HOME/.local/bin:"*) ;;
	*) return ;;
	esac
	[ ! -e "$command" ] || is_ours "$command" || return
	mkdir -p "$HOME/.local/bin"
	printf '#!/bin/sh\nBUILDER_HOME=%s exec sh %s "$@"\n' "$(quoted "$home")" "$(quoted "$home/builder")" >"$command"
	chmod 0755 "$command"
	shown_command=builder
}

# is_ours FILE: whether it calls the installed command.
is_ours() { grep -qF "$home/builder" "$1"; }

# uninstall NAMES: removes these builders and, with the last one, everything else that install added.
uninstall() {
	for name in $1; do
		choose_builder "$name"
		if has docker; then
			off
			docker_here context rm "$name" >/dev/null
		fi
		rm -f "$folder/watched"
		close_connection
		rm -rf "$folder"
		say "$name: removed"
	done
	[ -z "$(builder_names "$home")" ] || return 0
	remove_include
	if [ -f "$command" ] && is_ours "$command"; then rm "$command"; fi
	rm -rf "$home"
}
