package pod

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
)

// TestShapes: in each pod its addresses answer the node and the client, as long as nobody has taken them from it, and it
// reaches the client where it has a default route. What a guest is later measured by is true of the pod itself.
func TestShapes(t *testing.T) {
	for _, shape := range Shapes() {
		t.Run(shape.Name, func(t *testing.T) {
			t.Parallel()
			p := New(t, shape)
			t.Logf("%+v", p.Before)
			if len(p.Wires) != len(p.Before.Cards) {
				t.Errorf("%d other ends of %d cards", len(p.Wires), len(p.Before.Cards))
			}
			for _, c := range p.Before.Cards {
				for _, a := range c.Global() {
					p.Peer.Run(t, "ping", "-c", "1", "-W", "60", "-M", "do", "-s", fmt.Sprint(p.Before.Payload(c, a.Addr())), a.Addr().String())
				}
			}
			for _, six := range []bool{false, true} {
				if _, ok := p.Before.Default(six); ok {
					p.Space.Run(t, "ping", "-c", "1", "-W", "60", p.ClientAddr(six).String())
				}
			}
		})
	}
}

// TestContainer: a container has what it should have of its pod, and no more rights than were given.
func TestContainer(t *testing.T) {
	p := New(t, Named(t, "flannel"))
	script := "hostname; cat /etc/resolv.conf; ls /sys/class/net; echo $$; ls /dev/net; grep CapEff /proc/self/status; touch /sys/x /proc/sys/net/x; true"
	for _, tt := range []struct {
		c    Container
		want []string
	}{
		{Container{}, []string{"web-0\n", "nameserver 10.96.0.10", "\neth0\nlo\n", "\n1\n", "\ntun\n", "CapEff:\t00000000a80435fb", "Read-only file system"}},
		{Container{Capabilities: NetAdmin, NoTun: true}, []string{"\n1\nCapEff:\t0000000000001000\n", "Read-only file system"}},
	} {
		out, err := p.Command(tt.c, "sh", "-c", script).CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, w := range tt.want {
			if !strings.Contains(string(out), w) {
				t.Errorf("not in its output: %q\n%s", w, out)
			}
		}
	}
}

// TestResolver: the resolver of Docker's own networks answers in the pod's namespace.
func TestResolver(t *testing.T) {
	p := New(t, Named(t, "Docker's own network"))
	query := "\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\x01a\x03net\x00\x00\x01\x00\x01"
	err := p.Space.Do(func() error {
		conn, err := net.Dial("udp", "127.0.0.11:53")
		if err != nil {
			return err
		}
		defer conn.Close()
		if _, err := io.WriteString(conn, query); err != nil {
			return err
		}
		reply := make([]byte, 512)
		n, err := conn.Read(reply)
		if got := string(reply[:n]); !strings.HasSuffix(got, string(Answer.AsSlice())) {
			return fmt.Errorf("it says %q, %v", got, err)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
