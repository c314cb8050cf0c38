#!/bin/bash
# Makes a CD that boots under Secure Boot: test/signedcd/build.sh OUTDIR → OUTDIR/cd.iso
#
# What is on it is Debian's and signed: shim, GRUB, and the kernel of the tiny guest, which takes commands on the console. ARCH=arm64 makes that of
# the other architecture. No root is needed.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../images/lib.sh"

SUITE=trixie
ARCH=${ARCH:-amd64}

main() {
	[ $# = 1 ] || die 'usage: test/signedcd/build.sh OUTDIR'
	local out guest
	guest=$(FLAVOUR=$ARCH "$REPO/test/tinyguest/cached.sh")
	need_packages xorriso mtools dosfstools
	mkdir -p "$1"
	out=$(realpath "$1")
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	debian_sources "$SUITE" >"$work/sources.list"
	step "signedcd-$ARCH" '1 minute' "making a signed CD for tests ($ARCH) from Debian's packages" make_cd "$guest" "$out/cd.iso"
}

# apt with lists and state of its own, so that another suite is read without touching this machine's.
own_apt() {
	local tool=$1
	shift
	"$tool" -q -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null \
		-o Dir::State="$work/apt" -o Dir::State::Status=/dev/null -o Dir::Cache="$work/apt/cache" \
		-o APT::Architecture="$ARCH" -o APT::Architectures="$ARCH" -o APT::Sandbox::User=root "$@"
}

make_cd() {
	local guest=$1 iso=$2 file short cd=$work/cd console=ttyS0
	case $ARCH in
	amd64) short=x64 ;;
	arm64) short=aa64 console=ttyAMA0 ;;
	esac
	mkdir -p "$work/apt/lists/partial" "$work/apt/cache/archives/partial" "$work/root" "$cd/boot/grub" "$cd/.disk"
	own_apt apt-get update
	(cd "$work" && own_apt apt-get download shim-signed "grub-efi-$ARCH-signed")
	for file in "$work"/*.deb; do dpkg-deb -x "$file" "$work/root"; done

	# What the firmware sees: a FAT file system. shim looks for GRUB by that name, and in its own directory.
	truncate -s 8M "$work/esp.img"
	PATH=$PATH:/sbin:/usr/sbin mkfs.vfat "$work/esp.img"
	mmd -i "$work/esp.img" ::/EFI ::/EFI/BOOT
	mcopy -i "$work/esp.img" "$work/root/usr/lib/shim/shim$short.efi.signed" "::/EFI/BOOT/BOOT${short^^}.EFI"
	# The GRUB for CDs, which finds its configuration by the file .disk/info.
	mcopy -i "$work/esp.img" "$work"/root/usr/lib/grub/*-efi-signed/"gcd$short.efi.signed" "::/EFI/BOOT/grub$short.efi"

	cp "$work/esp.img" "$cd/boot/esp.img"
	cp "$guest/vmlinuz" "$guest/initrd" "$cd/"
	echo 'a CD for tests' >"$cd/.disk/info"
	cat >"$cd/boot/grub/grub.cfg" <<-END
		linux /vmlinuz console=$console quiet no_timer_check panic=0 vmtest.commands
		initrd /initrd
		boot
	END
	xorriso -as mkisofs -quiet -r -J -V SIGNED -e boot/esp.img -no-emul-boot -o "$iso" "$cd"
}

main "$@"
