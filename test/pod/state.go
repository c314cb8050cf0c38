package pod

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
)

// State is what a network stack has: the pod's before a virtual machine is in it, or a guest's.
type State struct {
	Hostname string
	Cards    []Card  // all but lo, in the order of their indexes
	Routes   []Route // those of the main table that lead somewhere, multicast's left out
	Servers  []netip.Addr
	Search   []string
}

// Card is a network interface.
type Card struct {
	Name      string
	MAC       string
	MTU       int // bytes
	Up        bool
	Addresses []Address
}

// Address is an address with the length of its prefix, and the flags that a person should know of: tentative, dadfailed.
type Address struct {
	Prefix netip.Prefix
	Flags  []string
}

// Route is a route. Via is zero where the destination is on the link.
type Route struct {
	Destination netip.Prefix
	Via         netip.Addr
	Card        string
	MTU         int // of the route itself, in bytes; 0: the card's
}

func (r Route) String() string {
	s := r.Destination.String()
	if r.Via.IsValid() {
		s += " via " + r.Via.String()
	}
	return s + " dev " + r.Card
}

// IsDefault says whether it is a default route.
func (r Route) IsDefault() bool { return r.Destination.Bits() == 0 }

// Global are the addresses that are not the link's own.
func (c Card) Global() []netip.Prefix {
	var all []netip.Prefix
	for _, a := range c.Addresses {
		if !a.Prefix.Addr().IsLinkLocalUnicast() {
			all = append(all, a.Prefix)
		}
	}
	return all
}

// Global are the global addresses of all cards, in their order.
func (s State) Global() []netip.Addr {
	var all []netip.Addr
	for _, c := range s.Cards {
		for _, p := range c.Global() {
			all = append(all, p.Addr())
		}
	}
	return all
}

// Default is the default route of IPv4, or of IPv6; ok is false where there is none.
func (s State) Default(six bool) (r Route, ok bool) {
	for _, r := range s.Routes {
		if r.IsDefault() && r.Destination.Addr().Is6() == six {
			return r, true
		}
	}
	return Route{}, false
}

// inspect reads what the pod has.
func inspect(t testing.TB, space Space, hostname, resolvConf string) State {
	t.Helper()
	s := State{Hostname: hostname, Cards: Cards(t, space)}
	s.Routes = append(routes(t, space, "-4"), routes(t, space, "-6")...)
	text, err := os.ReadFile(resolvConf)
	if err != nil {
		t.Fatal(err)
	}
	s.Servers, s.Search = Resolver(string(text))
	return s
}

// ipLink is an interface as `ip -j addr` prints it.
type ipLink struct {
	Index     int         `json:"ifindex"`
	PeerIndex int         `json:"link_index"` // of a veth: its other end
	Name      string      `json:"ifname"`
	MAC       string      `json:"address"`
	MTU       int         `json:"mtu"`
	Flags     []string    `json:"flags"`
	Addresses []ipAddress `json:"addr_info"`
}

type ipAddress struct {
	Local     netip.Addr `json:"local"`
	Length    int        `json:"prefixlen"`
	Tentative bool       `json:"tentative"`
	Failed    bool       `json:"dadfailed"`
}

// links are the interfaces of a namespace but lo, in the order of their indexes.
func links(t testing.TB, space Space) []ipLink {
	t.Helper()
	var all []ipLink
	space.read(t, &all, "ip", "-j", "addr")
	all = slices.DeleteFunc(all, func(l ipLink) bool { return l.Name == "lo" })
	slices.SortFunc(all, func(a, b ipLink) int { return cmp.Compare(a.Index, b.Index) })
	return all
}

// Cards reads the interfaces of a namespace.
func Cards(t testing.TB, space Space) []Card {
	t.Helper()
	var all []Card
	for _, l := range links(t, space) {
		c := Card{Name: l.Name, MAC: l.MAC, MTU: l.MTU, Up: slices.Contains(l.Flags, "UP")}
		for _, a := range l.Addresses {
			c.Addresses = append(c.Addresses, Address{netip.PrefixFrom(a.Local, a.Length), a.flags()})
		}
		all = append(all, c)
	}
	return all
}

func (a ipAddress) flags() []string {
	var flags []string
	if a.Tentative {
		flags = append(flags, "tentative")
	}
	if a.Failed {
		flags = append(flags, "dadfailed")
	}
	return flags
}

// routes are the unicast routes of the main table, of the family -4 or -6, but for those to link-local addresses of IPv6, which
// every card has by itself.
func routes(t testing.TB, space Space, family string) []Route {
	t.Helper()
	var found []struct {
		Destination string     `json:"dst"`
		Gateway     netip.Addr `json:"gateway"`
		Card        string     `json:"dev"`
		Type        string     `json:"type"`
		Metrics     []struct {
			MTU int `json:"mtu"`
		} `json:"metrics"`
	}
	space.read(t, &found, "ip", "-j", family, "route")
	var all []Route
	for _, f := range found {
		destination, err := Destination(f.Destination, family == "-6")
		if err != nil {
			t.Fatal(err)
		}
		if f.Type != "" && f.Type != "unicast" || destination.Addr().IsLinkLocalUnicast() && destination.Addr().Is6() {
			continue
		}
		r := Route{Destination: destination, Via: f.Gateway, Card: f.Card}
		for _, m := range f.Metrics {
			r.MTU = max(r.MTU, m.MTU)
		}
		all = append(all, r)
	}
	return all
}

// Destination reads the destination of a route as ip writes it: "default", an address, or a prefix.
func Destination(s string, six bool) (netip.Prefix, error) {
	if s == "default" {
		if six {
			return netip.PrefixFrom(netip.IPv6Unspecified(), 0), nil
		}
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0), nil
	}
	if !strings.Contains(s, "/") {
		a, err := netip.ParseAddr(s)
		return netip.PrefixFrom(a, a.BitLen()), err
	}
	p, err := netip.ParsePrefix(s)
	if err != nil {
		return p, fmt.Errorf("the destination of a route: %w", err)
	}
	return p, nil
}

// Resolver reads the name servers and search domains of a resolv.conf.
func Resolver(text string) (servers []netip.Addr, search []string) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			if a, err := netip.ParseAddr(words[1]); err == nil {
				servers = append(servers, a)
			}
		case "search", "domain":
			search = nil
			for _, w := range words[1:] {
				search = append(search, strings.TrimSuffix(w, ".")) // dhclient writes whole names
			}
		}
	}
	return servers, search
}

// MTUTo is the largest packet that the card may send beyond its link, in bytes: the MTU of the default route, where that has one.
func (s State) MTUTo(c Card, six bool) int {
	if r, ok := s.Default(six); ok && r.Card == c.Name && r.MTU > 0 {
		return r.MTU
	}
	return c.MTU
}

// Payload is how much a ping to address may carry to fill a packet of the card, in bytes.
func (s State) Payload(c Card, address netip.Addr) int {
	const ipv4, ipv6, icmp = 20, 40, 8
	if address.Is6() {
		return s.MTUTo(c, true) - ipv6 - icmp
	}
	return s.MTUTo(c, false) - ipv4 - icmp
}
