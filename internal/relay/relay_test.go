package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

// patience is how long anything may take before a test gives up on it.
const patience = 2 * time.Minute

var (
	quiet = slog.New(slog.DiscardHandler)
	here6 = netip.AddrPortFrom(netip.IPv6Loopback(), 0)
)

// serve relays a port of ::1 to the address to until the test ends.
func serve(t *testing.T, proto string, to netip.AddrPort) netip.AddrPort {
	t.Helper()
	l, err := Listen(proto, here6)
	if err != nil {
		t.Fatal(err)
	}
	until(t, func(ctx context.Context) { l.Serve(ctx, to, quiet) })
	return l.Addr()
}

// until runs f, and at the test's end checks that it ends with its context.
func until(t *testing.T, f func(context.Context)) {
	t.Helper()
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f(ctx)
	}()
	t.Cleanup(func() {
		end()
		select {
		case <-ended:
		case <-time.After(patience):
			t.Error("it does not end")
		}
	})
}

// guest accepts connections on IPv4's loopback, as QEMU does.
func guest(t *testing.T, each func(*net.TCPConn)) netip.AddrPort {
	t.Helper()
	l, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.AcceptTCP()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				each(c)
			}()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func dial(t *testing.T, at netip.AddrPort) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	conn.SetDeadline(time.Now().Add(patience))
	return conn.(*net.TCPConn)
}

// TestTCP: either end may close first, and the other still gets all that it sends and is sent.
func TestTCP(t *testing.T) {
	sent := make([]byte, 16<<20)
	rand.Read(sent)
	echo := guest(t, func(c *net.TCPConn) { io.Copy(c, c) })
	afterwards := guest(t, func(c *net.TCPConn) {
		all, _ := io.ReadAll(c)
		c.Write(all)
	})
	got := make(chan []byte, 1)
	first := guest(t, func(c *net.TCPConn) {
		c.Write([]byte("first"))
		c.CloseWrite()
		all, _ := io.ReadAll(c)
		got <- all
	})
	for name, to := range map[string]netip.AddrPort{"both ways at once": echo, "the client closes first": afterwards} {
		t.Run(name, func(t *testing.T) {
			conn := dial(t, serve(t, "tcp", to))
			go func() {
				conn.Write(sent)
				conn.CloseWrite()
			}()
			if back, err := io.ReadAll(conn); err != nil || !bytes.Equal(back, sent) {
				t.Errorf("%d bytes of %d came back, %v", len(back), len(sent), err)
			}
		})
	}
	t.Run("the guest closes first", func(t *testing.T) {
		conn := dial(t, serve(t, "tcp", first))
		if said, err := io.ReadAll(conn); err != nil || string(said) != "first" {
			t.Errorf("%q, %v", said, err)
		}
		if _, err := conn.Write(sent); err != nil {
			t.Error(err)
		}
		conn.CloseWrite()
		if all := <-got; !bytes.Equal(all, sent) {
			t.Errorf("%d bytes of %d arrived", len(all), len(sent))
		}
	})
}

// TestTCPFailures: what breaks off on one side, does on the other.
func TestTCPFailures(t *testing.T) {
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := l.Addr().(*net.TCPAddr).AddrPort()
	l.Close()
	resets := guest(t, func(c *net.TCPConn) {
		io.ReadFull(c, make([]byte, 1))
		c.SetLinger(0)
	})
	for name, to := range map[string]netip.AddrPort{"nobody listens": gone, "the guest resets": resets} {
		t.Run(name, func(t *testing.T) {
			conn, err := net.Dial("tcp", serve(t, "tcp", to).String())
			if err == nil { // the reset may be there before the connection is
				defer conn.Close()
				conn.SetDeadline(time.Now().Add(patience))
				conn.Write([]byte("x"))
				_, err = io.ReadAll(conn)
			}
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("%v, want a reset", err)
			}
		})
	}
	t.Run("the client resets", func(t *testing.T) {
		broken := make(chan error, 1)
		conn := dial(t, serve(t, "tcp", guest(t, func(c *net.TCPConn) {
			c.Write([]byte("x"))
			_, err := io.ReadAll(c)
			broken <- err
		})))
		io.ReadFull(conn, make([]byte, 1))
		conn.SetLinger(0)
		conn.Close()
		if err := <-broken; !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("%v, want a reset", err)
		}
	})
}

// TestManyConnections: a connection that has ended makes room for another.
func TestManyConnections(t *testing.T) {
	at := serve(t, "tcp", guest(t, func(c *net.TCPConn) { c.Write([]byte("x")) }))
	for i := range mostConnections + 100 {
		conn := dial(t, at)
		if said, err := io.ReadAll(conn); err != nil || string(said) != "x" {
			t.Fatalf("connection %d: %q, %v", i, said, err)
		}
		conn.Close()
	}
}

// TestEndWithOpenConnections: the end does not wait for those who have nothing to say.
func TestEndWithOpenConnections(t *testing.T) {
	at := serve(t, "tcp", guest(t, func(c *net.TCPConn) { io.Copy(c, c) })) // and its cleanup checks the end
	for range 10 {
		conn := dial(t, at)
		conn.Write([]byte("x"))
		if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
}

// TestSamePortOnIPv4: QEMU has it.
func TestSamePortOnIPv4(t *testing.T) {
	l, err := net.Listen("tcp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	at := netip.AddrPortFrom(netip.IPv6Unspecified(), l.Addr().(*net.TCPAddr).AddrPort().Port())
	relay, err := Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	defer relay.Close()
	if _, err := Listen("tcp", at); err == nil || !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), at.String()) {
		t.Errorf("a port that is taken: %v", err)
	}
	if _, err := Listen("sctp", here6); err == nil {
		t.Error("sctp: no error")
	}
	if _, err := Listen("udp", netip.MustParseAddrPort("[2001:db8::1]:0")); !errors.Is(err, syscall.EADDRNOTAVAIL) {
		t.Errorf("an address of somebody else: %v", err)
	}
}

