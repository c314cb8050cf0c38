package network

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

var (
	podMAC     = net.HardwareAddr{2, 0, 0, 0, 0, 5}
	gatewayMAC = net.HardwareAddr{2, 0, 0, 0, 0, 1}
)

// eth0 is a pod's interface with addresses, the routes that the kernel makes for them, and other routes, a route being "DST [VIA]".
func eth0(addresses []string, routes ...[2]string) Link {
	l := Link{Name: "eth0", Kind: "veth", MAC: podMAC, MTU: 1500, Up: true}
	for _, a := range addresses {
		p := netip.MustParsePrefix(a)
		l.Addresses = append(l.Addresses, Address{Prefix: p})
		l.Routes = append(l.Routes, Route{Dst: p.Masked()})
	}
	for _, r := range routes {
		route := Route{Dst: netip.MustParsePrefix(r[0])}
		if r[1] != "" {
			route.Via = netip.MustParseAddr(r[1])
			l.Gateways = append(l.Gateways, Gateway{route.Via, gatewayMAC})
		}
		l.Routes = append(l.Routes, route)
	}
	return l
}

func servers(addresses ...string) (all []netip.Addr) {
	for _, a := range addresses {
		all = append(all, netip.MustParseAddr(a))
	}
	return all
}

func TestBridgePlan(t *testing.T) {
	const (
		card    = "bridge: one virtio card, 02:00:00:00:00:05"
		told    = "the guest hears the host name vm, MTU 1500"
		joins   = "bridge vm-br0 joins eth0, which keeps its name, MAC and addresses, and the guest's vm-tap0 (MTU 1500, queues 1)"
		reaches = "the pod reaches the guest from 169.254.75.1"
		own     = "the guest gets the route 169.254.75.1/32"
		both    = reaches + ", fe80::fc62:77ff:fe3f:8be9"
		out4    = "the pod's own connections leave as 10.7.0.5, through 10.7.0.1"
		no4     = "warning: the pod has no default route of IPv4: the guest goes no further than the pod does"
		no6     = "warning: the pod has no default route of IPv6: the guest goes no further than the pod does"
	)
	base := Input{Mode: Bridge, HostName: "vm", NICModel: "virtio", CPUs: 1, DHCP: true}
	tests := []struct {
		name string
		link Link
		more func(*Input)
		want []string
	}{
		{"a /24 with a second network behind a router", eth0([]string{"10.7.0.5/24"}, [2]string{"0.0.0.0/0", "10.7.0.1"}, [2]string{"10.8.0.0/16", "10.7.0.254"}), nil,
			[]string{card, joins, told, "the guest gets 10.7.0.5/24, router 10.7.0.1", "the guest gets the route 10.8.0.0/16 via 10.7.0.254", reaches, out4}},
		{"a /32 with a router outside of it", eth0([]string{"192.168.77.9/32"}, [2]string{"0.0.0.0/0", "169.254.1.1"}, [2]string{"169.254.1.1/32", ""}), nil,
			[]string{card, joins, told, "the guest gets 192.168.77.9/32, router 169.254.1.1", "the guest gets the route 169.254.1.1/32", reaches, "the pod's own connections leave as 192.168.77.9, through 169.254.1.1"}},
		{"a /24 whose other hosts are behind the router", func() Link {
			l := eth0([]string{"10.7.0.5/24"}, [2]string{"0.0.0.0/0", "10.7.0.1"}, [2]string{"10.7.0.0/24", "10.7.0.1"}, [2]string{"10.7.0.1/32", ""})
			l.Routes = l.Routes[1:]
			return l
		}(), nil,
			[]string{card, joins, told, "the guest gets 10.7.0.5/32, router 10.7.0.1", "the guest gets the route 10.7.0.0/24 via 10.7.0.1", "the guest gets the route 10.7.0.1/32", reaches, out4}},
		{"no default route", eth0([]string{"10.7.0.5/24"}), nil,
			[]string{card, joins, told, "the guest gets 10.7.0.5/24", "the guest gets the route 169.254.75.1/32", reaches, no4}},
		{"vmentry's usual address is taken", eth0([]string{"10.7.0.5/24"}, [2]string{"169.254.75.0/24", ""}), nil,
			[]string{card, joins, told, "the guest gets 10.7.0.5/24", "the guest gets the route 169.254.75.0/24", "the guest gets the route 169.254.76.1/32", "the pod reaches the guest from 169.254.76.1", no4}},
		{"IPv6 alone, with a router of a global address", eth0([]string{"fd07::5/64"}, [2]string{"::/0", "fd07::1"}), nil,
			[]string{card, joins, told, "the guest gets fd07::5, router fe80::ff:fe00:1, on the link fd07::/64", both, "the pod's own connections leave as fd07::5, through fe80::ff:fe00:1"}},
		{"both, with a router of a link-local address", eth0([]string{"10.7.0.5/24", "fd07::5/128"}, [2]string{"0.0.0.0/0", "10.7.0.1"}, [2]string{"::/0", "fe80::1"}, [2]string{"fd08::/48", "fe80::1"}), nil,
			[]string{card, joins, told, "the guest gets 10.7.0.5/24, router 10.7.0.1", "the guest gets fd07::5, router fe80::1, routes fd08::/48", both, out4, "the pod's own connections leave as fd07::5, through fe80::1"}},
		{"IPv6 on this interface alone", eth0([]string{"10.7.0.5/24", "fd07::5/64"}), func(in *Input) { in.Pod.IPv6 = false },
			[]string{card, joins, told, "the guest gets 10.7.0.5/24", own, "the guest gets fd07::5, on the link fd07::/64", reaches, no4, no6}},
		{"IPv6 alone, on this interface alone, and Docker's resolver", eth0([]string{"fd07::5/64"}), func(in *Input) { in.Pod.IPv6, in.Pod.Resolver.Servers = false, servers("127.0.0.11", "::1") },
			[]string{card, joins, told, "the guest gets fd07::5, on the link fd07::/64", reaches,
				"warning: the guest cannot ask the DNS servers on the pod's loopback: it has IPv6 alone, which is off for interfaces that are made here, so that vmentry cannot forward (docker run --sysctl net.ipv6.conf.default.disable_ipv6=0)", no6}},
		{"routes to all link-local addresses, and to some", eth0([]string{"10.7.0.5/24"}, [2]string{"169.254.0.0/16", ""}, [2]string{"169.254.75.1/32", ""}), nil,
			[]string{card, joins, told, "the guest gets 10.7.0.5/24", "the guest gets the route 169.254.0.0/16", "the guest gets the route 169.254.75.1/32",
				"the guest gets the route 169.254.76.1/32", "the pod reaches the guest from 169.254.76.1", no4}},
		{"an IPv4 route of a smaller MTU than IPv6's least", func() Link {
			l := eth0([]string{"10.7.0.5/24", "fd07::5/64"}, [2]string{"0.0.0.0/0", "10.7.0.1"})
			l.Routes[len(l.Routes)-1].MTU = 1200
			return l
		}(), nil,
			[]string{card, joins, "the guest hears the host name vm, MTU 1280", "the guest gets 10.7.0.5/24, router 10.7.0.1", "the guest gets fd07::5, on the link fd07::/64", both, out4, no6}},
		{"an IPv6 router that is silent, and a route through it", func() Link {
			l := eth0([]string{"fd07::5/64"}, [2]string{"::/0", "fd07::1"}, [2]string{"fd08::/48", "fd07::1"})
			l.Gateways = nil
			return l
		}(), nil,
			[]string{card, joins, told, "the guest gets fd07::5, on the link fd07::/64", both,
				"warning: the router of eth0, fd07::1, does not say its MAC: the guest gets no IPv6 default route",
				"warning: the route to fd08::/48 through fd07::1 cannot be given to the guest: router advertisements speak for its default router alone"}},
		{"an IPv6 default route without a router", eth0([]string{"fd07::5/64"}, [2]string{"::/0", ""}), nil,
			[]string{card, joins, told, "the guest gets fd07::5, on the link fd07::/64", both,
				"warning: eth0 has an IPv6 default route without a router, which a router advertisement cannot say: the guest gets none"}},
		{"a resolver on this link, and one on another", eth0([]string{"fd07::5/64"}), func(in *Input) { in.Pod.Resolver.Servers = servers("fe80::53%eth0", "fe80::53%net1") },
			[]string{card, joins, told, "the guest gets fd07::5, on the link fd07::/64, DNS fe80::53", both, no6}},
		{"more than a tap carries", eth0([]string{"10.7.0.5/24"}), func(in *Input) { in.Pod.Links[0].MTU = 65535 },
			[]string{card, "bridge vm-br0 joins eth0, which keeps its name, MAC and addresses, and the guest's vm-tap0 (MTU 65521, queues 1)", "the guest hears the host name vm, MTU 65521", "the guest gets 10.7.0.5/24", own, reaches, no4}},
		{"down", eth0([]string{"10.7.0.5/24"}), func(in *Input) { in.Pod.Links[0].Up = false },
			[]string{card, joins, told, "the guest gets 10.7.0.5/24", own, reaches,
				"warning: eth0 is down: what routes it has when it is up is not known, and the guest is not told them"}},
		{"too small for IPv6", eth0([]string{"10.7.0.5/24", "fd07::5/64"}), func(in *Input) { in.Pod.Links[0].MTU = 576 },
			[]string{card, "bridge vm-br0 joins eth0, which keeps its name, MAC and addresses, and the guest's vm-tap0 (MTU 576, queues 1)", "the guest hears the host name vm, MTU 576", "the guest gets 10.7.0.5/24", own, reaches,
				"warning: eth0 carries frames of 576 bytes, too few for IPv6 (1280): the guest gets no IPv6", no4}},
		{"an address that another host has", Link{Name: "eth0", MAC: podMAC, MTU: 1500, Up: true, Addresses: []Address{{Prefix: netip.MustParsePrefix("fd07::5/64"), Unusable: true}}}, nil,
			[]string{card, joins, "nothing is said to the guest: layer 2 alone", "warning: eth0 has no address: the guest gets the wire and nothing else, as with VM_DHCP=false"}},
		{"a temporary address beside one that lasts", func() Link {
			l := eth0([]string{"fd07::a1b2/64", "fd07::5/64"})
			l.Addresses[0].Temporary, l.Routes = true, l.Routes[1:]
			return l
		}(), nil,
			[]string{card, joins, told, "the guest gets fd07::5, on the link fd07::/64", both, no6}},
		{"no address", eth0(nil), nil,
			[]string{card, joins, "nothing is said to the guest: layer 2 alone", "warning: eth0 has no address: the guest gets the wire and nothing else, as with VM_DHCP=false"}},
		{"VM_DHCP=false", eth0([]string{"10.7.0.5/24"}), func(in *Input) { in.DHCP = false },
			[]string{card, joins, "nothing is said to the guest: layer 2 alone", reaches}},
		{"two addresses", eth0([]string{"10.7.0.5/24", "10.9.0.5/16"}), nil,
			[]string{card, joins, told, "the guest gets 10.7.0.5/24", "the guest gets the route 10.9.0.0/16", own, reaches,
				"warning: eth0 has a second address, 10.9.0.5/16: DHCP carries one (10.7.0.5/24). Guests with cloud-init are told both, others need files of their own", no4}},
		{"Docker's resolver", eth0([]string{"10.7.0.5/24"}, [2]string{"0.0.0.0/0", "10.7.0.1"}), func(in *Input) { in.Pod.Resolver.Servers = servers("127.0.0.11") },
			[]string{card, joins, told, "the guest gets 10.7.0.5/24, router 10.7.0.1, DNS 169.254.75.1", "the guest gets the route 169.254.75.1/32",
				"vmentry forwards DNS from 169.254.75.1 to 127.0.0.11", reaches, out4}},
		{"the node's resolver at a link-local address", eth0([]string{"10.7.0.5/24"}, [2]string{"0.0.0.0/0", "10.7.0.1"}), func(in *Input) { in.Pod.Resolver.Servers = servers("169.254.20.10", "fd00::53") },
			[]string{card, joins, told, "the guest gets 10.7.0.5/24, router 10.7.0.1, DNS 169.254.20.10", "the guest gets the route 169.254.20.10/32 via 10.7.0.1", reaches, out4}},
		{"a MAC of the user's, several CPUs, vhost-net", eth0([]string{"10.7.0.5/24"}), func(in *Input) {
			in.MAC, in.CPUs, in.Pod.Vhost = net.HardwareAddr{2, 1, 1, 1, 1, 1}, 64, true
		}, []string{"bridge: one virtio card, 02:01:01:01:01:01", "bridge vm-br0 joins eth0, which keeps its name, MAC and addresses, and the guest's vm-tap0 (MTU 1500, queues 8, vhost-net)", told, "the guest gets 10.7.0.5/24", own, reaches,
			"warning: VM_MAC=02:01:01:01:01:01 is not the MAC that the cluster gave eth0 (02:00:00:00:00:05): networks that check it (Cilium, Calico, clouds) drop the guest's frames", no4}},
		{"the way out is by an interface that the guest does not get", eth0([]string{"10.7.0.5/24"}), func(in *Input) {
			net1 := eth0([]string{"10.9.0.5/24"}, [2]string{"0.0.0.0/0", "10.9.0.1"})
			net1.Name = "net1"
			in.Pod.Links, in.Interfaces = append(in.Pod.Links, net1), []string{"eth0"}
		}, []string{card, joins, told, "the guest gets 10.7.0.5/24", own, reaches,
			"warning: the pod's default route of IPv4 leads out by net1, where the guest may not go: add it to VM_INTERFACES"}},
		{"what was learned from a router advertisement", func() Link {
			l := eth0([]string{"fd07::5/64"}, [2]string{"::/0", "fe80::1"})
			l.Addresses[0].Expires, l.Routes[1].Advertised = true, true
			return l
		}(), nil,
			[]string{card, joins, told, "the guest gets fd07::5, router fe80::1, on the link fd07::/64", both, "the pod's own connections leave as fd07::5, through fe80::1",
				"eth0's address fd07::5/64, which would run out, becomes permanent", "eth0's route to ::/0, which would run out, becomes permanent"}},
		{"after a crash", eth0([]string{"10.7.0.5/24"}), func(in *Input) { in.Pod.Links[0].Bridge = "vm-br0" },
			[]string{"what an earlier start has made of the pod's network is undone first", card, joins, told, "the guest gets 10.7.0.5/24", own, reaches, no4}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := base
			in.Pod = Pod{IPv6: true, Links: []Link{tt.link}}
			if tt.more != nil {
				tt.more(&in)
			}
			plan, err := MakePlan(in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, plan.Lines()); diff != "" {
				t.Error(diff)
			}
			for _, b := range plan.Bridges {
				if s := b.Service; s != nil && s.Lease.V6 != nil && s.Lease.MTU < minimumMTU6 {
					t.Errorf("the guest is told an MTU of %d, with which it can have no IPv6", s.Lease.MTU)
				}
			}
		})
	}
}

