package dhcp

import (
	"bytes"
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/mdlayher/ndp"
)

// solicitation is an ICMPv6 message of the guest's, with a right checksum.
func solicitation(t *testing.T, m ndp.Message, src, dst netip.Addr) packet {
	t.Helper()
	b, err := ndp.MarshalMessage(m)
	if err != nil {
		t.Fatal(err)
	}
	return icmpv6(src, dst, b)
}

func slla() []ndp.Option {
	return []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: guestMAC}}
}

// neighbour takes an answer apart.
func neighbour(t *testing.T, a answer) (e ethernet, p packet, m ndp.Message) {
	t.Helper()
	e, _ = parseEthernet(a.frame)
	p, ok := parseIPv6(e.payload)
	if !ok || p.hops != 255 || p.checksum() != 0 || !bytes.Equal(e.src, serverMAC) {
		t.Fatalf("not a good answer: %x", a.frame)
	}
	m, err := ndp.ParseMessage(p.payload)
	if err != nil {
		t.Fatal(err)
	}
	return e, p, m
}

func TestRouterAdvertisement(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	noAddresses := Config{Guest: guestMAC, Server: serverMAC, V6: &V6{Server: server6, OnLink: []netip.Prefix{prefix("2001:db8::7/64")}}}
	many := ordinary()
	many.MTU = 1280
	many.V6.Routes = nil
	for i := range 100 {
		many.V6.Routes = append(many.V6.Routes, netip.PrefixFrom(netip.AddrFrom16([16]byte{0x20, 1, 0xd, 0xb8, byte(i)}), 48))
		many.Search = append(many.Search, strings.Repeat("a", i%60+1)+".example")
	}
	onLink := func(p string) ndp.Option {
		return &ndp.PrefixInformation{PrefixLength: uint8(prefix(p).Bits()), Prefix: prefix(p).Addr(), OnLink: true, ValidLifetime: ndp.Infinity, PreferredLifetime: ndp.Infinity}
	}
	tests := []struct {
		name   string
		cfg    Config
		source netip.Addr
		want   *ndp.RouterAdvertisement
	}{
		{"ordinary", ordinary(), addr("fe80::1"), &ndp.RouterAdvertisement{
			CurrentHopLimit: 64, ManagedConfiguration: true, OtherConfiguration: true, RouterLifetime: routerLifetime,
			Options: []ndp.Option{
				&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: routerMAC},
				ndp.NewMTU(1400),
				onLink("2001:db8:77::/64"),
				&ndp.RouteInformation{PrefixLength: 48, Prefix: addr("2001:db8:99::"), RouteLifetime: routerLifetime},
				&ndp.RecursiveDNSServer{Lifetime: routerLifetime, Servers: []netip.Addr{addr("2001:db8:96::10")}},
				&ndp.DNSSearchList{Lifetime: routerLifetime, DomainNames: []string{"default.svc.cluster.local", "svc.cluster.local", "cluster.local"}},
			},
		}},
		{"a router that answers for itself", routed(), addr("fe80::ecee:eeff:feee:eeee"), &ndp.RouterAdvertisement{
			CurrentHopLimit: 64, ManagedConfiguration: true, OtherConfiguration: true, RouterLifetime: routerLifetime,
		}},
		{"no router, no addresses", noAddresses, server6, &ndp.RouterAdvertisement{
			CurrentHopLimit: 64, OtherConfiguration: true, Options: []ndp.Option{onLink("2001:db8::/64")},
		}},
	}
	var sent [][]byte
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			a := newServer(t, tt.cfg).advertise(allNodes)
			sent = append(sent, a.frame)
			e, p, m := neighbour(t, a)
			if p.src != tt.source || p.dst != allNodes || !bytes.Equal(e.dst, net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}) {
				t.Errorf("from %s to %s at %s", p.src, p.dst, e.dst)
			}
			if diff := cmp.Diff(tt.want, m, cmpopts.EquateComparable(netip.Addr{}), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
	t.Run("more than fits", func(t *testing.T) {
		a := newServer(t, many).advertise(allNodes)
		sent = append(sent, a.frame)
		_, _, m := neighbour(t, a)
		if size := len(a.frame) - etherHeader; size > 1280 || size < 1200 {
			t.Errorf("%d bytes", size)
		}
		if n := len(m.(*ndp.RouterAdvertisement).Options); n < 50 {
			t.Errorf("%d options", n)
		}
	})
	t.Run("lists that take several options", func(t *testing.T) {
		c := ordinary()
		c.MTU = 9000
		for i := range 40 {
			c.Search = append(c.Search, strings.Repeat("b", i+1)+".example")
			c.V6.DNS = append(c.V6.DNS, netip.AddrFrom16([16]byte{0x20, 1, 15: byte(i + 1)}))
		}
		a := newServer(t, c).advertise(allNodes)
		sent = append(sent, a.frame)
		var names []string
		var dns []netip.Addr
		_, _, m := neighbour(t, a)
		for _, o := range m.(*ndp.RouterAdvertisement).Options {
			switch o := o.(type) {
			case *ndp.DNSSearchList:
				names = append(names, o.DomainNames...)
			case *ndp.RecursiveDNSServer:
				dns = append(dns, o.Servers...)
			}
		}
		valid, _ := validNames(c.Search)
		if diff := cmp.Diff(valid, names) + cmp.Diff(c.V6.DNS, dns, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
			t.Error(diff)
		}
	})
	checkFrames(t, tcpdump(t, sent, ""))
}

