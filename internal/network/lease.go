package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// Lease is what the guest is told of its network: exactly what the pod had.
type Lease struct {
	HostName string
	MTU      int
	Search   []string
	V4       *Lease4 `json:",omitempty"`
	V6       *Lease6 `json:",omitempty"`
}

// Lease4 is the IPv4 part.
type Lease4 struct {
	Address netip.Prefix
	Others  []netip.Prefix // more addresses of the pod's interface, which DHCP cannot say
	Router  netip.Addr     // the zero value: none. May be outside of Address's network
	Routes  []LeaseRoute
	DNS     []netip.Addr
}

// LeaseRoute is a route that is not the default one.
type LeaseRoute struct {
	Dst netip.Prefix
	Via netip.Addr // the zero value: on the link
}

// Lease6 is the IPv6 part.
type Lease6 struct {
	Addresses []netip.Addr
	Router    netip.Addr       // link-local; the zero value: none
	RouterMAC net.HardwareAddr // where the router is known to the pod by this alone: vmentry answers for it
	OnLink    []netip.Prefix
	Routes    []netip.Prefix // through Router, beside the default route
	DNS       []netip.Addr
}

// lease is what the guest is told; not usable when the interface has no address to give.
func (p *Plan) lease(in Input, l Link) (lease Lease, usable bool) {
	lease = Lease{HostName: in.HostName, MTU: l.pathMTU(), Search: in.Pod.Resolver.Search}
	if addresses := l.addresses(true); len(addresses) > 0 {
		lease.V4 = p.lease4(in, l, addresses)
	}
	if addresses := l.addresses(false); len(addresses) > 0 {
		if l.MTU < minimumMTU6 {
			p.warn("%s carries frames of %d bytes, too few for IPv6 (%d): the guest gets no IPv6", l.Name, l.MTU, minimumMTU6)
		} else {
			lease.V6 = p.lease6(in, l, addresses)
			lease.MTU = max(lease.MTU, minimumMTU6) // the route with less is IPv4's
		}
	}
	return lease, lease.V4 != nil || lease.V6 != nil
}

func (p *Plan) lease4(in Input, l Link, addresses []Address) *Lease4 {
	lease := &Lease4{Address: addresses[0].Prefix, DNS: in.Pod.Resolver.on(l, true)}
	if addresses[0].Peer || !l.reaches(lease.Address.Masked()) {
		lease.Address = host(lease.Address.Addr()) // the guest must not take for its neighbours whom the pod reaches by a router
	}
	for _, a := range addresses[1:] {
		lease.Others = append(lease.Others, a.Prefix)
		p.warn("%s has a second address, %s: DHCP carries one (%s). Guests with cloud-init are told both, others need files of their own", l.Name, a.Prefix, lease.Address)
	}
	if r := l.defaultRoute(true); r != nil && in.best(l, *r) {
		switch {
		case r.Via.Is4():
			lease.Router = r.Via
		case !r.Via.IsValid(): // the whole world is on the link
			lease.Routes = append(lease.Routes, LeaseRoute{Dst: r.Dst})
		default:
			p.warn("%s has its default route through an IPv6 router (%s), which DHCP cannot say: the guest gets no IPv4 default route", l.Name, r.Via)
		}
	}
	for _, r := range l.Routes {
		if r.Dst.Addr().Is4() && !r.Default() && (r.Via.Is4() || !r.Via.IsValid()) && !implied(r, lease.Address) {
			lease.Routes = append(lease.Routes, LeaseRoute{r.Dst, r.Via})
		}
	}
	for _, s := range lease.DNS { // a guest may take link-local addresses for its neighbours: the cluster's cache on the node is behind the router
		if s.IsLinkLocalUnicast() && lease.Router.IsValid() {
			lease.Routes = append(lease.Routes, LeaseRoute{netip.PrefixFrom(s, 32), lease.Router})
		}
	}
	return lease
}

// implied says whether the guest has a route as soon as it has the address.
func implied(r Route, address netip.Prefix) bool {
	return !r.Via.IsValid() && r.Dst == address.Masked()
}

// best says whether no other of the pod's interfaces has a better default route of that family, or an equal one before it: a guest
// cannot be told which of two is.
func (in Input) best(l Link, r Route) bool {
	before := true
	for _, other := range in.Pod.Links {
		if other.Name == l.Name {
			before = false
			continue
		}
		o := other.defaultRoute(r.Dst.Addr().Is4())
		if o != nil && (o.Metric < r.Metric || before && o.Metric == r.Metric) {
			return false
		}
	}
	return true
}

