package network

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/pod"
	"github.com/vmentry/vmentry/test/transcript"
)

// converse connects from a namespace to the guest's service, and checks that it sends back what it gets. It returns the address
// that the guest saw the connection come from.
func converse(space pod.Space, guest netip.Addr) (from netip.Addr, err error) {
	return converseAt(space, netip.AddrPortFrom(guest, servicePort))
}

// converseAt is [converse] where the service is at another address or port.
func converseAt(space pod.Space, at netip.AddrPort) (from netip.Addr, err error) {
	err = space.Do(func() error {
		conn, err := net.DialTimeout("tcp", at.String(), transcript.Patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(transcript.Patience))
		lines := bufio.NewReader(conn)
		greeting, err := lines.ReadString('\n')
		if err != nil {
			return err
		}
		if from, err = netip.ParseAddr(strings.TrimSpace(strings.TrimPrefix(greeting, "vmtest "))); err != nil {
			return err
		}
		from = from.Unmap()
		text := strings.Repeat("0123456789abcdef", 4096) // more than fits into a few segments
		go fmt.Fprintln(conn, text)
		back, err := lines.ReadString('\n')
		if err == nil && back != text+"\n" {
			err = fmt.Errorf("%d bytes came back of %d", len(back), len(text)+1)
		}
		return err
	})
	return from, err
}

// datagram sends a datagram to the guest's service until it comes back: UDP may lose one.
func datagram(t *testing.T, space pod.Space, guest netip.Addr) {
	t.Helper()
	datagramAt(t, space, netip.AddrPortFrom(guest, servicePort))
}

// datagramAt is [datagram] where the service is at another address or port.
func datagramAt(t *testing.T, space pod.Space, at netip.AddrPort) {
	t.Helper()
	err := space.Do(func() error {
		conn, err := net.Dial("udp", at.String())
		if err != nil {
			return err
		}
		defer conn.Close()
		back := make([]byte, 64)
		for give := time.Now().Add(transcript.Patience); time.Now().Before(give); {
			if _, err = io.WriteString(conn, "datagram"); err == nil {
				conn.SetReadDeadline(time.Now().Add(2 * time.Second))
				_, err = conn.Read(back)
			}
			if err == nil {
				return nil
			}
		}
		return err
	})
	if err != nil {
		t.Errorf("a datagram to the guest's %s: %v", at, err)
	}
}

// answering listens for one connection in a namespace, sends back what it gets, and tells where it came from.
func answering(t *testing.T, space pod.Space, address netip.Addr) (port int, from <-chan netip.Addr) {
	t.Helper()
	var listener net.Listener
	err := space.Do(func() (err error) {
		listener, err = net.Listen("tcp", netip.AddrPortFrom(address, 0).String())
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	found := make(chan netip.Addr, 1)
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		io.Copy(conn, conn)
		found <- conn.RemoteAddr().(*net.TCPAddr).AddrPort().Addr().Unmap()
	}()
	return listener.Addr().(*net.TCPAddr).Port, found
}

// calls has the guest connect to address in a namespace, and checks that it is seen there as want.
func (v *vm) calls(t *testing.T, space pod.Space, address, want netip.Addr) {
	t.Helper()
	port, from := answering(t, space, address)
	if out := v.tell(t, fmt.Sprintf("netd call %s %d hello", address, port)); out != "hello" {
		t.Errorf("%s says %q to the guest", address, out)
	}
	if got := <-from; got != want {
		t.Errorf("at %s the guest is seen as %s, want %s", address, got, want)
	}
}

// ping sends pings that no router may cut up; one must come back. A payload of 0 is a small one.
func ping(t *testing.T, space pod.Space, to netip.Addr, payload int) {
	t.Helper()
	space.Run(t, "ping", "-n", "-c", "3", "-i", "0.2", "-W", "60", "-M", "do", "-s", fmt.Sprint(max(payload, 56)), to.String())
}
