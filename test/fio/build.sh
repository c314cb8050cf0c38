#!/bin/bash
# Makes fio for the tiny guest: test/fio/build.sh OUTDIR → OUTDIR/initrd, a RAM disk to be put behind the guest's own
#
# Debian's fio and the libraries that it is linked with, which are many and large (Ceph's, Gluster's): so it is in a RAM disk of its own, for
# the benchmark alone. Nothing is installed.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../images/lib.sh"

SUITE=trixie

main() {
	[ $# = 1 ] || die 'usage: test/fio/build.sh OUTDIR'
	need_packages cpio zstd
	mkdir -p "$1"
	out=$(realpath "$1")
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	debian_sources "$SUITE" >"$work/sources.list"
	step fio '3 minutes' "getting Debian 13's fio for the benchmark's guest" make_fio
	[ -s "$out/initrd" ] || die "fio was not made; the log is $CACHE/log/fio.log"
}

# apt with lists and state of its own, so that another suite is read without touching this machine's, and nothing counts as installed.
own_apt() {
	apt-get -q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null -o Dir::State="$work/apt" \
		-o Dir::State::Status=/dev/null -o Dir::Cache="$work/apt/cache" -o APT::Architecture=amd64 -o APT::Architectures=amd64 -o APT::Sandbox::User=root "$@"
}

# step runs it where set -e has no effect.
make_fio() { (set -e; get_fio) }

get_fio() {
	local file lib=usr/lib/x86_64-linux-gnu packages
	mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/root" "$work/guest/bin"
	own_apt update
	# What fio depends on, without the interpreter of its scripts.
	mapfile -t packages < <(own_apt install --yes --no-install-recommends --simulate fio | sed -n 's/^Inst \([^ ]*\) .*/\1/p' | grep -E '^(fio$|lib|zlib)' | grep -v python)
	(cd "$work" && own_apt download "${packages[@]}")
	for file in "$work"/*.deb; do dpkg-deb -x "$file" "$work/root"; done
	cp "$work/root/usr/bin/fio" "$work/guest/bin/"
	# The loader of that suite tells what is needed, and where it has found it.
	"$work/root/$lib/ld-linux-x86-64.so.2" --library-path "$work/root/$lib:$work/root/$lib/ceph" --list "$work/root/usr/bin/fio" |
		sed -n 's/^[^/]*=> \(\/[^ ]*\).*/\1/p' | while read -r file; do
		install -D -m 755 "$file" "$work/guest/lib/x86_64-linux-gnu/$(basename "$file")"
	done
	install -D -m 755 "$work/root/$lib/ld-linux-x86-64.so.2" "$work/guest/lib64/ld-linux-x86-64.so.2"
	(cd "$work/guest" && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0 | zstd -q -9) >"$work/initrd"
	mv "$work/initrd" "$out/initrd"
}

main "$@"