func TestNeighbours(t *testing.T) {
	addr := netip.MustParseAddr
	unspecified, router := netip.IPv6Unspecified(), addr("fe80::1")
	all33 := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}
	ns := func(target netip.Addr, options ...ndp.Option) *ndp.NeighborSolicitation {
		return &ndp.NeighborSolicitation{TargetAddress: target, Options: options}
	}
	na := func(target netip.Addr, mac net.HardwareAddr, isRouter, solicited bool) *ndp.NeighborAdvertisement {
		return &ndp.NeighborAdvertisement{Router: isRouter, Solicited: solicited, Override: true, TargetAddress: target,
			Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: mac}}}
	}
	tests := []struct {
		name string
		cfg  Config
		m    ndp.Message
		src  netip.Addr
		dst  netip.Addr
		mac  net.HardwareAddr // that the frame is sent to
		want ndp.Message      // nil: no answer
		to   netip.Addr
		at   net.HardwareAddr
	}{
		{"the server", ordinary(), ns(server6, slla()...), guest6, solicitedNode(server6), all33, na(server6, serverMAC, false, true), guest6, guestMAC},
		{"the server, still there?", ordinary(), ns(server6), guest6, server6, serverMAC, na(server6, serverMAC, false, true), guest6, guestMAC},
		{"the server's address taken?", ordinary(), ns(server6), unspecified, solicitedNode(server6), all33, na(server6, serverMAC, false, false), allNodes, all33},
		{"the router", ordinary(), ns(router, slla()...), guest6, solicitedNode(router), all33, na(router, routerMAC, true, true), guest6, guestMAC},
		{"the router, still there?", ordinary(), ns(router), guest6, router, routerMAC, na(router, routerMAC, true, true), guest6, guestMAC},
		{"the router's address taken?", ordinary(), ns(router), unspecified, solicitedNode(router), all33, na(router, routerMAC, true, false), allNodes, all33},
		{"from a global address", ordinary(), ns(router, slla()...), addr("2001:db8:77::5"), solicitedNode(router), all33, na(router, routerMAC, true, true), addr("2001:db8:77::5"), guestMAC},
		{"a router that answers for itself", routed(), ns(addr("fe80::ecee:eeff:feee:eeee"), slla()...), guest6, solicitedNode(addr("fe80::ecee:eeff:feee:eeee")), all33, nil, unspecified, nil},
		{"somebody else", ordinary(), ns(addr("2001:db8:77::9"), slla()...), guest6, solicitedNode(addr("2001:db8:77::9")), all33, nil, unspecified, nil},
		{"the guest's own address", ordinary(), ns(guest6), unspecified, solicitedNode(guest6), all33, nil, unspecified, nil},
		{"to a group of somebody else", ordinary(), ns(server6, slla()...), guest6, allNodes, all33, nil, unspecified, nil},
		{"taken?, with a MAC", ordinary(), ns(server6, slla()...), unspecified, solicitedNode(server6), all33, nil, unspecified, nil},
		{"taken?, to one address", ordinary(), ns(server6), unspecified, server6, serverMAC, nil, unspecified, nil},
		{"an advertisement", ordinary(), na(server6, guestMAC, false, false), guest6, allNodes, all33, nil, unspecified, nil},
	}
	var sent [][]byte
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newServer(t, tt.cfg)
			p := solicitation(t, tt.m, tt.src, tt.dst)
			a := s.handle(p.frame(tt.mac, guestMAC))
			if b := s.handle(p.frame(tt.mac, net.HardwareAddr{2, 0, 0, 0, 0, 9})); b.frame != nil {
				t.Error("another guest has an answer")
			}
			if tt.want == nil {
				if a.frame != nil {
					t.Errorf("answer %s", a.kind)
				}
				return
			}
			if a.frame == nil {
				t.Fatal("no answer")
			}
			sent = append(sent, a.frame)
			e, p, m := neighbour(t, a)
			if p.dst != tt.to || !bytes.Equal(e.dst, tt.at) {
				t.Errorf("to %s at %s", p.dst, e.dst)
			}
			if diff := cmp.Diff(tt.want, m, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Error(diff)
			}
		})
	}
	checkFrames(t, tcpdump(t, sent, ""))
}

