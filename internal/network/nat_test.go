package network

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// via is the link with one more route, on the link itself without a gateway.
func (l Link) via(dst, gateway string) Link {
	r := Route{Dst: netip.MustParsePrefix(dst)}
	if gateway != "" {
		r.Via = netip.MustParseAddr(gateway)
	}
	l.Routes = append(l.Routes, r)
	return l
}

// withMTU is the link whose routes carry less than itself.
func (l Link) withMTU(mtu int) Link {
	for i := range l.Routes {
		l.Routes[i].MTU = mtu
	}
	return l
}

func natInput(links ...Link) Input {
	return Input{Mode: NAT, HostName: "vm", Identity: "mine", NICModel: "virtio", CPUs: 2, DHCP: true, AllPorts: true,
		Pod: Pod{Links: links, Resolver: Resolver{Servers: servers("10.96.0.10"), Search: []string{"svc"}}}}
}

// dual is a pod of both families.
func dual() Link {
	return eth0([]string{"10.244.1.7/24", "2001:db8:1::7/64"}).via("0.0.0.0/0", "10.244.1.1").via("::/0", "fe80::1")
}

// addressesEqual compares them by their value.
var addressesEqual = cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})

func TestNATPlan(t *testing.T) {
	in := natInput(dual())
	in.Pod.IPv6, in.Pod.Forwards6 = true, true
	in.Pod.Resolver.Servers = servers("10.96.0.10", "2001:db8::53")
	in.OwnPorts = []uint16{8080}
	in.Services = servers("10.96.0.1")
	got, err := MakePlan(in)
	if err != nil {
		t.Fatal(err)
	}
	mac := MAC("mine")
	ula := localNetwork("mine")
	guest6, gateway6 := hostOf(ula, 15), hostOf(ula, 2)
	tap := Tap{Name: "vm-tap0", MAC: madeMAC("tap", mac), Queues: 2}
	want := Plan{
		Mode: NAT,
		NICs: []NIC{{Model: "virtio", MAC: mac, HostName: "vm", MTU: 1500, Tap: &tap}},
		Bridges: []BridgePlan{{
			Name: "vm-br0", MAC: madeMAC("bridge", mac), MTU: 1500, Guest: mac, Tap: tap,
			Reach: Reach{V4: netip.MustParseAddr("10.0.2.2"), V6: gateway6, Guest: []netip.Addr{guest6, netip.MustParseAddr("10.0.2.15")}},
			Service: &Service{Name: "vm-dhcp0", MAC: madeMAC("service", mac), V4: netip.MustParseAddr("10.0.2.3"), Lease: Lease{
				HostName: "vm", MTU: 1500, Search: []string{"svc"},
				V4: &Lease4{Address: netip.MustParsePrefix("10.0.2.15/24"), Router: netip.MustParseAddr("10.0.2.2"), DNS: servers("10.96.0.10")},
				V6: &Lease6{Addresses: []netip.Addr{guest6}, Router: LinkLocal(madeMAC("bridge", mac)), OnLink: []netip.Prefix{ula}, DNS: servers("2001:db8::53")},
			}},
		}},
		NAT: &NATPlan{Uplinks: []string{"eth0"}, Networks: []netip.Prefix{netip.MustParsePrefix("10.0.2.0/24"), ula}, AllPorts: true, OwnPorts: []uint16{8080}},
	}
	if diff := cmp.Diff(want, got, addressesEqual); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if !ula.Addr().IsPrivate() || ula == localNetwork("other") {
		t.Errorf("%s is not a network of this pod alone", ula)
	}
	lines := []string{
		"nat: one virtio card, " + mac.String(),
		"bridge vm-br0 has the guest's vm-tap0 (MTU 1500, queues 2)",
		"the guest hears the host name vm, MTU 1500, search domains svc",
		"the guest gets 10.0.2.15/24, router 10.0.2.2, DNS 10.96.0.10",
		"the guest gets " + guest6.String() + ", router " + LinkLocal(madeMAC("bridge", mac)).String() + ", on the link " + ula.String() + ", DNS 2001:db8::53",
		"the pod reaches the guest from 10.0.2.2, " + gateway6.String(),
		"every TCP and UDP port of eth0 leads to the guest, but TCP 8080",
		"the guest goes out by eth0 with the pod's addresses, and not to those of clouds' metadata",
	}
	if diff := cmp.Diff(lines, got.Lines()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestNATNetwork(t *testing.T) {
	docker := eth0([]string{"172.17.0.2/16"}).via("0.0.0.0/0", "172.17.0.1").via("172.17.0.0/16", "")
	tests := []struct {
		name     string
		link     Link
		servers  []netip.Addr
		services []netip.Addr
		want     string
	}{
		{"docker", docker, nil, nil, "10.0.2.0/24"},
		{"its resolver", docker, servers("127.0.0.11"), nil, "10.0.2.0/24"},
		{"kubeadm and flannel", eth0([]string{"10.244.1.7/24"}).via("0.0.0.0/0", "10.244.1.1").via("10.244.0.0/16", "10.244.1.1"), servers("10.96.0.10"), servers("10.96.0.1"), "10.0.2.0/24"},
		{"Calico", eth0([]string{"192.168.202.7/32"}).via("0.0.0.0/0", "169.254.1.1").via("169.254.1.1/32", ""), servers("10.96.0.10"), servers("10.96.0.1"), "10.0.2.0/24"},
		{"Cilium's other nodes are not seen", eth0([]string{"10.0.1.5/32"}).via("0.0.0.0/0", "10.0.1.3"), servers("10.96.0.10"), nil, "172.31.202.0/24"},
		{"a VM's user network", eth0([]string{"10.0.2.100/24"}).via("0.0.0.0/0", "10.0.2.2"), servers("10.0.2.3"), nil, "172.31.202.0/24"},
		{"services at the start of 10", docker, nil, servers("10.0.0.1"), "192.168.202.0/24"},
		{"only a gateway is there", eth0([]string{"203.0.113.7/32"}).via("0.0.0.0/0", "10.0.0.1"), nil, nil, "172.31.202.0/24"},
		{"only a DNS server is there", docker, servers("10.0.0.2"), nil, "192.168.202.0/24"},
		{"a route to all of 10", docker.via("10.0.0.0/8", "172.17.0.1"), nil, nil, "192.168.202.0/24"},
		{"routes to all private networks", docker.via("10.0.0.0/8", "172.17.0.1").via("192.168.0.0/16", "172.17.0.1"), nil, nil, "198.18.202.0/24"},
		{"no network is free", docker.via("10.0.0.0/8", "172.17.0.1").via("192.168.0.0/16", "172.17.0.1").via("198.18.0.0/15", "172.17.0.1"), nil, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := natInput(tt.link)
			in.Pod.Resolver.Servers, in.Services = tt.servers, tt.services
			plan, err := MakePlan(in)
			got := ""
			if err == nil {
				got = plan.NAT.Networks[0].String()
			}
			if got != tt.want {
				t.Errorf("%q (%v), want %q", got, err, tt.want)
			}
		})
	}
}

func TestNATNameServers(t *testing.T) {
	tests := []struct {
		name      string
		servers   string
		six, dhcp bool
		dns4      []netip.Addr
		dns6      []netip.Addr
		forwarder string
		resolvers []netip.Addr
	}{
		{"the cluster's", "10.96.0.10", false, true, servers("10.96.0.10"), nil, "", nil},
		{"Docker's own", "127.0.0.11", false, true, servers("10.0.2.2"), nil, "10.0.2.2", servers("127.0.0.11")},
		{"the node's cache", "169.254.20.10", false, true, servers("10.0.2.2"), nil, "10.0.2.2", nil},
		{"Azure's", "168.63.129.16", false, true, servers("10.0.2.2"), nil, "10.0.2.2", nil},
		{"in the pod", "10.244.1.7 10.96.0.10", false, true, servers("10.0.2.2", "10.96.0.10"), nil, "10.0.2.2", servers("10.244.1.7")},
		{"of the family that the guest has not", "2001:db8::53", false, true, servers("10.0.2.2"), nil, "10.0.2.2", nil},
		{"of both families", "2001:db8::53 10.96.0.10", true, true, servers("10.96.0.10"), servers("2001:db8::53"), "", nil},
		{"none", "", false, true, nil, nil, "", nil},
		{"nobody tells the guest", "127.0.0.11", false, false, nil, nil, "", servers("127.0.0.11")},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := natInput(dual())
			in.DHCP = tt.dhcp
			in.Pod.IPv6, in.Pod.Forwards6 = tt.six, tt.six
			in.Pod.Resolver.Servers = servers(strings.Fields(tt.servers)...)
			plan, err := MakePlan(in)
			if err != nil {
				t.Fatal(err)
			}
			b := plan.Bridges[0]
			at := ""
			if b.DNS != nil {
				at = b.DNS.At.String()
			}
			if at != tt.forwarder {
				t.Errorf("DNS is forwarded at %q, want %q", at, tt.forwarder)
			}
			for _, s := range plan.NAT.Resolvers {
				if said := strings.Join(plan.Lines(), "\n"); !s.IsLoopback() && !strings.Contains(said, "but port 53 of "+s.String()) {
					t.Errorf("that %s keeps its port is not said:\n%s", s, said)
				}
			}
			if b.DNS != nil && len(b.DNS.Servers) == 0 {
				t.Error("DNS is forwarded to nobody")
			}
			if diff := cmp.Diff(tt.resolvers, plan.NAT.Resolvers, addressesEqual); diff != "" {
				t.Error(diff)
			}
			if b.Service == nil {
				if tt.dhcp {
					t.Error("the guest is told nothing")
				}
				return
			}
			var dns6 []netip.Addr
			if v6 := b.Service.Lease.V6; v6 != nil {
				dns6 = v6.DNS
			}
			if diff := cmp.Diff([][]netip.Addr{tt.dns4, tt.dns6}, [][]netip.Addr{b.Service.Lease.V4.DNS, dns6}, addressesEqual); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestNATChoices: what depends on the pod and on the user, and what is said about it.
func TestNATChoices(t *testing.T) {
	net1 := eth0([]string{"10.9.0.7/24"})
	net1.Name, net1.MTU = "net1", 1400
	out := net1.via("0.0.0.0/0", "10.9.0.1")
	six := eth0([]string{"2001:db8:1::7/64"}).via("::/0", "fe80::1")
	tests := []struct {
		name    string
		links   []Link
		change  func(*Input)
		uplinks []string
		mtu     int
		want    string // a part of the warning or of the mistake; none: neither
	}{
		{"the first", []Link{net1, dual()}, nil, []string{"eth0"}, 1500, ""},
		{"a choice", []Link{net1, dual()}, func(in *Input) { in.Interfaces = []string{"eth0", "net1"} }, []string{"eth0", "net1"}, 1400, ""},
		{"the way out is another's", []Link{eth0([]string{"10.244.1.7/24"}), out}, nil, []string{"eth0"}, 1500, "leads out by net1"},
		{"no way out", []Link{eth0([]string{"10.244.1.7/24"})}, nil, []string{"eth0"}, 1500, "no default route of IPv4"},
		{"a smaller route", []Link{dual().withMTU(1300)}, nil, []string{"eth0"}, 1300, ""},
		{"IPv6 that is not forwarded", []Link{dual()}, func(in *Input) { in.Pod.IPv6 = true }, []string{"eth0"}, 1500, "net.ipv6.conf.all.forwarding=1"},
		{"IPv6 that does not fit", []Link{func() Link { l := dual(); l.MTU = 1200; return l }()}, func(in *Input) { in.Pod.IPv6, in.Pod.Forwards6 = true, true }, []string{"eth0"}, 1200, "too few for IPv6"},
		{"IPv6 alone", []Link{six}, func(in *Input) { in.Pod.IPv6, in.Pod.Forwards6 = true, true }, []string{"eth0"}, 1500, ""},
		{"bad IPv6 alone, not forwarded", []Link{six}, func(in *Input) { in.Pod.IPv6 = true }, nil, 0, "net.ipv6.conf.all.forwarding=1"},
		{"bad no address", []Link{eth0(nil)}, nil, nil, 0, "eth0 has no address"},
		{"bad no interface", nil, nil, nil, 0, "no interface but lo"},
		{"bad choice", []Link{dual()}, func(in *Input) { in.Interfaces = []string{"eth1"} }, nil, 0, "no interface eth1; it has eth0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := natInput(tt.links...)
			if tt.change != nil {
				tt.change(&in)
			}
			plan, err := MakePlan(in)
			if tt.uplinks == nil {
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("the mistake is %v, want %q", err, tt.want)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.uplinks, plan.NAT.Uplinks); diff != "" {
				t.Error(diff)
			}
			if got := plan.NICs[0].MTU; got != tt.mtu {
				t.Errorf("MTU %d, want %d", got, tt.mtu)
			}
			said := strings.Join(plan.Warnings, "\n")
			if tt.want == "" && said != "" || !strings.Contains(said, tt.want) || len(plan.Warnings) > 1 {
				t.Errorf("the warnings are %q, want %q", said, tt.want)
			}
		})
	}
}

// TestNATMAC: the user's, and all else made from it.
func TestNATMAC(t *testing.T) {
	in := natInput(dual())
	in.MAC = net.HardwareAddr{2, 1, 2, 3, 4, 5}
	plan, err := MakePlan(in)
	if err != nil {
		t.Fatal(err)
	}
	if got := plan.NICs[0].MAC.String(); got != in.MAC.String() || plan.Bridges[0].Guest.String() != got || plan.Bridges[0].MAC.String() == got {
		t.Errorf("the guest's MAC is %s and the bridge's %s", got, plan.Bridges[0].MAC)
	}
}

func TestNATForwardMistakes(t *testing.T) {
	tests := []struct {
		name string
		f    Forward
		six  bool
		want string // a part of the mistake; none: it is right
	}{
		{"OK", Forward{Proto: "tcp", HostPort: 2222, GuestPort: 22}, false, ""},
		{"OK the pod's address", Forward{Proto: "tcp", HostIP: netip.MustParseAddr("10.244.1.7"), HostPort: 2222, GuestPort: 22}, false, ""},
		{"OK loopback", Forward{Proto: "udp", HostIP: netip.MustParseAddr("127.0.0.5"), HostPort: 2222, GuestPort: 22}, false, ""},
		{"OK the guest as user mode has it", Forward{Proto: "tcp", HostPort: 2222, GuestIP: netip.MustParseAddr("10.0.2.15"), GuestPort: 22}, false, ""},
		{"OK another host of the guest's", Forward{Proto: "tcp", HostPort: 2222, GuestIP: netip.MustParseAddr("10.0.2.99"), GuestPort: 22}, false, ""},
		{"OK IPv6", Forward{Proto: "tcp", HostIP: netip.IPv6Unspecified(), HostPort: 2222, GuestPort: 22}, true, ""},
		{"OK vmentry's port by UDP", Forward{Proto: "udp", HostPort: 8080, GuestPort: 22}, false, ""},
		{"bad vmentry's port", Forward{Proto: "tcp", HostPort: 8080, GuestPort: 22}, false, "VM_HTTP"},
		{"bad address of the pod", Forward{Proto: "tcp", HostIP: netip.MustParseAddr("10.244.1.8"), HostPort: 2222, GuestPort: 22}, false, "no such address"},
		{"bad address of the guest", Forward{Proto: "tcp", HostPort: 2222, GuestIP: netip.MustParseAddr("10.7.0.1"), GuestPort: 22}, false, "the guest's network is 10.0.2.0/24"},
		{"bad IPv6", Forward{Proto: "tcp", HostIP: netip.IPv6Unspecified(), HostPort: 2222, GuestPort: 22}, false, "net.ipv6.conf.all.forwarding=1"},
		{"bad IPv6 loopback", Forward{Proto: "tcp", HostIP: netip.IPv6Loopback(), HostPort: 2222, GuestPort: 22}, true, "write 127.0.0.1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			in := natInput(dual())
			in.Pod.IPv6, in.Pod.Forwards6 = tt.six, tt.six
			in.AllPorts, in.OwnPorts, in.Forwards = false, []uint16{8080}, []Forward{tt.f}
			_, err := MakePlan(in)
			switch {
			case tt.want == "" && err != nil:
				t.Error(err)
			case tt.want != "" && (err == nil || !strings.HasPrefix(err.Error(), "HOSTFWD=") || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("the mistake is %v, want %q", err, tt.want)
			}
		})
	}
}
