#!/bin/bash
# Makes the disk of the Debian guest: images/debian/build.sh OUT.qcow2 [MORE]
#
# MORE is a folder of another image on top of this one: packages (their names), add.sh (called with the root file system before it is finished), and size (of
# the root file system, in MiB).
# Everything comes from Debian packages of the mirror that this machine uses. There is no vendor image, no loop device and
# no mount of the disk, so it works in CI's containers too. Needs root, for a root file system with the right owners.
set -euo pipefail
# shellcheck source=images/lib.sh
. "$(dirname "${BASH_SOURCE[0]}")/../lib.sh"

SUITE=trixie
SRC=$REPO/images/debian

PACKAGES=(
	# the system
	linux-image-cloud-amd64 systemd-sysv udev dbus kmod login passwd sudo
	libpam-systemd libnss-myhostname less procps netbase ca-certificates
	# disk: growing at boot (repart; growfs is part of systemd), checking, and what Ignition's disks stage calls
	systemd-repart e2fsprogs dosfstools gdisk
	# network
	systemd-resolved iproute2 openssh-server
	# provisioning, and what makes the initramfs. dhcpcd-base: cloud-init wants some DHCP client, this is the smallest
	ignition dracut cpio zstd xz-utils busybox-static cloud-init dhcpcd-base
	qemu-guest-agent
)

# The builder is a small trixie with the tools that an older Debian has in older versions only: its GRUB must read
# the file system that its mke2fs makes.
builder_packages=(grub-pc-bin grub-efi-amd64-bin grub-common mtools dosfstools fdisk e2fsprogs qemu-utils)

main() {
	[ $# = 1 ] || [ $# = 2 ] || die 'usage: images/debian/build.sh OUT.qcow2 [MORE]'
	need_root "$0"
	local out sources key more=${2:-} size=2000 add=true
	out=$(realpath -m "$1")
	if [ -n "$more" ]; then
		mapfile -t -O ${#PACKAGES[@]} PACKAGES <"$more/packages"
		size=$(cat "$more/size")
		add="'$(realpath "$more")/add.sh'"
	fi
	need_packages mmdebstrap debian-archive-keyring
	mkdir -p "$CACHE" "$(dirname "$out")"
	sources=$CACHE/debian.list
	debian_sources "$SUITE" >"$sources"

	key=$(SALT="${builder_packages[*]}" inputs_hash images/lib.sh)
	builder=$CACHE/builder-$key
	if ! cached "$builder"; then
		remove_tree "$builder" "$builder.new"
		step builder '3 minutes' 'making a small Debian with the tools for disks' bootstrap "$builder.new" "${builder_packages[@]}"
		mv "$builder.new" "$builder"
		keep_newest "$builder" "$CACHE"/builder-*
	fi

	# The work folder is inside the builder, so that a chroot sees it without a mount.
	work=$builder/build
	remove_tree "$work"
	mkdir "$work"
	step debian-root '6 minutes' "installing the guest's Debian and making its initramfs" guest_root
	install -m 755 "$SRC/disk.sh" "$work/disk.sh"
	step debian-disk '4 minutes' 'making the disk: partitions, boot loader, file systems, compression' \
		chroot "$builder" /build/disk.sh "$(cat /proc/sys/kernel/random/uuid)" "$size"
	mv "$work/disk.qcow2" "$out"
	remove_tree "$work"
	say "$out: $(($(stat -c %s "$out") / 1000000)) MB"
}

bootstrap() {
	local dir=$1 IFS=,
	shift
	mmdebstrap --variant=minbase --format=directory --aptopt='APT::Install-Recommends "false"' \
		--include="$*" "$SUITE" "$dir" "$sources"
}

guest_root() {
	local exclude=() d IFS=,
	# As Debian's own slim images do; packages that are installed later follow it too.
	for d in man doc info locale lintian bug; do
		exclude+=(--dpkgopt="path-exclude=/usr/share/$d/*")
	done
	exclude+=(--dpkgopt='path-include=/usr/share/doc/*/copyright' --dpkgopt='path-include=/usr/share/locale/locale.alias')
	# shellcheck disable=SC2016 # mmdebstrap's own shell expands $1 in the hooks
	# INITRD=No: the kernel's hook would make an initramfs before its configuration is there, only to be made again.
	INITRD=No mmdebstrap --variant=minbase --format=directory --aptopt='APT::Install-Recommends "false"' \
		"${exclude[@]}" --include="${PACKAGES[*]}" \
		--customize-hook="cp -r --no-preserve=ownership '$SRC/root/.' \"\$1/\"" \
		--customize-hook="$add \"\$1\"" \
		--customize-hook="install -m 755 '$SRC/setup.sh' \"\$1/setup.sh\"" \
		--customize-hook='chroot "$1" /setup.sh' \
		--customize-hook='rm "$1/setup.sh"' \
		"$SUITE" "$work/root" "$sources"
}

main "$@"
