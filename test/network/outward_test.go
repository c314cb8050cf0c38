package network

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/pod"
)

// visitors counts who comes to listeners that no guest shall reach.
type visitors struct {
	mu  sync.Mutex
	all []string
}

func (v *visitors) note(s string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.all = append(v.all, s)
}

func (v *visitors) list() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return strings.Join(v.all, ", ")
}

// listen notes everybody who connects to an address in a namespace, or sends it a datagram.
func (v *visitors) listen(t *testing.T, space pod.Space, network, address string) {
	t.Helper()
	if err := space.Do(func() error {
		if network == "udp" {
			c, err := net.ListenPacket(network, address)
			if err != nil {
				return err
			}
			t.Cleanup(func() { c.Close() })
			go func() {
				b := make([]byte, 100)
				for {
					n, from, err := c.ReadFrom(b)
					if err != nil {
						return
					}
					v.note(fmt.Sprintf("%s says %q to %s", from, b[:n], address))
					c.WriteTo(b[:n], from)
				}
			}()
			return nil
		}
		l, err := net.Listen(network, address)
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				v.note(fmt.Sprintf("%s at %s", c.RemoteAddr(), address))
				io.WriteString(c, "secret\n")
				c.Close()
			}
		}()
		return nil
	}); err != nil {
		t.Fatal(err)
	}
}

// sends has the guest send datagrams with a text: those that ask for a file (RFC 1350), until it tires of having no answer.
func (v *vm) sends(t *testing.T, text, address string, port int) {
	t.Helper()
	if out, _ := v.ask(t, fmt.Sprintf("timeout 5 tftp -g -r %s -l /tmp/file %s %d", text, address, port)); strings.Contains(out, "not found") {
		t.Fatal(out)
	}
}

// sendsAnswers is sends from a port of the guest's that is forwarded.
func (v *vm) sendsAnswers(t *testing.T, from int, text, address string, port int) {
	t.Helper()
	const clients = "/proc/sys/net/ipv4/ip_local_port_range"
	v.tell(t, fmt.Sprintf("cat %[1]s >/tmp/clients && echo %[2]d %[2]d >%[1]s", clients, from))
	v.sends(t, text, address, port)
	v.tell(t, "cat /tmp/clients >"+clients)
}

// hears reads from a socket until somebody says a text.
func hears(t *testing.T, c net.PacketConn, text string) {
	t.Helper()
	b := make([]byte, 100)
	c.SetReadDeadline(time.Now().Add(time.Minute))
	for {
		n, _, err := c.ReadFrom(b)
		if err != nil {
			t.Errorf("nobody says %q: %v", text, err)
			return
		}
		if strings.Contains(string(b[:n]), text) {
			return
		}
	}
}

// metadata is where clouds tell who asks everything about the machine, its credentials among that.
var metadata = netip.MustParseAddr("169.254.169.254")

