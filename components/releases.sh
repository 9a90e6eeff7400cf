# shellcheck shell=sh
# Compares releases. The script that uses this function is appended to this file.

# older RELEASE MINIMUM: whether RELEASE is older than MINIMUM (major.minor).
older() {
	awk -v have="$1" -v want="$2" 'BEGIN {
		split(have, h, "[.]"); split(want, w, "[.]")
		exit !(h[1] + 0 < w[1] + 0 || (h[1] + 0 == w[1] + 0 && h[2] + 0 < w[2] + 0))
	}'
}
