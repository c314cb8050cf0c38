package network

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	diff "github.com/google/go-cmp/cmp"

	"github.com/vmentry/vmentry/test/metrics"
	"github.com/vmentry/vmentry/test/pod"
	"github.com/vmentry/vmentry/test/transcript"
)

// httpPort is the port that vmentry takes from the guest.
const httpPort = 8080

// TestIntercept: with VM_HTTP_INTERCEPT vmentry answers at one port of the pod's address, whatever the guest does by then, and all others
// are the guest's. After kill -9 it is the same, and without the variable nothing of it is left.
func TestIntercept(t *testing.T) {
	t.Parallel()
	for _, shape := range []string{"NET_ADMIN alone", "no default route"} {
		t.Run(shape, func(t *testing.T) {
			t.Parallel()
			p := pod.New(t, pod.Named(t, shape))
			before := leftWithout(t, p)
			g := asking(t, p, "dhcpcd")
			g.container.settings = append(g.container.settings, fmt.Sprint("VM_HTTP=:", httpPort), "VM_HTTP_INTERCEPT=true")

			v := g.container.start(t)
			v.Stderr.Await(t, "QEMU started")
			g.intercepted(t, "/healthz", http.StatusOK, "") // while the firmware runs
			v.awaitReady(t, 1)
			g.works(t, v)
			g.probed(t, v)
			g.intercepted(t, "/readyz", http.StatusOK, "")
			g.measured(t)
			g.callsFromTakenPort(t, v)

			if out, code := v.call(t, "pause"); code != 0 {
				t.Fatalf("pause: %d: %s", code, out)
			}
			p.Peer.Run(t, "ip", "neigh", "flush", "all") // a paused guest does not say its MAC
			g.intercepted(t, "/healthz", http.StatusOK, "paused")
			g.intercepted(t, "/readyz", http.StatusServiceUnavailable, "paused")
			v.call(t, "resume")

			v = g.killed(t, v)
			v.tell(t, fmt.Sprintf("netd services %d >/dev/null 2>&1 &", httpPort))
			g.intercepted(t, "/healthz", http.StatusOK, "the guest is running") // though the guest listens there
			v.Signal(t, syscall.SIGTERM)
			v.Wants(t, 0)
			if changed := diff.Diff(before, leftWithout(t, p)); changed != "" {
				t.Errorf("without it something of it is left (-before +after):\n%s", changed)
			}
		})
	}
}

// leftWithout is what a start without interception leaves in the pod.
func leftWithout(t *testing.T, p *pod.Pod) string {
	t.Helper()
	c := newContainer(t, p, bridge, "", "PATH="+binaries.FakeQEMU+":"+os.Getenv("PATH"), "FAKE_QEMU=")
	v := c.start(t)
	v.Stderr.Await(t, "QEMU started")
	v.Signal(t, syscall.SIGKILL)
	v.Exit(t)
	return strings.ReplaceAll(left(t, c), filepath.Dir(c.run), "")
}

// intercepted: the node, and the client beyond it, get the answer from every address of the guest's.
func (g *guest) intercepted(t *testing.T, path string, code int, says string) {
	t.Helper()
	for _, a := range g.addresses {
		spaces := []pod.Space{g.pod.Peer}
		if g.routed(a) {
			spaces = append(spaces, g.pod.Client)
		}
		for _, space := range spaces {
			got, body, err := get(space, netip.AddrPortFrom(a, httpPort), path)
			if err != nil || got != code || !strings.Contains(body, says) {
				t.Errorf("%s at %s from %s: %d, %.200q, %v; want %d, %s", path, a, space, got, body, err, code, says)
			}
		}
	}
}