// warnDefaultRoute warns where a guest that goes out by uplinks cannot go everywhere.
func (p *Plan) warnDefaultRoute(pod Pod, uplinks []string, is4 bool) {
	family := map[bool]string{true: "IPv4", false: "IPv6"}[is4]
	var best *Route
	out := ""
	for _, l := range pod.Links {
		if r := l.defaultRoute(is4); r != nil && (best == nil || r.Metric < best.Metric) {
			best, out = r, l.Name
		}
	}
	switch {
	case best == nil:
		p.warn("the pod has no default route of %s: the guest goes no further than the pod does", family)
	case !slices.Contains(uplinks, out):
		p.warn("the pod's default route of %s leads out by %s, where the guest may not go: add it to VM_INTERFACES", family, out)
	}
}

func (p *Plan) lease6(in Input, l Link, addresses []Address) *Lease6 {
	lease := &Lease6{DNS: in.Pod.Resolver.on(l, false)}
	for _, a := range addresses {
		lease.Addresses = append(lease.Addresses, a.Addr())
	}
	gateway := netip.Addr{}
	if r := l.defaultRoute(false); r != nil && in.best(l, *r) {
		if lease.Router, lease.RouterMAC = p.router6(l, r.Via); lease.Router.IsValid() {
			gateway = r.Via
		}
	}
	p.routes6(l, gateway, lease)
	return lease
}

// routes6 adds those of the link's routes that are on the link, or lead through its default router.
func (p *Plan) routes6(l Link, gateway netip.Addr, lease *Lease6) {
	for _, r := range l.Routes {
		switch {
		case r.Dst.Addr().Is4() || r.Default():
		case !r.Via.IsValid():
			if !r.Dst.IsSingleIP() { // the gateway or the pod itself: the guest knows both otherwise
				lease.OnLink = append(lease.OnLink, r.Dst)
			}
		case r.Via == gateway:
			lease.Routes = append(lease.Routes, r.Dst)
		default:
			p.warn("the route to %s through %s cannot be given to the guest: router advertisements speak for its default router alone", r.Dst, r.Via)
		}
	}
}

// router6 is the gateway as a guest must see it: router advertisements come from link-local addresses alone (RFC 4861, section 4.2). One
// that the pod knows by another address gets one made from its MAC (RFC 4291, appendix A), for which vmentry then answers.
func (p *Plan) router6(l Link, gateway netip.Addr) (netip.Addr, net.HardwareAddr) {
	if gateway.IsLinkLocalUnicast() {
		return gateway, nil
	}
	if mac := l.mac(gateway); mac != nil {
		return LinkLocal(mac), mac
	}
	if gateway.IsValid() {
		p.warn("the router of %s, %s, does not say its MAC: the guest gets no IPv6 default route", l.Name, gateway)
	} else {
		p.warn("%s has an IPv6 default route without a router, which a router advertisement cannot say: the guest gets none", l.Name)
	}
	return netip.Addr{}, nil
}

// LinkLocal is the link-local IPv6 address that belongs to a MAC.
func LinkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

func (lease Lease) lines() []string {
	line := fmt.Sprintf("the guest hears the host name %s, MTU %d", lease.HostName, lease.MTU)
	if len(lease.Search) > 0 {
		line += ", search domains " + strings.Join(lease.Search, ", ")
	}
	lines := []string{line}
	if v4 := lease.V4; v4 != nil {
		line := "the guest gets " + v4.Address.String()
		if v4.Router.IsValid() {
			line += ", router " + v4.Router.String()
		}
		lines = append(lines, line+list(", DNS ", v4.DNS))
		for _, r := range v4.Routes {
			line := "the guest gets the route " + r.Dst.String()
			if r.Via.IsValid() {
				line += " via " + r.Via.String()
			}
			lines = append(lines, line)
		}
	}
	if v6 := lease.V6; v6 != nil {
		line := "the guest gets" + list(" ", v6.Addresses)
		if v6.Router.IsValid() {
			line += ", router " + v6.Router.String()
		}
		lines = append(lines, line+list(", on the link ", v6.OnLink)+list(", routes ", v6.Routes)+list(", DNS ", v6.DNS))
	}
	return lines
}
