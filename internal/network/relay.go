package network

import "net/netip"

// Relay is a port on IPv6 that vmentry carries to the guest, because QEMU's user network forwards IPv4 alone.
type Relay struct {
	Forward                // with an IPv6 address as HostIP
	Through netip.AddrPort // where QEMU forwards IPv4 to the same port of the guest; the zero value: QEMU gets a forward when it runs
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
		if !f.HostIP.Is6() {
			qemu = append(qemu, f)
		}
	}
	for _, f := range in.Forwards {
		r := Relay{f, qemuForward(qemu, f)}
		if !f.HostIP.IsValid() && in.Pod.hasIPv6() {
			r.HostIP = netip.IPv6Unspecified()
		}
		if r.HostIP.Is6() {
			relayed = append(relayed, r)
		}
	}
	return qemu, relayed
}

// qemuForward finds a forward of QEMU's that leads where f does. A second one would not do: of two for the same UDP port of the
// guest, QEMU sends all answers through one (libslirp finds the socket by the guest's address alone).
func qemuForward(qemu []Forward, f Forward) netip.AddrPort {
	for _, q := range qemu {
		if q.Proto != f.Proto || q.GuestIP != f.GuestIP || q.GuestPort != f.GuestPort {
			continue
		}
		if !q.HostIP.IsValid() || q.HostIP.IsUnspecified() {
			q.HostIP = localhost
		}
		return netip.AddrPortFrom(q.HostIP, q.HostPort)
	}
	return netip.AddrPort{}
}
