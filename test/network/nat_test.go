package network

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vmentry/vmentry/test/pod"
	"github.com/vmentry/vmentry/test/transcript"
)

const nat mode = "nat"

// hidden is a guest that has a network of its own behind the pod's addresses.
type hidden struct {
	*vm
	pod       *pod.Pod
	address   netip.Prefix // the guest's, of IPv4
	six       bool         // it has one of IPv6 as well
	addresses []netip.Addr // those of the pod's first interface by which the guest is to be reached and to be seen
}

// TestNAT: on networks of different kinds, whoever speaks to the pod speaks to the guest, and who is spoken to by the guest sees the pod.
func TestNAT(t *testing.T) {
	tests := []struct {
		shape   string
		address string
		six     bool // the platform lets the pod forward IPv6
	}{
		{"CNI ptp (GKE)", "10.0.2.15/24", false},
		{"CNI macvlan", "10.0.2.15/24", false},
		{"Docker's own network", "10.0.2.15/24", false},
		{"Calico, dual stack", "10.0.2.15/24", true},
		{"Cilium", "172.31.202.15/24", false},
		{"IPv6 only, link-local gateway", "10.0.2.15/24", true},
		{"two interfaces", "10.0.2.15/24", false},
		{"MTU 9000", "10.0.2.15/24", true},
		{"MTU 576", "10.0.2.15/24", false},
		{"NET_ADMIN alone", "10.0.2.15/24", false},
	}
	for _, tt := range tests {
		t.Run(tt.shape, func(t *testing.T) {
			t.Parallel()
			p := pod.New(t, pod.Named(t, tt.shape))
			if tt.six {
				p.Space.Run(t, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
			}
			quiet := listen(t, p)
			c := newContainer(t, p, nat, guestWords+"vmtest.dhcp=dhcpcd", fmt.Sprint("VM_READY=tcp:", readyPort))
			h := &hidden{pod: p, address: netip.MustParsePrefix(tt.address), six: tt.six}
			for _, a := range p.Before.Cards[0].Global() {
				if a.Addr().Is4() || tt.six {
					h.addresses = append(h.addresses, a.Addr())
				}
			}
			h.vm = c.start(t)
			h.awaitReady(t, 1)
			h.configured(t)
			h.speaks(t)
			g := &guest{pod: p, container: c}
			g.probed(t, h.vm)
			h.Signal(t, syscall.SIGKILL)
			h.Exit(t)
			c.forgetRun(t)
			h.vm = c.start(t)
			h.awaitReady(t, 1)
			h.configured(t)
			h.speaks(t)
			g.interfaces(t)
			quiet.nothing(t)
			h.Signal(t, syscall.SIGTERM)
			h.Wants(t, 0)
		})
	}
}

// configured: a client for DHCP, DHCPv6 and router advertisements has learned what there is to learn.
func (h *hidden) configured(t *testing.T) {
	t.Helper()
	gateway := h.address.Masked().Addr().Next().Next()
	h.settled(t, func(s pod.State) []string {
		if len(s.Cards) != 1 {
			return []string{fmt.Sprintf("%d cards", len(s.Cards))}
		}
		var wrong []string
		card, six := s.Cards[0], false
		if mtu := h.pod.Before.MTUTo(h.pod.Before.Cards[0], false); card.MTU != mtu && card.MTU != h.pod.Before.Cards[0].MTU {
			wrong = append(wrong, fmt.Sprintf("MTU %d, want %d", card.MTU, mtu))
		}
		if !slices.ContainsFunc(card.Addresses, func(a pod.Address) bool { return a.Prefix == h.address && len(a.Flags) == 0 }) {
			wrong = append(wrong, "not the address "+h.address.String())
		}
		for _, a := range card.Addresses {
			six = six || a.Prefix.Addr().Is6() && a.Prefix.Addr().IsPrivate() && len(a.Flags) == 0
		}
		_, out6 := s.Default(true)
		if six != h.six || out6 != h.six {
			wrong = append(wrong, fmt.Sprintf("address of IPv6: %t, default route: %t; want %t", six, out6, h.six))
		}
		for _, server := range h.pod.Before.Servers {
			if server.IsLoopback() || server.Is6() && !h.six {
				server = gateway // forwards
			}
			if !slices.Contains(s.Servers, server) {
				wrong = append(wrong, fmt.Sprintf("not the name server %s", server))
			}
		}
		return wrong
	})
	if slices.ContainsFunc(h.pod.Before.Servers, netip.Addr.IsLoopback) { // one that answers
		if out := h.tell(t, "nslookup -type=a vmtest.example"); !strings.Contains(out, pod.Answer.String()) {
			t.Errorf("the name server that the guest was given says:\n%s", out)
		}
	}
}

// speaks: connections come and go, and the pod's own do.
func (h *hidden) speaks(t *testing.T) {
	t.Helper()
	for _, a := range h.addresses {
		client := h.pod.ClientAddr(a.Is6())
		if from, err := converse(h.pod.Client, a); err != nil || from != client {
			t.Errorf("from the client %s to %s: seen as %s, %v", client, a, from, err)
		}
		datagram(t, h.pod.Client, a)
		if _, err := converse(h.pod.Space, a); err != nil {
			t.Errorf("from the pod to its own %s: %v", a, err)
		}
		h.calls(t, h.pod.Client, client, a)
		ping(t, h.pod.Space, client, 0)
		ping(t, h.pod.Client, a, 0)
	}
	if _, err := converse(h.pod.Space, netip.MustParseAddr("127.0.0.1")); err != nil {
		t.Errorf("from the pod's loopback: %v", err)
	}
}

// TestNATForwards: with HOSTFWD only its ports are the guest's.
func TestNATForwards(t *testing.T) {
	p := pod.New(t, pod.Named(t, "NET_ADMIN alone"))
	c := newContainer(t, p, nat, guestWords+"vmtest.dhcp=udhcpc", fmt.Sprintf("HOSTFWD=2222:%d,2222:%d/udp", servicePort, servicePort), fmt.Sprint("VM_READY=tcp:", servicePort))
	v := c.start(t)
	v.Stderr.Await(t, "INF ready")
	address := p.Before.Cards[0].Global()[0].Addr()
	connect := func(port uint16) error {
		return p.Client.Do(func() error {
			conn, err := net.DialTimeout("tcp", netip.AddrPortFrom(address, port).String(), transcript.Patience)
			if err == nil {
				conn.Close()
			}
			return err
		})
	}
	if err := connect(2222); err != nil {
		t.Errorf("the forwarded port: %v", err)
	}
	if err := connect(servicePort); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a port that is not forwarded: %v", err)
	}
	out, code := v.call(t, "plan", "-o", "shell")
	if code != 78 || !strings.Contains(out, "VM_NETWORK=nat") {
		t.Errorf("plan -o shell: %d: %s", code, out)
	}
}