// measured: of the metrics that are documented the guest's cards and leases are served here, and are what has happened so far.
func (g *guest) measured(t *testing.T) {
	t.Helper()
	_, text, err := get(g.pod.Peer, netip.AddrPortFrom(g.addresses[0], httpPort), "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	s, documented := metrics.Parse(t, text), metrics.Documented(t)
	for _, name := range s.Names() {
		if !slices.Contains(documented, name) {
			t.Errorf("%s is not documented", name)
		}
	}
	for _, sample := range []string{
		`vmentry_guest_state{state="running"}`, `vmentry_dhcp_answers_total{message="DHCPACK"}`,
		`vmentry_network_bytes_total{card="net0", direction="receive"}`, `vmentry_network_bytes_total{card="net0", direction="transmit"}`,
		`vmentry_network_packets_total{card="net0", direction="receive"}`, `vmentry_network_packets_total{card="net0", direction="transmit"}`,
	} {
		if s[sample] < 1 {
			t.Errorf("%s is %v", sample, s[sample])
		}
	}
	if _, is := s[`vmentry_network_dropped_packets_total{card="net0", direction="receive"}`]; !is {
		t.Error("nothing is said of packets that were dropped")
	}
}

// get asks over HTTP from a namespace.
func get(space pod.Space, at netip.AddrPort, path string) (code int, body string, err error) {
	err = space.Do(func() error { // all on one thread, which http.Client is not
		conn, err := net.DialTimeout("tcp", at.String(), transcript.Patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(transcript.Patience))
		fmt.Fprintf(conn, "GET %s HTTP/1.0\r\nHost: vm\r\n\r\n", path)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			return err
		}
		defer response.Body.Close()
		text, err := io.ReadAll(response.Body)
		code, body = response.StatusCode, string(text)
		return err
	})
	return code, body, err
}

// callsFromTakenPort: a connection that the guest itself makes from a port of that number is the guest's.
func (g *guest) callsFromTakenPort(t *testing.T, v *vm) {
	t.Helper()
	i := slices.IndexFunc(g.addresses, netip.Addr.Is4)
	node, ok := nodeOn(t, g.pod, g.addresses[i])
	if !ok {
		t.Fatal("the node has no address beside the pod's")
	}
	port, from := answering(t, g.pod.Peer, node)
	if out := v.tell(t, fmt.Sprintf("echo hello | nc -p %d %s %d", httpPort, node, port)); out != "hello" {
		t.Errorf("%s says %q to the guest", node, out)
	}
	if got := <-from; got != g.addresses[i] {
		t.Errorf("the guest is seen as %s", got)
	}
}

// TestInterceptWhileFetching: the pod's address is its own while the image is fetched, and vmentry answers there already; also in a restart.
func TestInterceptWhileFetching(t *testing.T) {
	t.Parallel()
	p := pod.New(t, pod.Named(t, "dual stack"))
	c := newContainer(t, p, bridge, "", "PATH="+binaries.FakeQEMU+":"+os.Getenv("PATH"), "FAKE_QEMU=", "VM_IMAGE=http://"+pod.Client4.String()+"/disk.raw",
		fmt.Sprint("VM_HTTP=:", httpPort), "VM_HTTP_INTERCEPT=true")
	var listener net.Listener
	if err := p.Client.Do(func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(pod.Client4.String(), "80"))
		return err
	}); err != nil {
		t.Fatal(err)
	}
	answers := make(chan string, 16)
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, a := range p.Before.Global() {
			code, body, err := get(p.Peer, netip.AddrPortFrom(a, httpPort), "/healthz")
			answers <- fmt.Sprintf("%d %s %v", code, strings.TrimSpace(body), err)
		}
		disk := make([]byte, 1<<20)
		disk[0], disk[510], disk[511] = 0xfa, 0x55, 0xaa
		w.Write(disk)
	})}
	go server.Serve(listener)
	t.Cleanup(func() { server.Close() })
	for range 2 {
		v := c.start(t)
		for range p.Before.Global() {
			if answer := <-answers; !strings.HasPrefix(answer, "200 ") {
				t.Errorf("while the image is fetched: %s", answer)
			}
		}
		v.Stderr.Await(t, "QEMU started")
		for _, a := range p.Before.Global() {
			if code, body, err := get(p.Peer, netip.AddrPortFrom(a, httpPort), "/healthz"); code != http.StatusOK {
				t.Errorf("once QEMU runs: %d %s %v", code, body, err)
			}
		}
		v.Signal(t, syscall.SIGKILL)
		v.Exit(t)
		if err := os.RemoveAll(c.data); err != nil {
			t.Fatal(err)
		}
		c.makeDirs(t)
	}
}
