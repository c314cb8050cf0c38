#!/bin/bash
# Runs in the builder: disk.sh UUID MIB makes /build/disk.qcow2 of /build/root, whose file system gets that UUID and size. The parts of the disk are made as files and copied to their places.
set -euo pipefail
cd /build

mib=2048 # sectors of 512 bytes
bios_start=$mib bios_size=$mib
esp_start=$((2 * mib)) esp_size=$((16 * mib))
root_start=$((esp_start + esp_size)) root_size=$(($2 * mib))
# One MiB for the second partition table at the end.
disk_size=$((root_start + root_size + mib))
root_uuid=$1

partitions() {
	truncate -s $((disk_size * 512)) disk.raw
	# The last type is "root, x86-64" of the Discoverable Partitions Specification: systemd-repart knows it by that.
	sfdisk --quiet disk.raw <<-END
		label: gpt
		start=$bios_start, size=$bios_size, type=21686148-6449-6E6F-744E-656564454649, name="bios-boot"
		start=$esp_start, size=$esp_size, type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B, name="EFI-SYSTEM"
		start=$root_start, size=$root_size, type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709, name="root"
	END
}

# put FILE SECTOR
put() { dd if="$1" of=disk.raw bs=512 seek="$2" conv=notrunc,sparse status=none; }

# poke FILE OFFSET NUMBER: a 64-bit little-endian number
poke() {
	local i
	for ((i = 0; i < 64; i += 8)); do
		printf '%b' "\\x$(printf %02x $(($3 >> i & 255)))"
	done | dd of="$1" bs=1 seek=$(($2)) conv=notrunc status=none
}

grub() {
	local modules=(part_gpt fat ext2 search search_fs_uuid test linux echo normal configfile boot minicmd sleep reboot halt ls cat serial terminal)
	# No search for the partition with grub.cfg: both firmwares tell GRUB which disk it came from, so a second disk
	# that is a copy of this one cannot be mistaken for it.
	grub-mkimage -O i386-pc -p '(,gpt2)/grub' -o core.img "${modules[@]}" biosdisk
	grub-mkimage -O x86_64-efi -p /grub -o BOOTX64.EFI "${modules[@]}"

	# What grub-bios-setup would do, which wants a block device: boot.img loads the sector that stands at 0x5c of it
	# (GRUB_BOOT_MACHINE_KERNEL_SECTOR), and the first sector of core.img loads the rest from the sector that stands
	# in its last block list entry, 12 bytes before its end.
	cp /usr/lib/grub/i386-pc/boot.img boot.img
	poke boot.img 0x5c $bios_start
	poke core.img $((512 - 12)) $((bios_start + 1))
	[ "$(stat -c %s core.img)" -le $((bios_size * 512)) ]
	# 440: after that the partition table of the MBR begins.
	dd if=boot.img of=disk.raw bs=440 count=1 conv=notrunc status=none
	put core.img $bios_start
}

grub_cfg() {
	cat <<-END
		# GRUB's configuration in this image. Kernel upgrades need no change here: Debian keeps /vmlinuz and /initrd.img.
		# To add words to the kernel's command line, write  set extra="..."  to /boot/grub/custom.cfg.
		set esp=\$root
		serial --unit=0 --speed=115200
		terminal_input console serial
		terminal_output console serial
		search --no-floppy --fs-uuid --set=root --hint=hd0,gpt3 $root_uuid

		set extra=""
		set timeout=0
		if [ -f /boot/grub/custom.cfg ]; then source /boot/grub/custom.cfg; fi

		# lsm: Debian's list without bpf. With it, systemd loads a BPF program at every boot: 1.7 s without KVM.
		set args="root=UUID=$root_uuid ro console=tty0 console=ttyS0,115200n8 quiet panic=10 systemd.show_status=yes lsm=landlock,lockdown,yama,integrity,apparmor ignition.platform.id=qemu \$extra"
		if [ -f (\$esp)/ignition.firstboot ]; then
		  # The file system is as it was made: nothing to check yet.
		  linux /vmlinuz \$args ignition.firstboot=1 fsck.mode=skip
		  initrd /initrd.img /quick.img
		elif [ -f /quick.img ]; then
		  linux /vmlinuz \$args
		  initrd /quick.img
		else
		  linux /vmlinuz \$args
		  initrd /initrd.img
		fi
		boot
	END
}

esp() {
	truncate -s $((esp_size * 512)) esp.img
	mkfs.vfat -n EFI-SYSTEM esp.img
	mmd -i esp.img ::/EFI ::/EFI/BOOT ::/grub
	mcopy -i esp.img BOOTX64.EFI ::/EFI/BOOT/BOOTX64.EFI
	grub_cfg >grub.cfg
	mcopy -i esp.img grub.cfg ::/grub/grub.cfg
	echo 'GRUB asks for a first boot as long as this file is here.' >ignition.firstboot
	mcopy -i esp.img ignition.firstboot ::/ignition.firstboot
	put esp.img $esp_start
}

root() {
	# The word, not an empty file, makes systemd's first boot (machine-id(5)).
	echo uninitialized >root/etc/machine-id
	# growfs: systemd-growfs-root.service, after systemd-repart has made the partition larger
	echo "UUID=$root_uuid / ext4 errors=remount-ro,x-systemd.growfs 0 1" >root/etc/fstab
	# Nothing in /etc and /var is older than /usr: no ldconfig, sysusers, hwdb or catalog run at first boot.
	touch -r root/usr root/etc/.updated root/var/.updated
	# Straight into its place on the disk. The two features are the ones that GRUB does not read.
	mke2fs -q -F -t ext4 -L root -U "$root_uuid" -m 1 -O '^metadata_csum_seed,^orphan_file' \
		-E "offset=$((root_start * 512)),root_owner=0:0,nodiscard" -d root disk.raw $((root_size / 2))k
}

partitions
grub
esp
root
qemu-img convert -c -O qcow2 -o compression_type=zstd disk.raw disk.qcow2
