package network

// userPlan is QEMU's user-mode network: QEMU itself answers the guest's DHCP and forwards the ports. It needs nothing
// of the pod, so there is nothing to apply.
func userPlan(in Input) Plan {
	qemu, relayed := relays(in)
	p := Plan{Mode: User, Relays: relayed, NICs: []NIC{{
		Model:    in.NICModel,
		MAC:      in.mac(),
		HostName: in.HostName,
		IPv4Only: !in.Pod.hasIPv6(),
		Forwards: qemu,
	}}}
	if in.Unsupervised {
		p.warn("the guest can reach what listens on the pod's loopback, and link-local addresses: with VM_SUPERVISE=false nobody says where QEMU connects to")
	}
	if in.Unsupervised && len(relayed) > 0 {
		p.Relays = nil
		p.warn("the ports of HOSTFWD can be reached by IPv4 alone: with VM_SUPERVISE=false nobody relays IPv6")
	}
	return p
}
