# shellcheck shell=bash
# The commands that source this share its variables.
# shellcheck disable=SC2034,SC2154
# The images for daemon and gateway, for the guard if there is one, and the base image of the first build.

FIRST_BUILD_BASE=alpine:3.22

# default_image SETTING: the reference in Pulumi.yaml.
default_image() {
	"$ROOT/.venv/bin/python" -c 'import sys, yaml; print(yaml.safe_load(open(sys.argv[1]))["config"][sys.argv[2]]["default"])' "$ROOT/Pulumi.yaml" "$1"
}

default_images() {
	daemon_image=$(default_image daemonImage)
	gateway_image=$(default_image gatewayImage)
	guard_image=$(default_image guardImage)
	base_image=$FIRST_BUILD_BASE
}

# have_images [guard]: sets daemon_image, gateway_image, guard_image and base_image.
have_images() {
	default_images
	local image out_of_reach=
	for image in "$daemon_image" "$gateway_image" ${1:+"$guard_image"}; do
		docker image inspect "$image" >/dev/null 2>&1 && continue
		step "Pull $image"
		timeout 600 docker pull --quiet "$image" >"$STATE/log/pull.log" 2>&1 || {
			out_of_reach=$image
			break
		}
	done
	if [[ -n $out_of_reach ]]; then
		note "STAND-IN: $out_of_reach cannot be pulled; images are built from Debian packages and Go modules"
		# runc is linked with libseccomp.
		have_packages gcc libc6-dev libcap2-bin libseccomp-dev mmdebstrap pkg-config
		have_go
		local built
		built=$("$ROOT/offline/images/build" daemon gateway "$@" busybox) || fail 'the images could not be built; the lines above say why'
		daemon_image=$(sed -n 's/^daemon //p' <<<"$built")
		gateway_image=$(sed -n 's/^gateway //p' <<<"$built")
		[[ $# -eq 0 ]] || guard_image=$(sed -n 's/^guard //p' <<<"$built")
		base_image=$(sed -n 's/^busybox //p' <<<"$built")
	fi
	note "Images: $daemon_image, $gateway_image${1:+, $guard_image}"
}
