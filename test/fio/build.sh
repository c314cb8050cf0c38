#!/bin/bash
# Makes fio for the tiny guest: test/fio/build.sh OUTDIR → OUTDIR/initrd, a RAM disk to be put behind the guest's own
#
# Debian's fio is linked with the libraries of Ceph, Gluster and others, which are larger than all else in that guest. So it is
# built here from Debian's source, without them and static.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../images/lib.sh"

SUITE=trixie

main() {
	[ $# = 1 ] || die 'usage: test/fio/build.sh OUTDIR'
	need_packages gcc libc6-dev libaio-dev make dpkg-dev cpio zstd xz-utils
	mkdir -p "$1"
	out=$(realpath "$1")
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	debian_sources "$SUITE" | sed 's/^deb /deb-src /' >"$work/sources.list"
	step fio '5 minutes' "building fio for the benchmark's guest from Debian's source" build_fio
}

# apt with lists and state of its own, so that another suite is read without touching this machine's.
own_apt() {
	apt-get -q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State="$work/apt" -o Dir::State::Status=/dev/null -o Dir::Cache="$work/apt/cache" -o APT::Sandbox::User=root "$@"
}

build_fio() {
	mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/root/bin"
	own_apt update
	(cd "$work" && own_apt source --download-only fio && dpkg-source -x fio_*.dsc source)
	(
		cd "$work/source"
		./configure --build-static --disable-native --disable-numa --disable-rdma --disable-rados --disable-rbd --disable-gfapi \
			--disable-http --disable-pmem --disable-libzbc --disable-libnfs --disable-xnvme --disable-libblkio --disable-tcmalloc --disable-shm
		make -j "$(nproc)" fio
	)
	install -s -m 755 "$work/source/fio" "$work/root/bin/fio"
	(cd "$work/root" && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0 | zstd -q -9) >"$out/initrd"
}

main "$@"
