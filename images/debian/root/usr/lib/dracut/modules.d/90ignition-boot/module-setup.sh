#!/bin/bash
# shellcheck disable=SC2154 # dracut sets moddir, initdir and the like
# dracut module: Debian's "ignition" module, made to run without dracut's hooks and network modules.

check() { return 255; } # only when asked for

# Not "ignition" itself: it would pull in dracut's network scripts, which start long before anyone needs the network.
depends() { echo systemd-initrd; }

install() {
	local here=$moddir moddir=$dracutbasedir/modules.d/30ignition
	# Debian's file redefines install(); this one has been parsed and goes on after it.
	# shellcheck source=/dev/null
	. "$moddir/module-setup.sh"
	install

	# Debian's Ignition relabels files whether there is SELinux or not; /usr/bin/true would not read what is piped to it.
	inst_script "$here/setfiles" /usr/sbin/setfiles
	inst_multiple cat sh sed tr mkdir rm sync systemctl journalctl modprobe busybox dd setsid \
		"$systemdutildir/systemd-networkd" "$systemdutildir/systemd-networkd-wait-online" \
		"$systemdsystemunitdir/systemd-networkd.service" "$systemdsystemunitdir/systemd-networkd.socket" \
		/etc/systemd/network/90-dhcp.network /etc/ssl/certs/ca-certificates.crt
	inst_script "$here/ignition-network" /usr/libexec/ignition-network
	inst_script "$here/ignition-failed" /usr/libexec/ignition-failed
	inst_simple "$here/emergency.service" "$systemdsystemunitdir/emergency.service"
	inst_simple "$here/ignition-network.service" "$systemdsystemunitdir/ignition-network.service"
	mkdir -p "$initdir/$systemdsystemunitdir/ignition-complete.target.requires"
	ln_r "$systemdsystemunitdir/ignition-network.service" \
		"$systemdsystemunitdir/ignition-complete.target.requires/ignition-network.service"
}
