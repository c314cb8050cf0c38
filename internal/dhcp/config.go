package dhcp

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"time"
)

// Config is what one guest is told.
type Config struct {
	// Guest is the MAC of the guest's card: nobody else gets an answer.
	Guest net.HardwareAddr
	// Server is the MAC that the server's frames come from, and what its DHCPv6 identity is made from. A guest remembers that
	// identity, so it should be the same after a restart. It must not be the MAC that the port's network device has in the
	// kernel: a bridge takes frames to the MACs of its own ports for itself (net/bridge/br_input.c, a local entry of the
	// forwarding database), and what the guest sends to this server alone, releases and renewals, would never arrive.
	Server net.HardwareAddr
	// HostName is the guest's host name. Empty, or not one: not said.
	HostName string
	// Search is the list of search domains. What is not a domain name is left out, with a warning in the log.
	Search []string
	// NTP are time servers, IPv4 and IPv6. Only DHCP tells them: a guest whose DHCP has the other family does not learn them.
	NTP []netip.Addr
	// MTU is in bytes, without the Ethernet header: 576 to 65535, from 1280 with IPv6. 0: not said.
	MTU int
	// V4 is nil where there is no DHCPv4.
	V4 *V4
	// V6 is nil where there are neither router advertisements nor DHCPv6.
	V6 *V6
}

// V4 is what DHCPv4 tells.
type V4 struct {
	// Address is the guest's, with the length of its network's prefix, /8 to /32.
	Address netip.Prefix
	// Server identifies the DHCP server (option 54) and is the source of its packets. A guest sends a release there, and would
	// renewals, if its lease were ever up.
	Server netip.Addr
	// AnswerARP: nobody else has the address Server, so ARP requests of the guest for it are answered. To be false where the
	// kernel, or the network's gateway, answers them.
	AnswerARP bool
	// Router is the default gateway. Zero: none. It may be outside of Address's network (169.254.1.1).
	Router netip.Addr
	// Routes are more routes, in any order. The default route through Router may be among them. Gateways outside of Address's
	// network get the on-link route that they need, where it is missing.
	Routes []Route
	// DNS are the name servers.
	DNS []netip.Addr
}

// Route is an IPv4 route.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr // zero: on-link
}

// V6 is what router advertisements and DHCPv6 tell.
type V6 struct {
	// Addresses are what DHCPv6 gives: the pod's exact addresses, each as a /128. None: router advertisements say so (M=0).
	Addresses []netip.Addr
	// Server is the link-local address that DHCPv6 is answered from. It is nobody else's: neighbour solicitations for it are
	// answered.
	Server netip.Addr
	// Router is the link-local source of the router advertisements, and so the guest's default router: the pod's real
	// gateway. Zero: they come from Server, and say that it is no default router.
	Router netip.Addr
	// RouterMAC is given where nobody else answers neighbour solicitations for Router (the pod knows its gateway by a global
	// address alone): they are answered with it, and the router advertisements hold it. Nil: the router answers itself.
	RouterMAC net.HardwareAddr
	// OnLink are the prefixes whose addresses the guest finds without a router. It makes no address from them (A=0).
	OnLink []netip.Prefix
	// Routes are the destinations of more routes through Router (RFC 4191).
	Routes []netip.Prefix
	// DNS are the name servers.
	DNS []netip.Addr
	// Interval is the longest time between two router advertisements (MaxRtrAdvInterval in RFC 4861 §6.2.1), 4 s to 30 min.
	// Zero: 200 s.
	Interval time.Duration
}

// The limits of Interval, and what is taken where it is not given. The longest that RFC 4861 allows for is 1800 s.
const (
	defaultInterval = 200 * time.Second
	minInterval     = 4 * time.Second
	maxInterval     = 1800 * time.Second
)

// The smallest MTU of IPv4 hosts (RFC 791 §3.1), of IPv6 (RFC 8200 §5), and Ethernet's, which is what messages keep to where
// none is given.
const (
	minMTU4     = 576
	minMTU6     = 1280
	ethernetMTU = 1500
)

// mtu is the size in bytes that IP packets keep to.
func (c Config) mtu() int {
	if c.MTU == 0 {
		return ethernetMTU
	}
	return c.MTU
}

