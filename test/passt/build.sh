#!/bin/bash
# Makes Debian 13's passt, that of the container image, usable on this machine: test/passt/build.sh OUTDIR → OUTDIR/passt
#
# Debian 12's does not answer the guest's SYN+ACK before the client has sent something, so a service that speaks first is never heard.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../images/lib.sh"

SUITE=trixie

main() {
	[ $# = 1 ] || die 'usage: test/passt/build.sh OUTDIR'
	mkdir -p "$1"
	out=$(realpath "$1")
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	debian_sources "$SUITE" >"$work/sources.list"
	step passt '1 minute' "getting Debian 13's passt for tests" get_passt
}

# apt with lists and state of its own, so that another suite is read without touching this machine's.
own_apt() {
	local tool=$1
	shift
	"$tool" -q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State="$work/apt" -o Dir::State::Status=/dev/null -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=root "$@"
}

get_passt() {
	local file lib
	mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/root"
	own_apt apt-get update
	(cd "$work" && own_apt apt-get download passt libc6)
	for file in "$work"/*.deb; do dpkg-deb -x "$file" "$work/root"; done
	lib=$(echo "$work"/root/usr/lib/*-linux-gnu)
	cp "$work/root/usr/bin/passt" "$out/passt.bin"
	cp -L "$lib"/ld-linux-*.so.* "$out/ld.so"
	cp -L "$lib"/libc.so.6 "$out/"
	# It needs a newer C library than this machine's. Its mode is in its name.
	cat >"$out/passt" <<-'END'
		#!/bin/sh
		dir=$(dirname "$0")
		exec "$dir/ld.so" --argv0 passt --library-path "$dir" "$dir/passt.bin" "$@"
	END
	chmod 755 "$out/passt"
}

main "$@"
