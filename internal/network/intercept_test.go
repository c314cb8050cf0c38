package network

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"testing"
	"time"
)

const intercepted = 8080

// interceptInput is a start that takes a port from the guest.
func interceptInput(t *testing.T) Input {
	t.Helper()
	in := bridgeInput(t)
	in.Intercept = intercepted
	return in
}

// anotherSpace makes one more namespace, has it joined to the others, and runs commands of ip there.
func anotherSpace(t *testing.T, name string, join func(namespace string), commands ...string) (namespace string) {
	t.Helper()
	namespace = podName + "-" + name
	run(t, "ip", "netns", "add", namespace)
	t.Cleanup(func() { exec.Command("ip", "netns", "del", namespace).Run() })
	join(namespace)
	for _, command := range commands {
		run(t, "ip", append([]string{"-n", namespace}, strings.Fields(command)...)...)
	}
	return namespace
}

// neighbour puts one more host on the pod's wire, which is not its gateway and has a MAC of its own.
func neighbour(t *testing.T, peer func(string, ...string) string) (namespace string) {
	t.Helper()
	return anotherSpace(t, "neighbour", func(namespace string) {
		peer("ip", "link", "add", "near0", "link", "host0", "type", "macvlan", "mode", "bridge")
		peer("ip", "link", "set", "near0", "netns", namespace)
	}, "addr add 10.7.0.9/24 dev near0", "addr add fd07::9/64 dev near0 nodad", "link set near0 up")
}

