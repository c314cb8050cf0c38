# shellcheck shell=bash
# version.txt of the channel, and the DIGESTS beside the image: for each algorithm a heading, and lines as sha512sum has them.
newest() {
	local base=https://stable.release.flatcar-linux.net/$1-usr file=flatcar_production_qemu_image.img version
	[ "$1" = amd64 ] || file=flatcar_production_qemu_uefi_image.img
	version=$(index "$base/current/version.txt" | sed -n 's/^FLATCAR_VERSION=//p')
	version=$(found FLATCAR_VERSION "$version")
	echo "version $version"
	echo "url $base/$version/$file"
	index "$base/$version/$file.DIGESTS" | awk -v f="$file" '/^#/ { sha512 = /SHA512/ } sha512 && $2 == f { print "sha512 " $1 }'
	echo "signature $base/$version/$file.sig"
}
