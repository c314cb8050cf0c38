#!/bin/bash
# Makes a disk in a vendor's layout: test/images/disk.sh NAME OUT    (NAME: a folder of images/)
#
# Partition numbers, names, types and file systems are the vendor's for amd64 (as far as is known from outside), sizes are small, and Flatcar's btrfs is left out.
# Two of them boot, with guests of the project in them: cirros
# (the tiny guest, by GRUB on UEFI), and fedora-coreos (the Debian guest, with Ignition; its root file system is ext4, where the vendor's is XFS).
# Environment: TINYGUEST and DEBIAN, folders with those guests; WORDS, the tiny guest's words.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../../images/lib.sh"

# Types of partitions.
BIOS=21686148-6449-6E6F-744E-656564454649
ESP=C12A7328-F81F-11D2-BA4B-00A0C93EC93B
LINUX=0FC63DAF-8483-4772-8E79-3D69D8477DE4
XBOOTLDR=BC13C2FF-59E6-4262-A352-B275FD6F7172
ROOT_X86=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709
FLATCAR_USR=5DFBF5F4-2848-4BAC-AA5E-0D9A20B745A6
FLATCAR_RESERVED=C95DC21A-DF0E-4340-8D7B-26CBFA9A03E0
FLATCAR_RESIZE=3884DD41-8582-4404-B9A8-E9B84F2DF50E

main() {
	[ $# = 2 ] || die 'usage: test/images/disk.sh NAME OUT'
	local out
	out=$(realpath -m "$2")
	work=$(mktemp -d)
	trap 'rm -rf "$work"' EXIT
	cd "$work"
	case $1 in
	flatcar) flatcar ;;
	fedora-coreos) fedora_coreos ;;
	ubuntu) ubuntu ;;
	centos-stream) centos_stream ;;
	alpine) alpine ;;
	cirros) cirros ;;
	*) die "no layout for $1" ;;
	esac
	qemu-img convert -c -O qcow2 -o compression_type=zstd disk.raw disk.qcow2
	case $out in
	*.xz) xz -0 -T0 <disk.qcow2 >"$out" ;;
	*) mv disk.qcow2 "$out" ;;
	esac
}

# table SIZE_MIB: makes disk.raw with the partitions of standard input.
table() {
	truncate -s "$1M" disk.raw
	{
		echo 'label: gpt'
		cat
	} | sfdisk --quiet disk.raw
}

# put NUMBER FILE: a file system to its partition.
put() {
	local start
	start=$(sfdisk --json disk.raw | jq -r --arg node "disk.raw$1" '.partitiontable.partitions[] | select(.node == $node) | .start')
	dd if="$2" of=disk.raw bs=512 seek="$start" conv=notrunc,sparse status=none
}

vfat() {
	truncate -s "$2M" "$1"
	mkfs.vfat -n "$3" "$1" >/dev/null
}

ext() {
	truncate -s "$2M" "$1"
	mke2fs -q -F -t "$4" -L "$3" "$1"
}

xfs() {
	truncate -s "$2M" "$1"
	mkfs.xfs -q -L "$3" "$1"
}

# boot_code: something for a BIOS to run.
boot_code() { printf '\xeb\xfe' | dd of=disk.raw conv=notrunc status=none; }

flatcar() {
	table 110 <<-END
		1: size=16M, type=$ESP, name="EFI-SYSTEM"
		2: size=2M, type=$BIOS, name="BIOS-BOOT"
		3: size=8M, type=$FLATCAR_USR, name="USR-A", uuid=7130C94A-213A-4E5A-8E26-6CCE9662F132
		4: size=8M, type=$FLATCAR_USR, name="USR-B", uuid=E03DD35C-7C2D-4A47-B3FE-27F15780A57C
		6: size=8M, type=$LINUX, name="OEM"
		7: size=8M, type=$FLATCAR_RESERVED, name="OEM-CONFIG"
		9: size=16M, type=$FLATCAR_RESIZE, name="ROOT"
	END
	vfat efi 16 EFI-SYSTEM
	put 1 efi
	ext oem 8 OEM ext4
	put 6 oem
	ext root 16 ROOT ext4
	put 9 root
	boot_code
}

ubuntu() {
	table 110 <<-END
		14: size=4M, type=$BIOS
		15: size=16M, type=$ESP
		16: size=16M, type=$XBOOTLDR
		1: size=32M, type=$LINUX
	END
	vfat efi 16 UEFI
	put 15 efi
	ext boot 16 BOOT ext4
	put 16 boot
	ext root 32 cloudimg-rootfs ext4
	put 1 root
	boot_code
}

centos_stream() {
	table 700 <<-END
		1: size=1M, type=$BIOS
		2: size=16M, type=$ESP
		3: size=310M, type=$XBOOTLDR
		4: size=310M, type=$ROOT_X86
	END
	vfat efi 16 EFI
	put 2 efi
	xfs boot 310 boot
	put 3 boot
	xfs root 310 root
	put 4 root
	boot_code
}

alpine() {
	table 70 <<-END
		1: size=16M, type=$ESP
		2: size=32M, type=$LINUX
	END
	vfat efi 16 EFI
	put 1 efi
	ext root 32 / ext4
	put 2 root
}

cirros() {
	table 72 <<-END
		15: start=2048, size=8M, type=$ESP
		1: size=60M, type=$LINUX
	END
	mkdir -p root/boot
	cp "$TINYGUEST/vmlinuz" "$TINYGUEST/initrd" root/boot/
	truncate -s 60M part
	mke2fs -q -F -t ext3 -L cirros-rootfs -d root part
	put 1 part
	vfat efi 8 EFI
	grub-mkimage -O x86_64-efi -p /EFI/ubuntu -o BOOTX64.EFI part_gpt fat ext2 search search_label linux normal configfile serial terminal echo
	cat >grub.cfg <<-END
		search --no-floppy --label --set=root cirros-rootfs
		linux /boot/vmlinuz console=ttyS0 quiet no_timer_check $WORDS
		initrd /boot/initrd
		boot
	END
	mmd -i efi ::/EFI ::/EFI/BOOT ::/EFI/ubuntu
	mcopy -i efi BOOTX64.EFI ::/EFI/BOOT/BOOTX64.EFI
	mcopy -i efi grub.cfg ::/EFI/ubuntu/grub.cfg
	put 15 efi
}

# The Debian guest's disk has three partitions; a fourth comes before the last, which grows at the first boot.
fedora_coreos() {
	local start size mib=2048
	qemu-img convert -O raw "$DEBIAN/disk.qcow2" debian.raw
	read -r start size < <(sfdisk --json debian.raw | jq -r '.partitiontable.partitions[2] | "\(.start) \(.size)"')
	table $(((start + size) / mib + 18)) <<-END
		1: start=$mib, size=$mib, type=$BIOS, name="BIOS-BOOT"
		2: start=$((2 * mib)), size=$((start - 2 * mib)), type=$ESP, name="EFI-SYSTEM"
		3: start=$start, size=$((16 * mib)), type=$LINUX, name="boot"
		4: start=$((start + 16 * mib)), size=$size, type=$ROOT_X86, name="root"
	END
	dd if=debian.raw of=disk.raw bs=440 count=1 conv=notrunc status=none
	dd if=debian.raw of=disk.raw bs=1M skip=1 seek=1 count=$((start / mib - 1)) conv=notrunc,sparse status=none
	ext boot 16 boot ext4
	put 3 boot
	dd if=debian.raw of=disk.raw bs=1M skip=$((start / mib)) seek=$((start / mib + 16)) count=$((size / mib)) conv=notrunc,sparse status=none
}

main "$@"
