# shellcheck shell=bash
# The listing of the newest release's cloud images, and the .sha512 beside the image, which has the digest, with or without the file's name.
newest() {
	local base=https://mirrors.edge.kernel.org/alpine file version digest
	file=$(index "$base/latest-stable/releases/cloud/" | { grep -oE "nocloud_alpine-[0-9.]+-$(machine "$1")-uefi-cloudinit-r[0-9]+\.qcow2\"" || true; } |
		tr -d '"' | sort -V | tail -n 1)
	file=$(found 'image nocloud_alpine-…-uefi-cloudinit' "$file")
	version=$(sed -E 's/^nocloud_alpine-([0-9.]+)-.*/\1/' <<<"$file")
	# latest-stable moves on; the folder of the release stays.
	base=$base/v${version%.*}/releases/cloud
	digest=$(index "$base/$file.sha512")
	echo "version $version"
	echo "url $base/$file"
	echo "sha512 $(grep -oE '[0-9a-f]{128}' <<<"$digest" | head -n 1)"
}
