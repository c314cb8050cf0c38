package dhcp

import (
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/mdlayher/ndp"
)

const (
	// neighbourHops is the hop limit of all neighbour discovery: no router lets it through, so it comes from the link itself
	// (RFC 4861 §3.1).
	neighbourHops = 255

	// routerLifetime is the longest that RFC 4861 §6.2.1 allows. The guest's name servers and more routes live as long, and are
	// renewed with it.
	routerLifetime = 9000 * time.Second

	icmpRouterSolicitation   = 133
	icmpNeighborSolicitation = 135
	routerSolicitation       = 8  // bytes, without options
	neighborSolicitation     = 24 // bytes, without options
	sourceLinkLayerAddress   = 1
)

var (
	allNodes       = netip.MustParseAddr("ff02::1")
	allRouters     = netip.MustParseAddr("ff02::2")
	solicitedNodes = netip.MustParsePrefix("ff02::1:ff00:0/104")
)

// handleIPv6 answers neighbour discovery and DHCPv6.
func (s *Server) handleIPv6(b []byte) answer {
	p, ok := parseIPv6(b)
	if !ok || p.src.IsMulticast() {
		return answer{}
	}
	switch p.protocol {
	case protocolUDP:
		return s.handleUDP6(p)
	case protocolICMPv6:
		return s.handleNeighbour(p)
	}
	return answer{}
}

// handleNeighbour answers the two kinds of solicitations that are valid by RFC 4861 §6.1.1 and §7.1.1.
func (s *Server) handleNeighbour(p packet) answer {
	m := p.payload
	if p.hops != neighbourHops || len(m) < routerSolicitation || m[1] != 0 || p.checksum() != 0 {
		return answer{}
	}
	switch m[0] {
	case icmpRouterSolicitation:
		if validOptions(m[routerSolicitation:], p.src) {
			return s.handleRouterSolicitation(p)
		}
	case icmpNeighborSolicitation:
		if len(m) >= neighborSolicitation && validOptions(m[neighborSolicitation:], p.src) {
			return s.handleNeighborSolicitation(p)
		}
	}
	return answer{}
}

// validOptions walks the options of a message: each has a length, and only who has an address says to which MAC it belongs.
// Nothing in them is of use here, so they are not looked into.
func validOptions(b []byte, src netip.Addr) bool {
	for len(b) > 0 {
		if len(b) < 2 || b[1] == 0 || len(b) < int(b[1])*8 || b[0] == sourceLinkLayerAddress && src.IsUnspecified() {
			return false
		}
		b = b[int(b[1])*8:]
	}
	return true
}

// handleRouterSolicitation answers at once, without the random delay of RFC 4861 §6.2.6: that keeps several routers from
// answering at the same time, and this one is alone. A guest that has no address yet is answered with the next multicast, which
// is brought forward as far as the time between two of them lets it.
func (s *Server) handleRouterSolicitation(p packet) answer {
	switch {
	case p.dst != allRouters && p.dst != s.cfg.V6.source():
		return answer{}
	case p.src.IsUnspecified():
		s.schedule.hasten()
		return answer{}
	}
	return s.advertise(p.src)
}

// handleNeighborSolicitation answers for the server's address, and for the router's where it is known.
func (s *Server) handleNeighborSolicitation(p packet) answer {
	target := netip.AddrFrom16([16]byte(p.payload[8:24]))
	mac, router := s.cfg.Server, false
	switch {
	case target == s.cfg.V6.Server:
	case target == s.cfg.V6.Router && s.cfg.V6.RouterMAC != nil:
		mac, router = s.cfg.V6.RouterMAC, true
	default:
		return answer{}
	}
	group := solicitedNode(target)
	if p.dst != group && (p.dst != target || p.src.IsUnspecified()) {
		return answer{}
	}
	na := &ndp.NeighborAdvertisement{
		Router:        router,
		Solicited:     !p.src.IsUnspecified(),
		Override:      true,
		TargetAddress: target,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac}},
	}
	dst := p.src
	if dst.IsUnspecified() { // the guest looks whether the address is free: all may know that it is not (§7.2.4)
		dst = allNodes
	}
	m, err := ndp.MarshalMessage(na)
	if err != nil {
		s.warn("cannot make a neighbour advertisement", "error", err)
		return answer{}
	}
	return answer{kind: "neighbour advertisement", frame: icmpv6(target, dst, m).frame(s.mac6(dst), s.cfg.Server)}
}

// solicitedNode is the group that solicitations for an address are sent to (RFC 4291 §2.7.1).
func solicitedNode(a netip.Addr) netip.Addr {
	group, b := solicitedNodes.Addr().As16(), a.As16()
	copy(group[13:], b[13:])
	return netip.AddrFrom16(group)
}

// mac6 is where a frame to dst goes: to the guest, or to its group (RFC 2464 §7).
func (s *Server) mac6(dst netip.Addr) net.HardwareAddr {
	if !dst.IsMulticast() {
		return s.cfg.Guest
	}
	b := dst.As16()
	return append(net.HardwareAddr{0x33, 0x33}, b[12:]...)
}

