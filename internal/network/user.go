package network

// userPlan is QEMU's user-mode network: QEMU itself answers the guest's DHCP and forwards the ports. It needs nothing
// of the pod, so there is nothing to inspect and nothing to apply.
func userPlan(in Input) Plan {
	mac := in.MAC
	if mac == nil {
		mac = MAC(in.Identity)
	}
	return Plan{Mode: User, NICs: []NIC{{
		Model:    in.NICModel,
		MAC:      mac,
		HostName: in.HostName,
		Forwards: in.Forwards,
	}}}
}
