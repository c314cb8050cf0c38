#!/bin/bash
# Makes the tiny guest of the tests: test/tinyguest/build.sh OUTDIR → OUTDIR/vmlinuz, OUTDIR/initrd, OUTDIR/initrd-net, OUTDIR/initrd-agent
#
# Debian's kernel and static busybox, straight from their packages: nothing is installed, no root is needed. initrd-net is initrd and
# what tests of the network and of memory need besides: Debian's dhcpcd, dhclient and iperf3, netd and fill. initrd-agent is initrd and
# Debian's QEMU guest agent.
# With FLAVOUR=arm64 there is initrd alone, for a machine of that architecture. See init for what the guest can do.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../images/lib.sh"

SRC=$REPO/test/tinyguest
SUITE=trixie
# The kernel's flavour. The cloud kernel starts fastest, and has no drivers for e1000, e1000e and rtl8139 cards:
# FLAVOUR=amd64 makes a guest that has.
FLAVOUR=${FLAVOUR:-cloud-amd64}
ARCH=${FLAVOUR##*-}

# Those of QEMU's devices that a test can put into a machine. Names that this kernel has built in, or has not at all, are passed over.
MODULES=(
	virtio_blk virtio_net virtio_console virtio_balloon virtio_rng virtio_scsi
	qemu_fw_cfg pvpanic pvpanic-pci pvpanic-mmio i6300esb button evdev
	ahci ata_piix nvme sd_mod sr_mod
	e1000 e1000e 8139cp vmxnet3
	ext4 isofs vfat nls_cp437 nls_ascii virtiofs fuse efivarfs tpm_tis
)

# dhcpcd, dhclient, iperf3, and what they are linked with.
NET_PACKAGES=(dhcpcd-base isc-dhcp-client debianutils iperf3 libiperf0 libsctp1 libc6 libgcc-s1 libssl3t64 zlib1g libzstd1)

# The guest agent, and what it is linked with.
AGENT_PACKAGES=(qemu-guest-agent libglib2.0-0t64 libatomic1 libpcre2-8-0 libnuma1 libudev1 libcap2 liburing2 libc6)

main() {
	[ $# = 1 ] || die 'usage: test/tinyguest/build.sh OUTDIR'
	local out
	mkdir -p "$1"
	out=$(realpath "$1")
	need_packages cpio zstd xz-utils kmod
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	debian_sources "$SUITE" >"$work/sources.list"
	step tinyguest '3 minutes' 'making the tiny guest for tests from the kernel and busybox of Debian' make_guest
	mv "$work/vmlinuz" "$out/vmlinuz"
	mv "$work"/initrd* "$out/"
	say "$out:$(cd "$out" && stat -c ' %n %s' vmlinuz initrd* | tr '\n' ',')"
}

# apt with lists and state of its own, so that another suite is read without touching this machine's.
own_apt() {
	local tool=$1
	shift
	"$tool" -q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State="$work/apt" -o Dir::State::Status=/dev/null -o Dir::Cache="$work/apt/cache" \
		-o APT::Architecture="$ARCH" -o APT::Architectures="$ARCH" -o APT::Sandbox::User=root "$@"
}

make_guest() {
	local image kernel file dir=$work/tree packages=(busybox-static)
	[ "$ARCH" != amd64 ] || packages+=("${NET_PACKAGES[@]}" "${AGENT_PACKAGES[@]}")
	mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial"
	own_apt apt-get update
	# The package without a version only depends on the newest one.
	image=$(own_apt apt-cache depends "linux-image-$FLAVOUR" | sed -n 's/^ *Depends: *\(linux-image-[^ ]*\)$/\1/p' | head -n 1)
	(cd "$work" && own_apt apt-get download "$image" "${packages[@]}")
	mkdir "$work/root"
	for file in "$work"/*.deb; do dpkg-deb -x "$file" "$work/root"; done
	kernel=$(basename "$work"/root/boot/vmlinuz-*)
	kernel=${kernel#vmlinuz-}
	cp "$work/root/boot/vmlinuz-$kernel" "$work/vmlinuz"

	mkdir -p "$dir/bin" "$dir/etc" "$dir/lib/modules/$kernel"
	install -m 755 "$work/root/usr/bin/busybox" "$dir/bin/busybox"
	install -m 755 "$SRC/init" "$dir/init"
	install -m 755 "$SRC/udhcpc.script" "$dir/udhcpc.script"
	install -m 755 "$SRC/vmtest-net" "$dir/bin/vmtest-net"
	modules "$kernel" "$dir"
	archive "$dir" >"$work/initrd"
	[ "$ARCH" = amd64 ] || return 0
	net_tools "$work/net.d"
	# The kernel unpacks archives that follow each other, as long as each begins at a multiple of four.
	archive "$work/net.d" | padded "$work/initrd" >"$work/initrd-net"
	agent_tools "$work/agent.d"
	archive "$work/agent.d" | padded "$work/initrd" >"$work/initrd-agent"
}

archive() { (cd "$1" && find . | LC_ALL=C sort | cpio -o -H newc --quiet -R 0:0 | zstd -q -9); }

# FILE, zeros up to a multiple of four, and standard input.
padded() {
	local rest=$(($(stat -c %s "$1") % 4))
	cat "$1"
	[ "$rest" = 0 ] || head -c "$((4 - rest))" /dev/zero
	cat
}

# dhcpcd and dhclient with Debian's hooks for names, name servers and routes, iperf3, the libraries of both, and what we wrote ourselves.
# libgcc_s is none that iperf3 is linked with: the C library loads it when a thread is first cancelled, which iperf3 does to its own.
net_tools() {
	local dir=$1 lib=lib/x86_64-linux-gnu
	mkdir -p "$dir/bin" "$dir/etc" "$dir/$lib" "$dir/lib64" "$dir/usr/lib/dhcpcd/dhcpcd-hooks" "$dir/var/lib/dhcpcd"
	cp "$work/root/usr/sbin/dhcpcd" "$work/root/usr/bin/iperf3" "$dir/bin/"
	cp "$work/root/etc/dhcpcd.conf" "$dir/etc/"
	cp "$work/root/usr/lib/dhcpcd/dhcpcd-run-hooks" "$dir/usr/lib/dhcpcd/"
	cp "$work"/root/usr/lib/dhcpcd/dhcpcd-hooks/*-{resolv.conf,hostname} "$dir/usr/lib/dhcpcd/dhcpcd-hooks/"
	mkdir -p "$dir/usr/sbin" "$dir/var/lib/dhcp"
	cp "$work/root/usr/sbin/dhclient" "$work/root/usr/bin/run-parts" "$dir/bin/"
	# busybox takes its own run-parts before any in the path, and that does not know --list
	sed 's,run-parts,/bin/run-parts,' "$work/root/usr/sbin/dhclient-script" >"$dir/usr/sbin/dhclient-script"
	chmod 755 "$dir/usr/sbin/dhclient-script"
	cp -r "$work/root/etc/dhcp" "$dir/etc/"
	: >"$dir/etc/fstab" # it wants to see whether the root is on the network
	install -m 755 "$SRC/vmtest-ask" "$dir/bin/vmtest-ask"
	cp -L "$work/root/usr/$lib"/{libc.so.6,libm.so.6,libcrypto.so.3,libz.so.1,libzstd.so.1,libiperf.so.0,libsctp.so.1,libgcc_s.so.1} "$dir/$lib/"
	cp -L "$work/root/usr/$lib/ld-linux-x86-64.so.2" "$dir/lib64/"
	CGO_ENABLED=0 GOOS=linux GOARCH=amd64 go -C "$REPO" build -trimpath -ldflags '-s -w' -o "$dir/bin/" ./test/tinyguest/netd ./test/tinyguest/fill
}

# The guest agent with its libraries, and the two programs that it runs by name.
agent_tools() {
	local dir=$1 lib=lib/x86_64-linux-gnu
	mkdir -p "$dir/bin" "$dir/sbin" "$dir/$lib" "$dir/lib64"
	cp "$work/root/usr/sbin/qemu-ga" "$dir/bin/"
	cp -L "$work/root/usr/$lib"/{libc.so.6,libm.so.6,libglib-2.0.so.0,libgmodule-2.0.so.0,libatomic.so.1,libpcre2-8.so.0,libnuma.so.1,libudev.so.1,libcap.so.2,liburing.so.2} "$dir/$lib/"
	cp -L "$work/root/usr/$lib/ld-linux-x86-64.so.2" "$dir/lib64/"
	install -m 755 "$SRC/shutdown" "$dir/sbin/shutdown"
	ln -s /bin/busybox "$dir/sbin/hwclock"
}

# The modules and what they need, uncompressed: busybox cannot read Debian's compressed ones.
modules() {
	local kernel=$1 dir=$2 m base
	# kmod looks in lib/, the package has them in usr/lib/.
	[ -e "$work/root/lib" ] || ln -s usr/lib "$work/root/lib"
	base=$work/root/lib/modules/$kernel
	depmod -b "$work/root" "$kernel"
	for m in "${MODULES[@]}"; do
		modprobe -d "$work/root" --set-version "$kernel" --show-depends --ignore-install "$m" 2>/dev/null |
			sed -n 's/^insmod \([^ ]*\).*/\1/p' || true
	done | sort -u | while read -r file; do
		xz -dc "$file" >"$dir/lib/modules/$kernel/$(basename "$file" .xz)"
	done
	cp "$base/modules.builtin" "$base/modules.builtin.modinfo" "$base/modules.order" "$dir/lib/modules/$kernel/"
	depmod -b "$dir" "$kernel"
}

main "$@"
