# shellcheck shell=bash
# The folders of the release's builds, one a date, and the SHA256SUMS of the last one. For another release change both of these.
newest() {
	local base=https://cloud-images.ubuntu.com/releases/resolute release=26.04 file build sums
	file=ubuntu-$release-server-cloudimg-$1.img
	build=$(index "$base/" | { grep -oE 'href="release-[0-9]{8}(\.[0-9]+)?/"' || true; } | cut -d '"' -f 2 | tr -d / | sort -V | tail -n 1)
	build=$(found 'folder release-DATE' "$build")
	sums=$(index "$base/$build/SHA256SUMS")
	echo "version $release-${build#release-}"
	echo "url $base/$build/$file"
	echo "sha256 $(digest_in "$file" <<<"$sums")"
	echo "sums $base/$build/SHA256SUMS"
	echo "signature $base/$build/SHA256SUMS.gpg"
}
