#!/bin/bash
# Makes Debian 13's virtiofsd, that of the container image, usable on this machine: test/virtiofsd/build.sh OUTDIR → OUTDIR/virtiofsd
#
# Debian 12 has another program of that name, in QEMU's package.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../images/lib.sh"

SUITE=trixie

main() {
	[ $# = 1 ] || die 'usage: test/virtiofsd/build.sh OUTDIR'
	mkdir -p "$1"
	out=$(realpath "$1")
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	debian_sources "$SUITE" >"$work/sources.list"
	step virtiofsd '1 minute' "getting Debian 13's virtiofsd for tests" get_virtiofsd
}

# apt with lists and state of its own, so that another suite is read without touching this machine's.
own_apt() {
	local tool=$1
	shift
	"$tool" -q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State="$work/apt" -o Dir::State::Status=/dev/null -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=root "$@"
}

get_virtiofsd() {
	local file lib
	mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/root"
	own_apt apt-get update
	(cd "$work" && own_apt apt-get download virtiofsd libc6 libcap-ng0 libgcc-s1 libseccomp2)
	for file in "$work"/*.deb; do dpkg-deb -x "$file" "$work/root"; done
	lib=$(echo "$work"/root/usr/lib/*-linux-gnu)
	cp "$work/root/usr/libexec/virtiofsd" "$out/virtiofsd.bin"
	cp -L "$lib"/ld-linux-*.so.* "$out/ld.so"
	cp -L "$lib"/{libc.so.6,libm.so.6,libcap-ng.so.0,libgcc_s.so.1,libseccomp.so.2} "$out/"
	# It needs a newer C library than this machine's.
	cat >"$out/virtiofsd" <<-'END'
		#!/bin/sh
		dir=$(dirname "$0")
		exec "$dir/ld.so" --argv0 virtiofsd --library-path "$dir" "$dir/virtiofsd.bin" "$@"
	END
	chmod 755 "$out" "$out/virtiofsd"
}

main "$@"
