package network

import (
	"encoding/binary"
	"net/netip"
	"slices"
)

// Reach is how the pod itself reaches the guest: from addresses of its own on the bridge, which the guest takes for its peer's.
type Reach struct {
	V4    netip.Addr   // link-local in bridge mode (RFC 3927); no other host ever sees it
	V6    netip.Addr   // the zero value where the pod, or the guest, has no IPv6
	Guest []netip.Addr // the guest's
}

// own is the pod's address that speaks to one of the guest's.
func (r Reach) own(guest netip.Addr) netip.Addr {
	if guest.Is4() {
		return r.V4
	}
	return r.V6
}

// Forwarder is where vmentry forwards the guest's DNS: at an address of the pod's on the bridge, to servers that only the pod reaches.
type Forwarder struct {
	At      netip.Addr
	Servers []netip.Addr
}

// Outward is how the pod's own connections of one family go out while its address is the guest's.
type Outward struct {
	From    netip.Addr     // the pod's address on the bridge, from which it makes them
	As      netip.Addr     // the guest's, with which they leave
	Gateway Gateway        // of IPv6 by its link-local address
	Kept    []netip.Prefix `json:",omitempty"` // where they do not go: networks of interfaces that are not the guest's
}

// reach chooses the pod's own addresses on the i-th bridge.
func reach(pod Pod, l Link, i int, lease Lease) Reach {
	r := Reach{V4: pod.free(i)}
	if lease.V6 != nil && pod.IPv6 {
		r.V6 = neutral(LinkLocal(madeMAC("bridge", l.MAC)), lease.V6.Addresses[0])
		r.Guest = append(r.Guest, lease.V6.Addresses...)
	}
	if lease.V4 != nil {
		r.Guest = append(r.Guest, lease.V4.Address.Addr())
	}
	return r
}

// neutral is a with its last 16 bits such that the checksums of TCP, UDP and ICMPv6 do not change when it takes the place of
// other in a header (RFC 6296, section 2.6, has the same for prefixes).
func neutral(a, other netip.Addr) netip.Addr {
	bytes := a.As16()
	binary.BigEndian.PutUint16(bytes[14:], 0)
	left := uint32(onesSum(other.As16())) + uint32(^onesSum(bytes))
	binary.BigEndian.PutUint16(bytes[14:], uint16(left&0xffff+left>>16))
	return netip.AddrFrom16(bytes)
}

// onesSum is the one's complement sum of an address (RFC 1071).
func onesSum(b [16]byte) uint16 {
	sum := uint32(0)
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}

// forwarder lets the guest ask vmentry where the pod's DNS servers listen on the pod's loopback; nil if none does, or the pod has no
// address of the guest's family.
func (r Reach) forwarder(resolver Resolver, lease *Lease) *Forwarder {
	servers := slices.DeleteFunc(slices.Clone(resolver.Servers), func(s netip.Addr) bool { return !s.IsLoopback() })
	if len(servers) == 0 {
		return nil
	}
	if lease.V6 != nil {
		lease.V6.DNS = slices.DeleteFunc(lease.V6.DNS, netip.Addr.IsLoopback)
	}
	switch {
	case lease.V4 != nil:
		lease.V4.DNS = append([]netip.Addr{r.V4}, slices.DeleteFunc(lease.V4.DNS, netip.Addr.IsLoopback)...)
		return &Forwarder{r.V4, servers}
	case r.V6.IsValid():
		lease.V6.DNS = append([]netip.Addr{r.V6}, lease.V6.DNS...)
		return &Forwarder{r.V6, servers}
	}
	return nil
}

// outward plans the pod's own connections through l, for each family whose gateway is known. What the pod reaches by interfaces
// that are not among uplinks stays as it is.
func outward(pod Pod, l Link, r Reach, lease Lease, uplinks []Link) []Outward {
	var all []Outward
	if v4 := lease.V4; v4 != nil {
		if mac := l.mac(v4.Router); mac != nil {
			all = append(all, Outward{From: r.V4, As: v4.Address.Addr(), Gateway: Gateway{v4.Router, mac}, Kept: pod.keeps(uplinks, true)})
		}
	}
	if v6 := lease.V6; v6 != nil && r.V6.IsValid() && v6.Router.IsValid() {
		if mac := l.mac(l.defaultRoute(false).Via); mac != nil {
			kept := append([]netip.Prefix{linkLocal6}, pod.keeps(uplinks, false)...)
			all = append(all, Outward{From: r.V6, As: v6.Addresses[0], Gateway: Gateway{v6.Router, mac}, Kept: kept})
		}
	}
	return all
}
