package network

import "net/netip"

// Relay is a port on IPv6 that vmentry carries to the guest, because QEMU's user network forwards IPv4 alone.
type Relay struct {
	Forward        // with an IPv6 address as HostIP
	Through uint16 // the port of 127.0.0.1 that QEMU forwards to the same port of the guest; 0: QEMU gets one when it runs
}

func (r Relay) String() string { return r.Forward.String() + ", relayed by vmentry" }

// hasIPv6 says whether the pod can be reached, and can reach others, by IPv6: whether it has an address that is neither loopback
// nor link-local.
func (p Pod) hasIPv6() bool {
	for _, l := range p.Links {
		for _, a := range l.Addresses {
			if a.Addr().Is6() && !a.LinkLocal {
				return true
			}
		}
	}
	return false
}

// relays divides forwards into those that QEMU does and those that vmentry relays. A port on all addresses is both, where
// the pod has IPv6.
func relays(in Input) (qemu []Forward, relayed []Relay) {
	for _, f := range in.Forwards {
		switch {
		case f.HostIP.Is6():
			relayed = append(relayed, Relay{Forward: f})
		case !f.HostIP.IsValid() && in.Pod.hasIPv6():
			r := Relay{Forward: f, Through: f.HostPort}
			r.HostIP = netip.IPv6Unspecified()
			relayed = append(relayed, r)
			fallthrough
		default:
			qemu = append(qemu, f)
		}
	}
	return qemu, relayed
}
