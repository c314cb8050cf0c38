package dhcp

import (
	"cmp"
	"net"
	"net/netip"
	"slices"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// option4 is an option that is sent where there is room for it.
type option4 struct {
	code   dhcpv4.OptionCode
	always bool     // whether the guest has asked for it or not
	values [][]byte // the first one that fits is taken
}

// dhcpv4Options are the options, the most important ones first. The search list, which can take what room is left, is the
// last.
//
// The guest gets the classless routes (RFC 3442) unasked where they say more than the router option: a client that knows them
// but was not told to ask would be without its routes. One that does not know them takes the router option.
func (c Config) dhcpv4Options() []option4 {
	var options []option4
	add := func(code dhcpv4.OptionCode, always bool, values ...[]byte) {
		if len(values) > 0 && len(values[0]) > 0 {
			options = append(options, option4{code, always, values})
		}
	}
	routes, needed := c.V4.classless()
	if c.V4.Router.IsValid() {
		add(dhcpv4.OptionRouter, true, c.V4.Router.AsSlice())
	}
	lists := [][]byte{routes.ToBytes()}
	if few, needed := (V4{Address: c.V4.Address, Router: c.V4.Router}).classless(); needed {
		lists = append(lists, few.ToBytes()) // too many for a client with little room must not cost it the way to its router
	}
	add(dhcpv4.OptionClasslessStaticRoute, needed, lists...)
	add(dhcpv4.OptionDomainNameServer, true, addresses4(c.V4.DNS))
	if c.MTU != 0 {
		add(dhcpv4.OptionInterfaceMTU, false, dhcpv4.Uint16(c.MTU).ToBytes())
	}
	add(dhcpv4.OptionHostName, false, []byte(c.HostName))
	if len(c.Search) > 0 {
		add(dhcpv4.OptionDomainName, false, []byte(c.Search[0]))
	}
	add(dhcpv4.OptionBroadcastAddress, false, broadcastOf(c.V4.Address))
	add(dhcpv4.OptionNTPServers, false, addresses4(c.NTP))
	add(dhcpv4.OptionDNSDomainSearchList, false, searchLists(c.Search)...)
	return options
}

// addOptions4 adds the options to r that the client m wants and that it has room for, and returns those that it has not.
// A client without a list of parameters gets all.
func (s *Server) addOptions4(r, m *dhcpv4.DHCPv4) (left []string) {
	room := s.room4(m)
	for _, o := range s.options4 {
		if !o.always && !m.IsOptionRequested(o.code) {
			continue
		}
		fits := func(value []byte) bool {
			r.UpdateOption(dhcpv4.OptGeneric(o.code, value))
			return len(r.ToBytes()) <= room
		}
		if taken := slices.IndexFunc(o.values, fits); taken < 0 {
			r.DeleteOption(o.code)
			left = append(left, o.code.String())
		} else if taken > 0 {
			left = append(left, o.code.String()+" (a part)")
		}
	}
	return left
}

// room4 is the longest DHCP message in bytes that the client takes: 576 less the headers of IP and UDP, or what it says
// (RFC 2132 §9.10), and not more than the link does.
func (s *Server) room4(m *dhcpv4.DHCPv4) int {
	size := minMTU4
	if says, err := m.MaxMessageSize(); err == nil {
		size = max(size, int(says))
	}
	return min(size, s.cfg.mtu()) - ipv4Header - udpHeader
}

// classless is the list of all routes for RFC 3442: a client that takes it forgets the router option, so the default route is
// in it. On-link routes come first, because clients that add routes one by one cannot add one through a gateway that they do
// not reach yet, and the default route last. It is needed where the router option does not say all.
func (v V4) classless() (list dhcpv4.Routes, needed bool) {
	routes := v.withOnLink()
	slices.SortStableFunc(routes, func(a, b Route) int {
		return cmp.Or(cmp.Compare(later(a), later(b)), cmp.Compare(b.Dst.Bits(), a.Dst.Bits()))
	})
	for _, r := range routes {
		via := net.IPv4zero // on-link, in RFC 3442's words
		if r.Via.IsValid() {
			via = r.Via.AsSlice()
		}
		list = append(list, &dhcpv4.Route{
			Dest:   &net.IPNet{IP: r.Dst.Addr().AsSlice(), Mask: net.CIDRMask(r.Dst.Bits(), 32)},
			Router: via,
		})
	}
	needed = slices.ContainsFunc(routes, func(r Route) bool { return r.Via != v.Router || r.Dst.Bits() > 0 })
	return list, needed
}

// later is the place of a route in the list: on-link, through a gateway, default.
func later(r Route) int {
	switch {
	case r.Dst.Bits() == 0:
		return 2
	case r.Via.IsValid():
		return 1
	}
	return 0
}

// withOnLink are the routes, each once and without stray bits, with the default route and with the on-link routes to the
// gateways outside of the guest's network.
func (v V4) withOnLink() []Route {
	var routes []Route
	add := func(r Route) {
		r.Dst = r.Dst.Masked()
		if !slices.Contains(routes, r) {
			routes = append(routes, r)
		}
	}
	for _, r := range v.Routes {
		add(r)
	}
	if v.Router.IsValid() {
		add(Route{Dst: netip.PrefixFrom(netip.IPv4Unspecified(), 0), Via: v.Router})
	}
	for _, r := range slices.Clone(routes) {
		if r.Via.IsValid() && !v.onLink(routes, r.Via) {
			add(Route{Dst: netip.PrefixFrom(r.Via, 32)})
		}
	}
	return routes
}

// onLink says whether the guest reaches a gateway without another one.
func (v V4) onLink(routes []Route, gateway netip.Addr) bool {
	return v.Address.Masked().Contains(gateway) ||
		slices.ContainsFunc(routes, func(r Route) bool { return !r.Via.IsValid() && r.Dst.Contains(gateway) })
}

// searchLists are the search domains as option 119, and the same with ever fewer of them, for clients with little room.
func searchLists(names []string) [][]byte {
	var lists [][]byte
	for n := len(names); n > 0; n-- {
		lists = append(lists, compressed(names[:n]))
	}
	return lists
}

// addresses4 are the IPv4 ones among the addresses.
func addresses4(addresses []netip.Addr) []byte {
	var b []byte
	for _, a := range addresses {
		if a.Is4() {
			b = append(b, a.AsSlice()...)
		}
	}
	return b
}

// broadcastOf is the network's broadcast address. Of /31 (RFC 3021) and /32 there is none.
func broadcastOf(p netip.Prefix) []byte {
	if p.Bits() > 30 {
		return nil
	}
	b := p.Addr().As4()
	for i, m := range net.CIDRMask(p.Bits(), 32) {
		b[i] |= ^m
	}
	return b[:]
}
