package boot

// exitPort knows whether the guest has opened its exit port, from what QEMU says of the port. UEFI opens every
// virtio-serial port while it looks for a console, and lets go of them when the guest's own driver begins (edk2's
// VirtioSerialDxe; older ones leave them alone). So there, what is opened first after a reset is the guest's only if it
// stays open.
type exitPort struct {
	uefi   bool
	opened bool // since the last reset
	doubt  bool // what is open may be the firmware's
	job    bool // the guest has opened it, once and for all
}

func (p *exitPort) reset() { p.opened, p.doubt = false, false }

// change takes that the port was opened or closed, and says whether the guest is known to be a job since then.
func (p *exitPort) change(open bool) (news bool) {
	was := p.job
	p.doubt = open && p.uefi && !p.opened
	p.job = p.job || open && !p.doubt
	p.opened = p.opened || open
	return p.job && !was
}

// isJob says whether the guest has opened its exit port.
func (p *exitPort) isJob() bool { return p.job || p.doubt }