// TestUserReachesNotThePod: through QEMU's user network the guest reaches others, the pod's DNS server wherever that is, and neither what listens
// on the pod's loopback nor link-local addresses. With a QEMU of its own user's and with one of vmentry's.
func TestUserReachesNotThePod(t *testing.T) {
	t.Parallel()
	for name, capabilities := range map[string]pod.Capabilities{"user of its own": pod.Dockers, "vmentry's user": pod.NetAdmin} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shape := pod.Named(t, "dual stack")
			shape.DNS = "nameserver 127.0.0.11\n"
			shape.Container.Capabilities = capabilities
			p := pod.New(t, shape)
			p.Peer.Run(t, "ip", "addr", "add", metadata.String()+"/32", "dev", "lo")
			var unwanted, asked visitors
			unwanted.listen(t, p.Space, "tcp", "127.0.0.1:9001")
			unwanted.listen(t, p.Space, "tcp", "[::1]:9001")
			unwanted.listen(t, p.Space, "udp", "127.0.0.1:9002")
			unwanted.listen(t, p.Space, "tcp", "127.0.0.11:9003")
			unwanted.listen(t, p.Peer, "tcp", metadata.String()+":80")
			asked.listen(t, p.Space, "udp", "127.0.0.11:53")
			// from the pod itself they can be reached
			if err := p.Space.Do(func() error {
				c, err := net.DialTimeout("tcp", metadata.String()+":80", time.Minute)
				if err == nil {
					c.Close()
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			pod.Eventually(t, func() error {
				if unwanted.list() == "" {
					return fmt.Errorf("nobody was seen")
				}
				return nil
			})
			unwanted.all = nil

			c := newContainer(t, p, user, "vmtest.services=7 vmtest.dhcp=dhcpcd", "HOSTFWD=2222:7,2225:7/udp,[::1]:2226:7/udp,2227:4000/udp", "VM_READY=tcp:7")
			v := c.start(t)
			v.Stderr.Await(t, "INF ready")
			v.settled(t, func(s pod.State) []string {
				for _, r := range s.Routes {
					if r.Destination.Addr().Is6() && r.Destination.Bits() == 0 {
						return nil
					}
				}
				return []string{"there is no default route of IPv6"}
			})
			v.tell(t, "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet && ip addr del 127.0.0.1/8 dev lo && ip route add 127.0.0.0/8 via 10.0.2.2 && ip route add 169.254.0.0/16 via 10.0.2.2")
			for _, to := range []string{"10.0.2.2 9001", "127.0.0.1 9001", "127.0.0.11 9003", "169.254.169.254 80", "fec0::2 9001"} {
				if out, _ := v.ask(t, "nc -w 5 "+to+" </dev/null"); strings.Contains(out, "secret") {
					t.Errorf("the guest reaches %s", to)
				}
			}
			v.sends(t, "leak", "10.0.2.2", 9002)
			v.sends(t, "question", "10.0.2.3", 53)
			if !strings.Contains(asked.list(), "question") {
				t.Errorf("the pod's DNS server was asked: %q", asked.list())
			}
			// from a port that leads to the guest only those who have asked there get something
			var connected, unconnected net.PacketConn
			if err := p.Space.Do(func() (err error) {
				to := net.UDPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2227}
				if connected, err = net.DialUDP("udp4", nil, &to); err != nil {
					return err
				}
				unconnected, err = net.ListenPacket("udp4", ":0")
				return err
			}); err != nil {
				t.Fatal(err)
			}
			defer connected.Close()
			defer unconnected.Close()
			v.sendsAnswers(t, 4000, "leak", "10.0.2.2", 9002)
			for _, c := range []net.PacketConn{connected, unconnected} {
				v.sendsAnswers(t, 4000, "answer", "10.0.2.2", c.LocalAddr().(*net.UDPAddr).Port)
				hears(t, c, "answer")
			}
			if seen := unwanted.list(); seen != "" {
				t.Errorf("the guest was seen: %s", seen)
			}
			// others are reached, and who asks the guest from the pod's loopback gets an answer
			v.calls(t, p.Client, pod.Client4, p.Before.Cards[0].Addresses[0].Prefix.Addr())
			datagramAt(t, p.Space, netip.MustParseAddrPort("127.0.0.1:2225"))
			datagramAt(t, p.Space, netip.MustParseAddrPort("[::1]:2226"))
			v.Signal(t, syscall.SIGTERM)
			v.Wants(t, 0)
			if log := v.Stderr.String(); strings.Contains(log, "WRN the guest can reach") {
				t.Error("there was no guard")
			}
		})
	}
}

// TestPasstReachesNotThePod: the guest's gateway is not the pod's loopback.
func TestPasstReachesNotThePod(t *testing.T) {
	t.Parallel()
	p, _, _ := dualStack(t)
	var unwanted visitors
	unwanted.listen(t, p.Space, "tcp", "127.0.0.1:9001")
	unwanted.listen(t, p.Space, "tcp", "[::1]:9001")
	unwanted.listen(t, p.Space, "udp", "127.0.0.1:9002")
	v := newContainer(t, p, passt, "vmtest.dhcp=dhcpcd", "HOSTFWD=2222:22").start(t)
	v.awaitReady(t, 1)
	v.settled(t, func(s pod.State) []string {
		for _, r := range s.Routes {
			if r.Destination.Addr().Is4() && r.Destination.Bits() == 0 {
				return nil
			}
		}
		return []string{"there is no default route"}
	})
	v.tell(t, "echo 1 >/proc/sys/net/ipv4/conf/all/route_localnet && ip addr del 127.0.0.1/8 dev lo && ip route add 127.0.0.0/8 via 10.40.0.1")
	for _, to := range []string{"10.40.0.1 9001", "127.0.0.1 9001", "10.40.0.5 9001"} {
		if out, _ := v.ask(t, "nc -w 5 "+to+" </dev/null"); strings.Contains(out, "secret") {
			t.Errorf("the guest reaches %s", to)
		}
	}
	v.sends(t, "leak", "10.40.0.1", 9002)
	v.calls(t, p.Client, pod.Client4, p.Before.Cards[0].Addresses[0].Prefix.Addr())
	if seen := unwanted.list(); seen != "" {
		t.Errorf("the guest was seen: %s", seen)
	}
	v.Signal(t, syscall.SIGTERM)
	v.Wants(t, 0)
}