// source is where router advertisements come from.
func (v V6) source() netip.Addr {
	if v.Router.IsValid() {
		return v.Router
	}
	return v.Server
}

// advertise is a router advertisement for dst.
func (s *Server) advertise(dst netip.Addr) answer {
	p := icmpv6(s.cfg.V6.source(), dst, s.ra)
	return answer{kind: "router advertisement", frame: p.frame(s.mac6(dst), s.cfg.Server)}
}

// advertisement makes the router advertisement. The options that do not fit into the MTU are left out, the least important
// ones first.
func (s *Server) advertisement() ([]byte, error) {
	v6 := s.cfg.V6
	ra := &ndp.RouterAdvertisement{
		CurrentHopLimit:      hopLimit,
		ManagedConfiguration: len(v6.Addresses) > 0,
		OtherConfiguration:   true,
	}
	if v6.Router.IsValid() {
		ra.RouterLifetime = routerLifetime
	}
	room := s.cfg.mtu() - ipv6Header
	for _, o := range s.cfg.advertisementOptions() {
		shorter := ra.Options
		ra.Options = append(ra.Options, o)
		if m, err := ndp.MarshalMessage(ra); err != nil || len(m) > room {
			s.log.Warn("a part of the configuration does not fit into the router advertisement", "option", o.Code(), "room", room, "error", err)
			ra.Options = shorter
		}
	}
	m, err := ndp.MarshalMessage(ra)
	if err != nil {
		return nil, fmt.Errorf("cannot make the router advertisement: %w", err)
	}
	return m, nil
}

// advertisementOptions are the options of the router advertisement, the most important ones first.
func (c Config) advertisementOptions() []ndp.Option {
	var options []ndp.Option
	if c.V6.RouterMAC != nil {
		options = append(options, &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: c.V6.RouterMAC})
	}
	if c.MTU != 0 {
		options = append(options, ndp.NewMTU(uint32(c.MTU)))
	}
	for _, p := range c.V6.OnLink {
		options = append(options, &ndp.PrefixInformation{
			PrefixLength:      uint8(p.Bits()),
			Prefix:            p.Masked().Addr(),
			OnLink:            true,
			ValidLifetime:     ndp.Infinity,
			PreferredLifetime: ndp.Infinity,
		})
	}
	for _, p := range c.V6.Routes {
		options = append(options, &ndp.RouteInformation{
			PrefixLength:  uint8(p.Bits()),
			Prefix:        p.Masked().Addr(),
			RouteLifetime: routerLifetime,
		})
	}
	for servers := range slices.Chunk(c.V6.DNS, maxServers) {
		options = append(options, &ndp.RecursiveDNSServer{Lifetime: routerLifetime, Servers: servers})
	}
	for _, names := range chunks(c.Search) {
		options = append(options, &ndp.DNSSearchList{Lifetime: routerLifetime, DomainNames: names})
	}
	return options
}

// An option's length is kept below 256 bytes: the library cannot count further. Longer lists are spread over several options,
// as RFC 8106 §5.3.1 has it.
const (
	maxServers = 15
	maxNames   = 240 // bytes of names
)

// chunks spreads the search domains over options. A name takes two bytes more than it has characters.
func chunks(names []string) [][]string {
	var lists [][]string
	size := maxNames
	for _, name := range names {
		if size+len(name)+2 > maxNames {
			lists, size = append(lists, nil), 0
		}
		last := len(lists) - 1
		lists[last], size = append(lists[last], name), size+len(name)+2
	}
	return lists
}

// Constants of RFC 4861 §10.
const (
	initialAdvertisements = 3
	initialInterval       = 16 * time.Second
	minDelayBetween       = 3 * time.Second
)

// schedule is when multicast router advertisements are sent (RFC 4861 §6.2.4): some soon after the start, for a guest that came
// first, and then at random times, the longest of which is interval and the shortest a third of it.
type schedule struct {
	interval time.Duration
	count    int // sent since the start
	last     time.Time
	next     time.Time
}

func newSchedule(interval time.Duration) schedule {
	if interval == 0 {
		interval = defaultInterval
	}
	return schedule{interval: interval}
}

func (c *schedule) start(now time.Time) {
	*c = schedule{interval: c.interval, next: now}
}

// sent is to be called after each one that was sent.
func (c *schedule) sent(now time.Time) {
	shortest := c.interval / 3
	delay := shortest + rand.N(c.interval-shortest)
	c.count++
	if c.count < initialAdvertisements {
		delay = min(delay, initialInterval)
	}
	c.last, c.next = now, now.Add(delay)
}

// hasten makes the next one come as soon as it may.
func (c *schedule) hasten() {
	if soon := c.last.Add(minDelayBetween); soon.Before(c.next) {
		c.next = soon
	}
}
