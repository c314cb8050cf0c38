package network

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// podWith is a pod with one link that has these addresses.
func podWith(prefixes ...string) Pod {
	l := Link{Name: "eth0"}
	for _, p := range prefixes {
		prefix := netip.MustParsePrefix(p)
		l.Addresses = append(l.Addresses, Address{Prefix: prefix, LinkLocal: prefix.Addr().Is6() && prefix.Addr().IsLinkLocalUnicast()})
	}
	return Pod{Links: []Link{l}}
}

func TestHasIPv6(t *testing.T) {
	for addr, want := range map[string]bool{"10.0.0.1/8": false, "fe80::1/64": false, "2001:db8::1/64": true, "fd00::1/128": true} {
		if got := podWith("10.1.0.1/16", addr).hasIPv6(); got != want {
			t.Errorf("%s: %v", addr, got)
		}
	}
	if (Pod{}).hasIPv6() {
		t.Error("a pod without an interface has IPv6")
	}
}

func TestUserPlanIPv6(t *testing.T) {
	everywhere := Forward{Proto: "tcp", HostPort: 2222, GuestPort: 22}
	four := Forward{Proto: "udp", HostIP: netip.MustParseAddr("0.0.0.0"), HostPort: 53, GuestPort: 53}
	six := Forward{Proto: "tcp", HostIP: netip.IPv6Loopback(), HostPort: 80, GuestPort: 8080}
	sixToo := Forward{Proto: "udp", HostIP: netip.IPv6Loopback(), HostPort: 5353, GuestPort: 53} // where four leads
	alsoSix := everywhere
	alsoSix.HostIP = netip.IPv6Unspecified()
	tests := []struct {
		name         string
		ipv6         bool
		unsupervised bool
		qemu         []Forward
		relays       []Relay
		warnings     int
		lines        []string
	}{
		{"without IPv6 in the pod", false, false, []Forward{everywhere, four},
			[]Relay{{six, netip.AddrPort{}}, {sixToo, netip.MustParseAddrPort("127.0.0.1:53")}}, 0,
			[]string{"tcp *:2222 → guest:22", "udp 0.0.0.0:53 → guest:53", "tcp [::1]:80 → guest:8080, relayed by vmentry", "udp [::1]:5353 → guest:53, relayed by vmentry"}},
		{"with", true, false, []Forward{everywhere, four},
			[]Relay{{alsoSix, netip.MustParseAddrPort("127.0.0.1:2222")}, {six, netip.AddrPort{}}, {sixToo, netip.MustParseAddrPort("127.0.0.1:53")}}, 0,
			[]string{"tcp *:2222 → guest:22", "udp 0.0.0.0:53 → guest:53", "tcp [::]:2222 → guest:22, relayed by vmentry",
				"tcp [::1]:80 → guest:8080, relayed by vmentry", "udp [::1]:5353 → guest:53, relayed by vmentry"}},
		{"without vmentry", true, true, []Forward{everywhere, four}, nil, 2, []string{"tcp *:2222 → guest:22", "udp 0.0.0.0:53 → guest:53",
			"warning: the guest can reach what listens on the pod's loopback, and link-local addresses: with VM_SUPERVISE=false nobody says where QEMU connects to",
			"warning: the ports of HOSTFWD can be reached by IPv4 alone: with VM_SUPERVISE=false nobody relays IPv6"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			pod := podWith("10.0.0.1/24", "fe80::1/64")
			if tt.ipv6 {
				pod = podWith("10.0.0.1/24", "fd00::1/64")
			}
			p, err := MakePlan(Input{Mode: User, NICModel: "virtio", Pod: pod, Unsupervised: tt.unsupervised, Forwards: []Forward{everywhere, four, six, sixToo}})
			if err != nil {
				t.Fatal(err)
			}
			comparable := cmpopts.EquateComparable(netip.Addr{}, netip.AddrPort{})
			if diff := cmp.Diff(tt.qemu, p.NICs[0].Forwards, comparable); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.relays, p.Relays, comparable); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.lines, p.Lines()[1:]); diff != "" {
				t.Error(diff)
			}
			if p.NICs[0].IPv4Only == tt.ipv6 || len(p.Warnings) != tt.warnings {
				t.Errorf("IPv4 only: %v; warnings: %q", p.NICs[0].IPv4Only, p.Warnings)
			}
		})
	}
}