func TestRouterSolicitation(t *testing.T) {
	s := newServer(t, ordinary())
	all := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 2}
	rs := solicitation(t, &ndp.RouterSolicitation{Options: slla()}, guest6, allRouters)
	e, p, _ := neighbour(t, s.handle(rs.frame(all, guestMAC)))
	if p.dst != guest6 || !bytes.Equal(e.dst, guestMAC) {
		t.Errorf("to %s at %s", p.dst, e.dst)
	}
	bad := map[string]func(p *packet){
		"through a router":         func(p *packet) { p.hops = 254 },
		"wrong checksum":           func(p *packet) { p.payload[2]++ },
		"a code":                   func(p *packet) { p.payload[1], p.payload[3] = 1, p.payload[3]-1 },
		"an option without length": func(p *packet) { *p = icmpv6(p.src, p.dst, []byte{133, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0}) },
		"an option cut off":        func(p *packet) { *p = icmpv6(p.src, p.dst, []byte{133, 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 0}) },
		"half an option":           func(p *packet) { *p = icmpv6(p.src, p.dst, []byte{133, 0, 0, 0, 0, 0, 0, 0, 1}) },
		"too short":                func(p *packet) { *p = icmpv6(p.src, p.dst, []byte{133, 0, 0, 0, 0, 0, 0}) },
		"from a group":             func(p *packet) { *p = solicitation(t, &ndp.RouterSolicitation{}, allNodes, p.dst) },
		"to another node":          func(p *packet) { *p = solicitation(t, &ndp.RouterSolicitation{}, p.src, guest6) },
		"a MAC without an address": func(p *packet) {
			*p = solicitation(t, &ndp.RouterSolicitation{Options: slla()}, netip.IPv6Unspecified(), p.dst)
		},
	}
	for name, change := range bad {
		p := solicitation(t, &ndp.RouterSolicitation{Options: slla()}, guest6, allRouters)
		next := s.schedule.next
		change(&p)
		if a := s.handle(p.frame(all, guestMAC)); a.frame != nil || s.schedule.next != next {
			t.Errorf("%s: answer %q", name, a.kind)
		}
	}
}