// echoUDP answers each datagram with its sender's port and itself.
func echoUDP(t *testing.T) netip.AddrPort {
	t.Helper()
	conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		for b := make([]byte, mostDatagram); ; {
			n, from, err := conn.ReadFromUDPAddrPort(b)
			if err != nil {
				return
			}
			conn.WriteToUDPAddrPort(append([]byte(fmt.Sprintf("%d:", from.Port())), b[:n]...), from)
		}
	}()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// client is a UDP socket of its own.
func client(t *testing.T) *net.UDPConn {
	t.Helper()
	conn, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(here6))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// ask sends text until it comes back, and gives the port that the guest saw and where the answer came from.
func ask(t *testing.T, conn *net.UDPConn, at netip.AddrPort, text string) (port string, from netip.AddrPort) {
	t.Helper()
	b := make([]byte, mostDatagram)
	for began := time.Now(); time.Since(began) < patience; {
		if _, err := conn.WriteToUDPAddrPort([]byte(text), at); err != nil {
			t.Fatal(err)
		}
		conn.SetReadDeadline(time.Now().Add(time.Second))
		n, from, err := conn.ReadFromUDPAddrPort(b)
		if port, back, _ := strings.Cut(string(b[:n]), ":"); err == nil && back == text {
			return port, from
		}
	}
	t.Fatal("no answer")
	return
}

// TestUDP: each client has a flow of its own, and keeps it; and large datagrams pass.
func TestUDP(t *testing.T) {
	at := serve(t, "udp", echoUDP(t))
	a, b := client(t), client(t)
	portA, from := ask(t, a, at, "a")
	portB, _ := ask(t, b, at, strings.Repeat("b", 60000))
	if portA == portB {
		t.Error("the guest cannot tell the clients apart")
	}
	if again, _ := ask(t, a, at, ""); again != portA {
		t.Errorf("the flow had port %s, and then %s", portA, again)
	}
	if from != at {
		t.Errorf("the answer came from %s", from)
	}
}

// newTestFlows are flows that a test can look at.
func newTestFlows(t *testing.T, most int, idle time.Duration) (*flows, netip.AddrPort) {
	t.Helper()
	l, err := Listen("udp", here6)
	if err != nil {
		t.Fatal(err)
	}
	f := newFlows(l.udp, echoUDP(t), quiet)
	f.most, f.idle = most, idle
	until(t, func(ctx context.Context) {
		defer context.AfterFunc(ctx, func() { l.Close() })()
		f.serve(ctx)
	})
	return f, l.Addr()
}

func (f *flows) count() (flows, keys int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.recent.Len(), len(f.byKey)
}

// TestManyFlows: a new client takes the place of the one that was not heard of for the longest time.
func TestManyFlows(t *testing.T) {
	f, at := newTestFlows(t, 3, patience)
	a, b := client(t), client(t)
	portA, _ := ask(t, a, at, "a")
	ask(t, b, at, "b")
	for range 10 {
		ask(t, client(t), at, "c")
		if again, _ := ask(t, a, at, "a"); again != portA {
			t.Fatal("a client that is heard of lost its flow")
		}
	}
	if n, keys := f.count(); n != 3 || keys != 3 {
		t.Errorf("%d flows, %d keys; want 3", n, keys)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for k := range f.byKey {
		if k.client == b.LocalAddr().(*net.UDPAddr).AddrPort() {
			t.Error("the oldest flow was kept")
		}
	}
}

// TestIdleFlows end.
func TestIdleFlows(t *testing.T) {
	f, at := newTestFlows(t, 10, 50*time.Millisecond)
	for range 5 {
		ask(t, client(t), at, "x")
	}
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		n, keys := f.count()
		if n == 0 && keys == 0 {
			return
		}
		if time.Since(began) > patience {
			t.Fatalf("%d flows are left", n)
		}
	}
}

// TestAnswersComeFromTheAddressAsked, where there are several: in a network namespace of its own.
func TestAnswersComeFromTheAddressAsked(t *testing.T) {
	const inside = "VMENTRY_RELAY_TEST_INSIDE"
	if os.Getenv(inside) == "" {
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command("unshare", "--net", self, "-test.v", "-test.run", "^"+t.Name()+"$")
		cmd.Env = append(os.Environ(), inside+"=yes")
		if out, err := cmd.CombinedOutput(); err != nil || !strings.Contains(string(out), "--- PASS") {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	setup := "ip link set lo up; for i in 1 2 3; do ip addr add fd77::$i/128 dev lo nodad; done"
	if out, err := exec.Command("sh", "-ec", setup).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	l, err := Listen("udp", netip.AddrPortFrom(netip.IPv6Unspecified(), 0))
	if err != nil {
		t.Fatal(err)
	}
	to := echoUDP(t)
	until(t, func(ctx context.Context) { l.Serve(ctx, to, quiet) })
	c := client(t)
	seen := map[string]bool{}
	for _, a := range []string{"fd77::1", "fd77::2", "fd77::3"} {
		at := netip.AddrPortFrom(netip.MustParseAddr(a), l.Addr().Port())
		port, from := ask(t, c, at, a)
		if from != at {
			t.Errorf("asked %s, and %s answered", at, from)
		}
		seen[port] = true
	}
	if len(seen) != 3 {
		t.Errorf("three conversations have %d flows", len(seen))
	}
}
