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

// natShapes are the shapes of nat mode: what is on the pod's side of its kernel matters less than in bridge mode.
var natShapes = []string{
	"CNI bridge, no IPAM", "CNI ptp (GKE)", "CNI macvlan", "Docker's own network", "Docker's own network, dual stack", "Calico, dual stack", "Cilium",
	"IPv6 only, link-local gateway", "two interfaces", "MTU 576", "MTU 9000", "NET_ADMIN alone",
}

// near are the shapes that have something near the network that the guest has elsewhere, and the guest's address there.
var near = map[string]netip.Prefix{"Cilium": netip.MustParsePrefix("172.31.202.15/24")}

// unforwarded are the shapes with IPv6 where the platform does not let the pod forward it, or the kernel has it on for some interfaces
// only: their guests have IPv4 alone.
var unforwarded = []string{"NET_ADMIN alone", "Docker's own network, dual stack"}

// newHidden is the guest of a pod, before it has been started.
func newHidden(t *testing.T, p *pod.Pod) *hidden {
	t.Helper()
	h := &hidden{pod: p, address: netip.MustParsePrefix("10.0.2.15/24")}
	if a, ok := near[p.Shape.Name]; ok {
		h.address = a
	}
	card := p.Before.Cards[0].Global()
	h.six = slices.ContainsFunc(card, func(a netip.Prefix) bool { return a.Addr().Is6() }) && !slices.Contains(unforwarded, p.Shape.Name)
	if h.six {
		p.Space.Run(t, "sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
	}
	for _, a := range card {
		if a.Addr().Is4() || h.six {
			h.addresses = append(h.addresses, a.Addr())
		}
	}
	return h
}

// proveNAT: whoever speaks to the pod speaks to the guest, and who is spoken to by the guest sees the pod.
func proveNAT(t *testing.T, r *row, p *pod.Pod) {
	h := newHidden(t, p)
	c := newContainer(t, p, nat, guestWords+"vmtest.dhcp=dhcpcd", fmt.Sprint("VM_READY=tcp:", readyPort))
	if len(p.Before.Cards[0].Global()) == 0 { // nothing could be translated
		c.start(t).Wants(t, 78, "VM_NETWORK", "eth0 has no address")
		return
	}
	quiet := listen(t, p)
	h.vm = c.start(t)
	h.awaitReady(t, 1)
	g := &guest{t: t, pod: p, container: c}
	r.prove(t, colConfigured, h.configured)
	r.prove(t, colReached, h.reached)
	r.prove(t, colReaches, h.reaches)
	r.prove(t, colFull, h.fullFrames)
	r.prove(t, colProbe, func(t *testing.T) { g.probed(t, h.vm) })
	r.prove(t, colInterface, g.interfaces)
	r.prove(t, colForgotten, func(t *testing.T) {
		h.Signal(t, syscall.SIGKILL)
		h.Exit(t)
		c.forgetRun(t)
		h.vm = c.start(g.t)
		h.awaitReady(t, 1)
		h.configured(t)
		h.reached(t)
		h.reaches(t)
		g.interfaces(t)
	})
	r.prove(t, colQuiet, quiet.nothing)
	if !t.Failed() {
		h.Signal(t, syscall.SIGTERM)
		h.Wants(t, 0)
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

// outside are the pod's addresses, each with who asks from outside: the client, or who is on the link where there is no way further.
func (h *hidden) outside(t *testing.T) map[netip.Addr]other {
	t.Helper()
	all := map[netip.Addr]other{}
	for _, a := range h.addresses {
		if _, ok := h.pod.Before.Default(a.Is6()); ok {
			all[a] = other{h.pod.Client, h.pod.ClientAddr(a.Is6())}
		} else if node, ok := nodeOn(t, h.pod, a); ok {
			all[a] = other{h.pod.Peer, node}
		}
	}
	return all
}

// other is somebody outside of the pod.
type other struct {
	space   pod.Space
	address netip.Addr
}

// reached: the pod's addresses lead to the guest, whoever asks, and the pod itself still answers pings.
func (h *hidden) reached(t *testing.T) {
	for a, from := range h.outside(t) {
		if seen, err := converse(from.space, a); err != nil || seen != from.address {
			t.Errorf("from %s to %s: seen as %s, %v", from.address, a, seen, err)
		}
		datagram(t, from.space, a)
		if _, err := converse(h.pod.Space, a); err != nil {
			t.Errorf("from the pod to its own %s: %v", a, err)
		}
		ping(t, from.space, a, 0)
	}
	if _, err := converse(h.pod.Space, netip.MustParseAddr("127.0.0.1")); err != nil {
		t.Errorf("from the pod's loopback: %v", err)
	}
}

// reaches: the guest goes out with the pod's addresses, and so does the pod itself.
func (h *hidden) reaches(t *testing.T) {
	for a, to := range h.outside(t) {
		h.calls(t, to.space, to.address, a)
		ping(t, h.pod.Space, to.address, 0)
	}
}

// fullFrames: the guest's pings that fill its MTU pass, and are not cut up.
func (h *hidden) fullFrames(t *testing.T) {
	for a, to := range h.outside(t) {
		payload := h.pod.Before.Payload(h.pod.Before.Cards[0], a)
		h.tell(t, fmt.Sprintf("ping -c 3 -W 60 -s %d %s", payload, to.address))
	}
	if out := h.tell(t, "grep -h . /proc/net/snmp | grep ^Ip:"); !noFragments(out) {
		t.Errorf("the guest cuts up what it sends:\n%s", out)
	}
}

// TestNATForwards: with HOSTFWD only its ports are the guest's.
func TestNATForwards(t *testing.T) {
	t.Parallel()
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
