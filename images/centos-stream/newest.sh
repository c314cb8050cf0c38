# shellcheck shell=bash
# CHECKSUM beside the images, with a line "SHA256 (FILE) = HEX" for each of them. For another release change it here.
newest() {
	local release=10 base line file machine
	machine=$(machine "$1")
	base=https://cloud.centos.org/centos/$release-stream/$machine/images
	line=$(index "$base/CHECKSUM" | sed -nE "s/^SHA256 \((CentOS-Stream-GenericCloud-$release-[0-9]{8}\.[0-9]+\.$machine\.qcow2)\) = ([0-9a-f]{64})\$/\2 \1/p" |
		sort -k 2 -V | tail -n 1)
	file=$(found 'dated image' "${line#* }")
	echo "version $(sed -E 's/^CentOS-Stream-GenericCloud-([0-9.-]+)\..*/\1/' <<<"$file")"
	echo "url $base/$file"
	echo "sha256 ${line% *}"
}