// check finds all mistakes at once.
func (c Config) check() error {
	var mistakes []error
	wrong := func(format string, args ...any) { mistakes = append(mistakes, fmt.Errorf(format, args...)) }
	if !unicastMAC(c.Guest) {
		wrong("the guest's MAC %q is not one of a card", c.Guest)
	}
	if !unicastMAC(c.Server) || bytes.Equal(c.Guest, c.Server) {
		wrong("the server's MAC %q is not one of another card", c.Server)
	}
	if c.MTU != 0 && (c.MTU < minMTU4 || c.MTU > 65535 || c.V6 != nil && c.MTU < minMTU6) {
		wrong("MTU %d is not from %d to 65535, with IPv6 from %d", c.MTU, minMTU4, minMTU6)
	}
	if slices.ContainsFunc(c.NTP, func(a netip.Addr) bool { return !host(a) }) {
		wrong("NTP servers %v: not all are addresses of a host", c.NTP)
	}
	if c.V4 != nil {
		c.V4.check(wrong)
	}
	if c.V6 != nil {
		c.V6.check(wrong)
	}
	return errors.Join(mistakes...)
}

func (v V4) check(wrong func(string, ...any)) {
	if !host4(v.Address.Addr()) || v.Address.Bits() < 8 {
		wrong("the guest's address %s is not an IPv4 address with a prefix of /8 to /32", v.Address)
	}
	if !host4(v.Server) || v.Server == v.Address.Addr() {
		wrong("the server's address %s is not another IPv4 address", v.Server)
	}
	if v.Router.IsValid() && !host4(v.Router) {
		wrong("the router %s is not an IPv4 address", v.Router)
	}
	for _, r := range v.Routes {
		if !r.Dst.IsValid() || !r.Dst.Addr().Is4() || r.Via.IsValid() && !host4(r.Via) {
			wrong("route to %s via %s is not one of IPv4", r.Dst, r.Via)
		}
	}
	for _, a := range v.DNS {
		if !host4(a) {
			wrong("the DNS server %s is not an IPv4 address", a)
		}
	}
}

func (v V6) check(wrong func(string, ...any)) {
	for _, a := range v.Addresses {
		if !host6(a) || a.IsLinkLocalUnicast() {
			wrong("the guest's address %s is not an IPv6 address of more than the link", a)
		}
	}
	if !linkLocal6(v.Server) {
		wrong("the server's address %s is not link-local", v.Server)
	}
	if v.Router.IsValid() && (!linkLocal6(v.Router) || v.Router == v.Server) {
		wrong("the router %s is not another link-local address", v.Router)
	}
	if v.RouterMAC != nil && (!unicastMAC(v.RouterMAC) || !v.Router.IsValid()) {
		wrong("the router's MAC %q is not one of a card, or there is no router", v.RouterMAC)
	}
	for _, p := range v.OnLink {
		if !prefix6(p) || p.Addr().IsLinkLocalUnicast() {
			wrong("%s is not a prefix that can be on-link", p)
		}
	}
	for _, p := range v.Routes {
		if !prefix6(p) || !v.Router.IsValid() {
			wrong("route to %s is not one of IPv6, or there is no router", p)
		}
	}
	for _, a := range v.DNS {
		if !host6(a) {
			wrong("the DNS server %s is not an IPv6 address", a)
		}
	}
	if v.Interval != 0 && (v.Interval < minInterval || v.Interval > maxInterval) {
		wrong("router advertisements every %s: not from %s to %s", v.Interval, minInterval, maxInterval)
	}
}

func unicastMAC(m net.HardwareAddr) bool {
	return len(m) == 6 && m[0]&1 == 0 && !bytes.Equal(m, make([]byte, 6))
}

// host says whether a host can have this address. An IPv4 address in IPv6 clothes has no place in either protocol.
func host(a netip.Addr) bool {
	return a.IsValid() && !a.IsUnspecified() && !a.IsMulticast() && !a.Is4In6() && a != netip.AddrFrom4([4]byte{255, 255, 255, 255})
}

func host4(a netip.Addr) bool { return host(a) && a.Is4() }

// host6 takes no zone: it names a link of this machine, and means nothing to a guest.
func host6(a netip.Addr) bool { return host(a) && a.Is6() && a.Zone() == "" }

func linkLocal6(a netip.Addr) bool { return host6(a) && a.IsLinkLocalUnicast() }

func prefix6(p netip.Prefix) bool {
	return p.IsValid() && p.Addr().Is6() && !p.Addr().Is4In6() && !p.Addr().IsMulticast()
}
