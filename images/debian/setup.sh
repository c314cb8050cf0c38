#!/bin/bash
# Runs in the guest's root file system once its packages and our files (root/) are there.
set -euo pipefail
export DEBIAN_FRONTEND=noninteractive

# --- who you are when you log in
# Ignition's "core" of Fedora CoreOS, and cloud-init's default user (cloud.cfg.d/90-image.cfg): the same one, so that a
# key finds the same account whichever way it came. "*": no password, but not locked for sshd.
useradd --create-home --shell /bin/bash --groups sudo,adm,systemd-journal --password '*' core
# useradd without --shell means /bin/sh in Debian: users that Ignition makes would get dash.
sed -i 's,^#* *SHELL=.*,SHELL=/bin/bash,' /etc/default/useradd
chmod 440 /etc/sudoers.d/*
passwd --quiet --lock root

# --- what differs from one guest to the next is made at its first boot
rm -f /etc/ssh/ssh_host_* /etc/hostname /var/lib/dbus/machine-id
# mmdebstrap leaves one apt list with a strange name.
cat /etc/apt/sources.list.d/*.list >/etc/apt/sources.list
rm /etc/apt/sources.list.d/*.list

# --- services
systemctl enable systemd-networkd.service systemd-resolved.service ssh.service sshd-keygen.service ignition-firstboot-complete.service
# Nobody waits for the network unless a unit says so (network-online.target pulls it in by itself).
# Background jobs of long-lived servers: they would run minutes after the boot of a machine that may live for minutes.
systemctl disable \
	apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer \
	e2scrub_all.timer e2scrub_reap.service \
	systemd-networkd-wait-online.service systemd-network-generator.service systemd-pstore.service remote-fs.target
# The initramfs is not kept for the shutdown, and this kernel has no graphics driver to load (logind asks for it).
systemctl mask dracut-shutdown.service modprobe@drm.service
# There is no persistent network storage, LVM, TPM or hibernation to look for here; each such generator costs a start-up.
# These four run a program per boot for nothing; the units that they could make can still be written by hand.
mkdir -p /etc/systemd/system-generators
for g in systemd-gpt-auto-generator systemd-hibernate-resume-generator systemd-tpm2-generator systemd-ssh-generator; do
	ln -s /dev/null "/etc/systemd/system-generators/$g"
done

# Ignition enables units by a preset file, which systemd applies at first boot: then *everything* that a preset does not
# disable is enabled. So what is disabled now is written down. 30: after Ignition's own (20), before Debian's (90).
# Packages that are installed later are not in it, and are enabled as in any Debian.
# (Measured: a preset of "disable *" would be shorter, and leaves services of later "apt-get install" disabled.)
{
	echo '# Made when the image was built: what is disabled in it stays disabled when the first boot applies presets.'
	systemctl list-unit-files --state=disabled --no-legend | awk '{ print "disable " $1 }'
} >/usr/lib/systemd/system-preset/30-image.preset
# "uninitialized" is what makes a first boot; an empty file does not (machine-id(5)). mmdebstrap empties it at its end, so
# disk.sh writes it.

# --- kernel and initramfs
# For custom.cfg, which GRUB's configuration reads (disk.sh). GRUB itself is not installed in the guest.
mkdir -p /boot/grub
kernel=$(basename /lib/modules/*)
# Extra links for a previous kernel that does not exist.
rm -f /vmlinuz.old /initrd.img.old
ln -sf "boot/initrd.img-$kernel" /initrd.img
dracut --quiet --force "/boot/initrd.img-$kernel" "$kernel"
/etc/kernel/postinst.d/zz-quickboot "$kernel"

# --- leave nothing of the building behind
apt-get clean
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/*-old /var/log/apt /var/log/*.log /var/lib/systemd/catalog/database.tmp
