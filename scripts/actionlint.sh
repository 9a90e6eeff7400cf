# shellcheck shell=bash
# actionlint, which checks workflows of GitHub and compatible CIs, built once from Go modules.

have_actionlint() {
	local folder
	folder=${XDG_CACHE_HOME:-$HOME/.cache}/docker-build-machine/actionlint-$(sha256sum <"$ROOT/scripts/actionlint/go.sum" | cut -c 1-16)
	if [[ ! -x $folder/actionlint ]]; then
		have_go
		quietly 'actionlint from Go modules' env GOTOOLCHAIN=auto GOFLAGS=-buildvcs=false \
			go -C "$ROOT/scripts/actionlint" build -o "$folder/actionlint" github.com/rhysd/actionlint/cmd/actionlint
	fi
	ln -sfn "$folder/actionlint" "$STATE/bin/actionlint"
}