// beyond puts a host behind the peer, by a link that carries less than both ends think: the pod has to hear of it from the peer.
func beyond(t *testing.T, peer func(string, ...string) string) (namespace string) {
	t.Helper()
	return anotherSpace(t, "beyond", func(namespace string) {
		peer("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
		peer("ip", "link", "add", "far0", "mtu", "1300", "type", "veth", "peer", "name", "eth0", "mtu", "1400", "netns", namespace)
		for _, command := range []string{"addr add 10.9.0.1/24 dev far0", "addr add fd09::1/64 dev far0 nodad", "link set far0 up"} {
			peer("ip", strings.Fields(command)...)
		}
	}, "addr add 10.9.0.2/24 dev eth0", "addr add fd09::2/64 dev eth0 nodad", "link set eth0 up", "route add default via 10.9.0.1", "-6 route add default via fd09::1")
}

// greet listens in the namespace of the test and sends everyone who connects a line with his address, and then more than a few segments hold.
func greet(t *testing.T, port int) {
	t.Helper()
	for _, family := range []string{"4", "6"} {
		l, err := net.Listen("tcp"+family, fmt.Sprint(":", port))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		go serveTCP(l, func(conn net.Conn) {
			fmt.Fprintln(conn, hostPart(conn.RemoteAddr()))
			io.WriteString(conn, strings.Repeat("x", greeting))
		})
	}
}

const greeting = 1 << 20

// greeted connects from a namespace and returns what address is seen there.
func greeted(namespace, address string, patience time.Duration) (as string, err error) {
	err = inside(namespace, func() error {
		conn, err := net.DialTimeout("tcp", address, patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(patience))
		all, err := io.ReadAll(conn)
		as, _, _ = strings.Cut(string(all), "\n")
		if err == nil && len(all) != len(as)+1+greeting {
			err = fmt.Errorf("%d bytes came", len(all))
		}
		return err
	})
	return as, err
}

// TestIntercept: with the rights of NET_ADMIN alone, whoever speaks to the port of the guest's addresses reaches the pod, though there is no guest that would say its MAC, and is
// seen by his own address. All other ports are the guest's.
func TestIntercept(t *testing.T) {
	peer := pod(t)
	near, far := neighbour(t, peer), beyond(t, peer)
	settled(t)
	greet(t, intercepted)
	greet(t, intercepted+1)
	in := interceptInput(t)
	in.Pod = Pod{} // whoever applies it looks for himself
	plan := space(podName).apply(t, order{Input: in}).Plan
	await(t, "ip -6 route show table local dev vm-br0", plan.Bridges[0].Reach.V6.String())
	if text := strings.Join(plan.Lines(), "\n"); !strings.Contains(text, "vmentry has TCP port 8080 of 10.7.0.5, fd07::5") {
		t.Errorf("the plan does not say it:\n%s", text)
	}
	for _, c := range []struct{ from, at, want string }{
		{peerName, "10.7.0.5", "10.7.0.1"}, {peerName, "fd07::5", "fd07::1"},
		{near, "10.7.0.5", "10.7.0.9"}, {near, "fd07::5", "fd07::9"},
		{far, "10.7.0.5", "10.9.0.2"}, {far, "fd07::5", "fd09::2"},
	} {
		if as, err := greeted(c.from, net.JoinHostPort(c.at, fmt.Sprint(intercepted)), patient); err != nil || as != c.want {
			t.Errorf("from %s to %s: seen as %q, %v; want %s", c.from, c.at, as, err, c.want)
		}
		if _, err := greeted(c.from, net.JoinHostPort(c.at, fmt.Sprint(intercepted+1)), time.Second); err == nil {
			t.Errorf("from %s the pod is reached at another port of %s", c.from, c.at)
		}
	}
}

// TestInterceptSecondInterface: the port is taken on every card of the guest's, and each answer goes back by the one that the question came by.
func TestInterceptSecondInterface(t *testing.T) {
	peer := pod(t)
	peer("ip", "link", "add", "host1", "type", "veth", "peer", "name", "net1", "netns", podName)
	peer("ip", "addr", "add", "10.9.0.1/24", "dev", "host1")
	peer("ip", "link", "set", "host1", "up")
	run(t, "ip", "addr", "add", "10.9.0.5/24", "dev", "net1")
	run(t, "ip", "link", "set", "net1", "up")
	await(t, "ip -6 route show table local dev net1", "local fe80:")
	settled(t)
	greet(t, intercepted)
	in := interceptInput(t)
	in.Pod = Pod{}
	space(podName).apply(t, order{Input: in})
	for at, want := range map[string]string{"10.7.0.5": "10.7.0.1", "10.9.0.5": "10.9.0.1"} {
		if as, err := greeted(peerName, net.JoinHostPort(at, fmt.Sprint(intercepted)), patient); err != nil || as != want {
			t.Errorf("at %s: seen as %q, %v; want %s", at, as, err, want)
		}
	}
}

func TestInterceptPlan(t *testing.T) {
	wire := Link{Name: "eth0", Kind: "veth", MAC: net.HardwareAddr{2, 0, 0, 0, 0, 1}, MTU: 1500, Up: true}
	with := func(addresses ...string) Pod {
		l := wire
		for _, a := range addresses {
			l.Addresses = append(l.Addresses, Address{Prefix: netip.MustParsePrefix(a)})
		}
		return Pod{Links: []Link{l}, IPv6: true}
	}
	tests := []struct {
		name    string
		pod     Pod
		guest   []string // whose port is taken
		warning string
		mistake string
	}{
		{name: "OK IPv4", pod: with("10.7.0.5/24"), guest: []string{"10.7.0.5"}},
		{name: "OK dual stack", pod: with("10.7.0.5/24", "fd07::5/64"), guest: []string{"10.7.0.5", "fd07::5"}},
		{name: "OK two of IPv6", pod: with("fd07::5/64", "fd08::5/64"), guest: []string{"fd07::5"}, warning: "fd08::5 stays the guest's"},
		{name: "bad no address", pod: with(), mistake: "VM_HTTP_INTERCEPT=true"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			plan, err := MakePlan(Input{Mode: Bridge, NICModel: "virtio", CPUs: 1, DHCP: true, Pod: tt.pod, Intercept: intercepted})
			if m := new(Mistake); tt.mistake != "" {
				if !errors.As(err, &m) || !strings.Contains(err.Error(), tt.mistake) {
					t.Errorf("the mistake is %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			var guest []string
			for _, a := range plan.Bridges[0].Intercept.At {
				guest = append(guest, a.Guest.String())
			}
			if fmt.Sprint(guest) != fmt.Sprint(tt.guest) {
				t.Errorf("the port is taken of %v, want %v", guest, tt.guest)
			}
			if !strings.Contains(strings.Join(plan.Warnings, "\n"), tt.warning) {
				t.Errorf("the warnings are %q", plan.Warnings)
			}
		})
	}
}