func TestUplinks(t *testing.T) {
	odd := func(change func(*Link)) Link {
		l := Link{Name: "odd0", Kind: "veth", MAC: podMAC, MTU: 1500}
		change(&l)
		return l
	}
	tunnel := odd(func(l *Link) { l.Kind, l.MAC = "wireguard", nil })
	inner := odd(func(l *Link) { l.Kind = "bridge" })
	port := odd(func(l *Link) { l.Master = "docker0" })
	narrow := odd(func(l *Link) { l.MTU = 500 })
	named := func(names ...string) (links []Link) {
		for _, n := range names {
			links = append(links, Link{Name: n, MAC: podMAC, MTU: 1500, Up: !strings.HasSuffix(n, "down")})
		}
		return links
	}
	tests := []struct {
		name   string
		have   []Link
		choice []string
		want   []string
		wrong  string
	}{
		{"all, eth0 first", named("net1", "eth0", "net2"), nil, []string{"eth0", "net1", "net2"}, ""},
		{"all that are up", named("net1down", "net2", "net3"), nil, []string{"net2", "net3"}, ""},
		{"chosen that is down", named("eth0", "net1down"), []string{"net1down"}, []string{"net1down"}, ""},
		{"bad: none is up", named("eth0down"), nil, nil, "VM_NETWORK=bridge: no interface of this container can be a guest's (eth0down stays the pod's: it is down and has no address); write user or none"},
		{"chosen", named("eth0", "net1", "net2"), []string{"net2", "eth0"}, []string{"net2", "eth0"}, ""},
		{"without a tunnel, a bridge, a port of one, and too narrow a one", append(named("eth0"), tunnel, inner, port, narrow), nil, []string{"eth0"}, ""},
		{"bad choice: a tunnel", []Link{tunnel}, []string{"odd0"}, nil, "VM_INTERFACES=odd0: odd0 cannot be the guest's: it has no Ethernet (it is of kind wireguard)"},
		{"bad choice: a port", []Link{port}, []string{"odd0"}, nil, "VM_INTERFACES=odd0: odd0 cannot be the guest's: it is a part of docker0"},
		{"bad pod: too narrow", []Link{narrow}, nil, nil,
			"VM_NETWORK=bridge: no interface of this container can be a guest's (odd0 stays the pod's: it carries frames of 500 bytes, too few for IPv4 (576)); write user or none"},
		{"bad name", named("eth0", "net1"), []string{"eth0", "eth1"}, nil, "VM_INTERFACES=eth0,eth1: the pod has no interface eth1; it has eth0, net1"},
		{"bad pod", nil, nil, nil, "VM_NETWORK=bridge: this container has no interface but lo; give it a network, or write user or none"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			plan, err := MakePlan(Input{Mode: Bridge, NICModel: "virtio", Interfaces: tt.choice, Pod: Pod{Links: tt.have}})
			if tt.wrong != "" {
				if m := new(Mistake); !errors.As(err, &m) || m.Error() != tt.wrong {
					t.Errorf("got %v, want %s", err, tt.wrong)
				}
				return
			}
			var got []string
			for _, b := range plan.Bridges {
				got = append(got, b.Uplink)
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestReadResolver(t *testing.T) {
	path := filepath.Join(t.TempDir(), "resolv.conf")
	text := "search a.example\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver ::ffff:10.0.0.2\nnameserver 0.0.0.0\nnameserver ::\n" +
		"nameserver 224.0.0.1\nnameserver 255.255.255.255\nnameserver dns.example\nnameserver\nsearch b.example. .\n"
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	got, err := readResolver(path)
	if err != nil {
		t.Fatal(err)
	}
	want := Resolver{Servers: servers("10.0.0.1", "fe80::1%eth0", "10.0.0.2", "127.0.0.1", "::1"), Search: []string{"b.example"}}
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}
