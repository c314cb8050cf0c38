package network

import (
	"net"
	"net/netip"
	"slices"
)

// Pod is the network namespace that the container shares with its pod, as [Inspect] found it.
type Pod struct {
	Links     []Link // all but lo and what vmentry itself made, in the kernel's order
	Resolver  Resolver
	IPv6      bool   // interfaces that are made here speak IPv6; those that are there may, even if not
	Forwards6 bool   // the kernel forwards IPv6 (net.ipv6.conf.all.forwarding)
	Remains   bool   // an earlier start has left links or rules behind
	Node      string // by what it is known to be the network of a node, and not of a pod; empty: it is not known to be

	Tun      string // why /dev/net/tun cannot be used; empty: it can
	NetAdmin bool   // CAP_NET_ADMIN
	Vhost    bool   // /dev/vhost-net can be used
}

// Link is an interface of the pod.
type Link struct {
	Name      string
	Kind      string // the kernel's: "veth", "macvlan", "ipvlan", …
	MAC       net.HardwareAddr
	MTU       int // bytes
	Up        bool
	Bridge    string // of vmentry, that an earlier start made it a port of; empty: none
	Master    string // the bridge or the like of somebody else's that it belongs to; empty: none
	Addresses []Address
	Routes    []Route // of the main table, through this link
	Gateways  []Gateway
}

// Address is an address of a link.
type Address struct {
	netip.Prefix
	LinkLocal bool // IPv6's fe80::/10, which belongs to the MAC and not to the pod
	Unusable  bool // IPv6: another host on the link has it (dadfailed), or it is not certain yet that none has (tentative)
	Temporary bool // IPv6: the kernel made it for a while, for connections to the outside, and nobody knows it (RFC 8981)
	Expires   bool // it has a lifetime: somebody renews it for as long as the pod itself has it
	Peer      bool // the prefix is that of the other end of a point-to-point link
}

// Route is a route of the main table.
type Route struct {
	Dst        netip.Prefix // 0.0.0.0/0 and ::/0 are the default routes
	Via        netip.Addr   // the zero value: on the link
	Metric     int          // smaller is better
	MTU        int          // bytes; 0: the link's
	Advertised bool         // learned from a router advertisement, and runs out without the next one
}

// Default says whether it is a default route.
func (r Route) Default() bool { return r.Dst.Bits() == 0 }

// Gateway is the hardware address of a router, as far as the pod knows it.
type Gateway struct {
	IP  netip.Addr
	MAC net.HardwareAddr
}

// Resolver is /etc/resolv.conf.
type Resolver struct {
	Servers []netip.Addr
	Search  []string
}

// on are the servers of a family that a guest on the link may ask, as addresses of its own. One at a link-local address of IPv6 means
// something on one link alone, by the pod's name for it (RFC 4007, section 11).
func (r Resolver) on(l Link, is4 bool) []netip.Addr {
	var all []netip.Addr
	for _, s := range r.Servers {
		if s.Is4() == is4 && (s.Zone() == "" || s.Zone() == l.Name) {
			all = append(all, s.WithZone(""))
		}
	}
	return all
}

// keeps are the networks of a family that the pod reaches through interfaces that are not the guest's.
func (p Pod) keeps(guests []Link, is4 bool) []netip.Prefix {
	var all []netip.Prefix
	for _, l := range p.Links {
		if slices.ContainsFunc(guests, func(g Link) bool { return g.Name == l.Name }) {
			continue
		}
		for _, r := range l.Routes {
			if r.Dst.Addr().Is4() == is4 && !r.Default() {
				all = append(all, r.Dst)
			}
		}
	}
	return all
}

// Joined says whether an earlier start has left anything of its network behind.
func (p Pod) Joined() bool {
	return p.Remains || slices.ContainsFunc(p.Links, func(l Link) bool { return l.Bridge != "" })
}

// link is the link of that name, nil if there is none.
func (p Pod) link(name string) *Link {
	i := slices.IndexFunc(p.Links, func(l Link) bool { return l.Name == name })
	if i < 0 {
		return nil
	}
	return &p.Links[i]
}

// free is an address for the i-th bridge, link-local (RFC 3927), that the pod does not use; where a route to all of them says that it may
// use every one, an address that it is not seen to use.
func (p Pod) free(i int) netip.Addr {
	var a netip.Addr
	for _, taken := range []func(netip.Addr) bool{p.uses, p.names} {
		for third := byte(75); third < 255; third++ { // not up to 255: RFC 3927, section 2.1
			if a = netip.AddrFrom4([4]byte{169, 254, third, byte(1 + i)}); !taken(a) {
				return a
			}
		}
	}
	return a
}

// uses says whether an address is, or is routed to, anywhere near: a default route does not count.
func (p Pod) uses(a netip.Addr) bool {
	for _, l := range p.Links {
		for _, have := range l.Addresses {
			if !have.Peer && have.Contains(a) {
				return true
			}
		}
		for _, r := range l.Routes {
			if !r.Default() && r.Dst.Contains(a) {
				return true
			}
		}
	}
	return p.names(a)
}

// names says whether an address itself is one of the pod's, of a router or of a DNS server.
func (p Pod) names(a netip.Addr) bool {
	for _, l := range p.Links {
		if slices.ContainsFunc(l.Addresses, func(have Address) bool { return have.Addr() == a }) ||
			slices.ContainsFunc(l.Routes, func(r Route) bool { return r.Via == a || r.Dst == host(a) }) {
			return true
		}
	}
	return slices.Contains(p.Resolver.Servers, a)
}

// has says whether an address is the pod's own.
func (p Pod) has(a netip.Addr) bool {
	return slices.ContainsFunc(p.Links, func(l Link) bool {
		return slices.ContainsFunc(l.Addresses, func(have Address) bool { return have.Addr() == a })
	})
}

// mac is the hardware address of a gateway of the link, nil if the pod does not know it.
func (l Link) mac(gateway netip.Addr) net.HardwareAddr {
	for _, g := range l.Gateways {
		if g.IP == gateway {
			return g.MAC
		}
	}
	return nil
}

// addresses are the link's own ones of a family, without what the guest makes itself, cannot use, or has no use for.
func (l Link) addresses(is4 bool) []Address {
	return slices.DeleteFunc(slices.Clone(l.Addresses), func(a Address) bool {
		return a.Addr().Is4() != is4 || a.LinkLocal || a.Unusable || a.Temporary
	})
}

// defaultRoute is the best default route of a family, nil if there is none.
func (l Link) defaultRoute(is4 bool) *Route {
	var best *Route
	for i, r := range l.Routes {
		if r.Default() && r.Dst.Addr().Is4() == is4 && (best == nil || r.Metric < best.Metric) {
			best = &l.Routes[i]
		}
	}
	return best
}

// reaches says whether a network is on the link: there is a route to it without a router.
func (l Link) reaches(network netip.Prefix) bool {
	return slices.ContainsFunc(l.Routes, func(r Route) bool { return r.Dst == network && !r.Via.IsValid() })
}

// pathMTU is how many bytes a packet out of the link may have.
func (l Link) pathMTU() int {
	mtu := l.MTU
	for _, r := range l.Routes {
		if r.Default() && r.MTU != 0 {
			mtu = min(mtu, r.MTU)
		}
	}
	return mtu
}
