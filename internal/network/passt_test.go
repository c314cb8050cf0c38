package network

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestPasstPlan(t *testing.T) {
	pod := podWith("10.0.0.5/24", "fd00::5/64")
	always := []string{"--foreground", "--quiet", "--no-map-gw", "--one-off", "--socket", "/run/vm/passt.sock", "--pid", "/run/vm/passt.pid"}
	web := Forward{Proto: "tcp", HostPort: 8080, GuestPort: 80}
	dns := Forward{Proto: "udp", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 5353, GuestPort: 53}
	ssh := Forward{Proto: "tcp", HostIP: netip.MustParseAddr("fd00::5"), HostPort: 2222, GuestPort: 22}
	tests := []struct {
		name  string
		in    Input
		args  []string // after those of always
		lines []string
	}{
		{"every port", Input{NICModel: "virtio", AllPorts: true, Passt: PasstProgram{HostName: true}}, []string{"--mtu", "65520", "--tcp-ports", "all", "--udp-ports", "all"},
			[]string{"every port of the pod that passt can have leads to the same port of the guest"}},
		{"every port but vmentry's own", Input{NICModel: "virtio", AllPorts: true, OwnPorts: []uint16{8080}, Passt: PasstProgram{HostName: true}}, []string{"--mtu", "65520", "--tcp-ports", "~8080", "--udp-ports", "all"},
			[]string{"every port of the pod that passt can have leads to the same port of the guest"}},
		{"no port", Input{NICModel: "virtio", Passt: PasstProgram{HostName: true}}, []string{"--mtu", "65520", "--tcp-ports", "none", "--udp-ports", "none"}, []string{"no port of the pod leads to the guest"}},
		{"some ports, as root, with a host name", Input{NICModel: "e1000", Forwards: []Forward{web, dns, ssh}, Root: true, HostName: "vm", Passt: PasstProgram{HostName: true}},
			[]string{"--runas", "0:0", "--mtu", "1500", "--hostname", "vm", "--tcp-ports", "8080:80", "--tcp-ports", "fd00::5/2222:22", "--udp-ports", "127.0.0.1/5353:53"},
			[]string{"tcp *:8080 → guest:80", "udp 127.0.0.1:5353 → guest:53", "tcp [fd00::5]:2222 → guest:22"}},
		{"a passt that knows no host names", Input{NICModel: "virtio", AllPorts: true, HostName: "vm"}, []string{"--mtu", "65520", "--tcp-ports", "all", "--udp-ports", "all"},
			[]string{"every port of the pod that passt can have leads to the same port of the guest",
				"warning: /usr/bin/passt is older than 2025: with Debian 12's, connections to a service of the guest that speaks first do not come about"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			tt.in.Mode, tt.in.RunDir, tt.in.Pod, tt.in.Passt.Path, tt.in.Identity = Passt, "/run/vm", pod, "/usr/bin/passt", "mine"
			p, err := MakePlan(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(append(always[:len(always):len(always)], tt.args...), p.Helper.Args); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.lines, p.Lines()[1:]); diff != "" {
				t.Error(diff)
			}
			if p.NICs[0].Socket != p.Helper.Socket || p.NICs[0].MAC.String() != MAC("mine").String() {
				t.Errorf("the card is %+v", p.NICs[0])
			}
			shell := strings.Join(p.Helper.Unsupervised(), " ")
			if !strings.HasPrefix(shell, "/usr/bin/passt --quiet --no-map-gw --one-off --socket /run/vm/passt.sock --") || strings.Contains(shell, "pid") {
				t.Errorf("in a shell: %s", shell)
			}
		})
	}
}

func TestPasstMistakes(t *testing.T) {
	tests := []struct {
		name     string
		forwards []Forward
		says     string
	}{
		{"bad port twice", []Forward{
			{Proto: "tcp", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 80, GuestPort: 80},
			{Proto: "tcp", HostIP: netip.IPv6Loopback(), HostPort: 80, GuestPort: 81},
		}, "passt has a port once"},
		{"bad guest's address", []Forward{{Proto: "tcp", HostPort: 80, GuestIP: netip.MustParseAddr("10.0.2.15"), GuestPort: 80}}, "leave out the guest's"},
		{"OK TCP and UDP", []Forward{{Proto: "tcp", HostPort: 53, GuestPort: 53}, {Proto: "udp", HostPort: 53, GuestPort: 53}}, ""},
	}
	for _, tt := range tests {
		_, err := MakePlan(Input{Mode: Passt, Forwards: tt.forwards})
		if tt.says == "" {
			if err != nil {
				t.Errorf("%s: %v", tt.name, err)
			}
			continue
		}
		if m := new(Mistake); !errors.As(err, &m) || m.Variable != "HOSTFWD" || !strings.Contains(m.Problem, tt.says) {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

func TestThrough(t *testing.T) {
	at := netip.MustParseAddrPort
	tcp := func(host string, port uint16) Forward {
		f := Forward{Proto: "tcp", HostPort: port, GuestPort: 22}
		if host != "" {
			f.HostIP = netip.MustParseAddr(host)
		}
		return f
	}
	tests := []struct {
		name string
		pod  Pod
		in   Input
		want netip.AddrPort
	}{
		{"every port", podWith("10.0.0.5/24"), Input{AllPorts: true}, at("127.0.0.1:22")},
		{"every port, IPv6 only", podWith("fd00::5/64"), Input{AllPorts: true}, at("[::1]:22")},
		{"on all addresses", podWith("10.0.0.5/24"), Input{Forwards: []Forward{tcp("", 2222)}}, at("127.0.0.1:2222")},
		{"on all of IPv4", podWith("fd00::5/64"), Input{Forwards: []Forward{tcp("0.0.0.0", 2222)}}, at("127.0.0.1:2222")},
		{"on all of IPv6", podWith("10.0.0.5/24"), Input{Forwards: []Forward{tcp("::", 2222)}}, at("[::1]:2222")},
		{"on one address", podWith("10.0.0.5/24"), Input{Forwards: []Forward{tcp("10.0.0.5", 2222)}}, at("10.0.0.5:2222")},
		{"UDP alone", podWith("10.0.0.5/24"), Input{Forwards: []Forward{{Proto: "udp", HostPort: 22, GuestPort: 22}}}, netip.AddrPort{}},
		{"another port", podWith("10.0.0.5/24"), Input{Forwards: []Forward{{Proto: "tcp", HostPort: 22, GuestPort: 80}}}, netip.AddrPort{}},
	}
	for _, tt := range tests {
		tt.in.Mode, tt.in.Pod = Passt, tt.pod
		p, err := MakePlan(tt.in)
		if got := p.Through(22); err != nil || got != tt.want {
			t.Errorf("%s: %v, %v; want %v", tt.name, got, err, tt.want)
		}
	}
}
