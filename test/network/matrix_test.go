package network

import (
	"cmp"
	"flag"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	diff "github.com/google/go-cmp/cmp"

	"github.com/vmentry/vmentry/test/pod"
)

var table = flag.String("table", "", "write the matrix to this file")

// The matrix's columns, in the order in which they are proved.
const (
	colConfigured = "addresses, routes, DNS, MTU"
	colReached    = "reached"
	colReaches    = "reaches out"
	colFull       = "full frames"
	colProbe      = "probe"
	colStrange    = "nothing foreign"
	colInterface  = "pod's interface"
	colReboot     = "guest rebooted"
	colKilled     = "killed, restarted"
	colForgotten  = "killed, run directory lost"
	colClient     = "other clients"
	colQuiet      = "no DHCP on the wire"
)

var columns = []string{colConfigured, colReached, colReaches, colFull, colProbe, colStrange, colInterface, colReboot, colKilled, colForgotten, colClient, colQuiet}

// restarted are the shapes whose guest is restarted by itself, and whose container is with what it left in its run directory: one of each way to be connected. The
// rest would take long and show nothing else.
var restarted = []string{"CNI bridge, no hairpin, dual stack", "CNI ptp (GKE)", "Docker's own network", "Calico, dual stack", "two interfaces", "NET_ADMIN alone"}

// otherClients are the shapes whose guest asks for its addresses once more, with other clients than dhcpcd. Each tells something by routes that
// are easily got wrong.
var otherClients = []string{"flannel", "Calico", "CNI ptp (GKE)", "two interfaces"}

// row is what was proved of one shape.
type row struct {
	cells map[string]string // by column
}

// prove runs a column's test. A guest without its addresses is not tried any further: it fails in all else, and takes its time
// over each.
func (r *row) prove(t *testing.T, column string, test func(*testing.T)) {
	t.Helper()
	if r.cells[colConfigured] == no {
		return
	}
	r.cells[column] = yes
	if !t.Run(column, test) {
		r.cells[column] = no
	}
}

// What stands in a cell.
const (
	yes      = "yes"
	no       = "**no**"
	notTried = "–" // it makes no sense there, or would show nothing new
)

// modes are the modes that have a matrix, each with its shapes, and with what goes through its columns for one pod.
var modes = []struct {
	mode   mode
	shapes []string // nil: all
	prove  func(*testing.T, *row, *pod.Pod)
}{
	{bridge, nil, proveBridge},
	{nat, natShapes, proveNAT},
}

// TestMatrix: on each kind of network the guest is what its mode says.
func TestMatrix(t *testing.T) {
	t.Parallel()
	var mu sync.Mutex
	rows := map[mode]map[string]*row{}
	t.Run("all", func(t *testing.T) {
		for _, m := range modes {
			rows[m.mode] = map[string]*row{}
			for _, shape := range pod.Shapes() {
				if m.shapes != nil && !slices.Contains(m.shapes, shape.Name) {
					continue
				}
				t.Run(fmt.Sprintf("%s/%s", m.mode, shape.Name), func(t *testing.T) {
					t.Parallel()
					r := &row{cells: map[string]string{}}
					mu.Lock()
					rows[m.mode][shape.Name] = r
					mu.Unlock()
					m.prove(t, r, pod.New(t, shape))
				})
			}
		}
	})
	publish(t, rows)
}

// proveBridge: the guest has all that the pod had.
func proveBridge(t *testing.T, r *row, p *pod.Pod) {
	quiet := listen(t, p)
	g := newGuest(t, p)
	v := g.container.start(t)
	v.awaitReady(t, 1)
	r.prove(t, colConfigured, func(t *testing.T) { g.configured(t, v) })
	r.prove(t, colReached, func(t *testing.T) { g.reached(t) })
	r.prove(t, colReaches, func(t *testing.T) { g.reaches(t, v) })
	r.prove(t, colFull, func(t *testing.T) { g.fullFrames(t, v) })
	if g.served {
		r.prove(t, colProbe, func(t *testing.T) { g.probed(t, v) })
		r.prove(t, colStrange, func(t *testing.T) { g.undisturbed(t, v) })
	}
	r.prove(t, colInterface, func(t *testing.T) { g.interfaces(t) })
	if slices.Contains(otherClients, p.Shape.Name) {
		r.prove(t, colClient, func(t *testing.T) {
			g.asksAgain(t, v, "udhcpc")
			g.asksAgain(t, v, "dhclient")
		})
	}
	if slices.Contains(restarted, p.Shape.Name) {
		r.prove(t, colReboot, func(t *testing.T) { g.rebooted(t, v) })
		if p.Shape.Container.Capabilities == pod.NetAdmin || len(p.Before.Cards) > 1 {
			r.prove(t, colKilled, func(t *testing.T) { v = g.killed(t, v) })
		}
	}
	r.prove(t, colForgotten, func(t *testing.T) {
		v.Signal(t, syscall.SIGKILL)
		v.Exit(t)
		g.container.forgetRun(t)
		v = g.startedAgain(t)
	})
	r.prove(t, colQuiet, quiet.nothing)
	if !t.Failed() {
		v.Signal(t, syscall.SIGTERM)
		v.Wants(t, 0)
	}
}

// guest is the guest of a pod, as it should be.
type guest struct {
	t         *testing.T // of the whole shape: what a column's test starts goes on after it
	pod       *pod.Pod
	container *container
	want      bridged
	served    bool // vmentry tells the guest its addresses
	addresses []netip.Addr
}

// newGuest is a guest that asks for its addresses by a real client; or, where the pod has none to give, one that has been told them.
func newGuest(t *testing.T, p *pod.Pod) *guest {
	t.Helper()
	if len(p.Before.Global()) > 0 {
		return asking(t, p, "dhcpcd")
	}
	want := newBridged(t, p)
	want.before.Cards = slices.Clone(want.before.Cards)
	for _, a := range []netip.Prefix{pod.Unserved4, pod.Unserved6} {
		want.before.Cards[0].Addresses = append(want.before.Cards[0].Addresses, pod.Address{Prefix: a})
		want.before.Routes = append(want.before.Routes, pod.Route{Destination: a.Masked(), Card: "eth0"})
	}
	return told(t, p, want)
}

// guestWords are for all guests.
var guestWords = fmt.Sprintf("vmtest.frames vmtest.services=%d ", servicePort)

// asking is a guest with a client for DHCP, by its name in test/tinyguest/init.
func asking(t *testing.T, p *pod.Pod, client string) *guest {
	t.Helper()
	g := &guest{t: t, pod: p, want: newBridged(t, p), served: true, addresses: p.Before.Global()}
	g.container = newContainer(t, p, bridge, guestWords+"vmtest.dhcp="+client, fmt.Sprint("VM_READY=tcp:", readyPort))
	return g
}

// told is a guest whose own configuration gives its first card the addresses and default routes that it should have.
func told(t *testing.T, p *pod.Pod, want bridged, settings ...string) *guest {
	t.Helper()
	words := guestWords + "vmtest.dhcp=none"
	for _, a := range want.before.Cards[0].Global() {
		words += fmt.Sprintf(" vmtest.address=eth0,%s", a)
		if r, ok := want.before.Default(a.Addr().Is6()); ok {
			words += "," + r.Via.String()
		}
	}
	g := &guest{t: t, pod: p, want: want, addresses: want.before.Global()}
	g.container = newContainer(t, p, bridge, words, settings...)
	return g
}

// configured: the guest has what the pod had, all of it and nothing else.
func (g *guest) configured(t *testing.T, v *vm) {
	v.settled(t, func(s pod.State) []string { return g.want.differences(s, g.served) })
	if g.want.unreachableServer() {
		if out := v.tell(t, "nslookup -type=a vmtest.example"); !strings.Contains(out, pod.Answer.String()) {
			t.Errorf("the name server that the guest was given says:\n%s", out)
		}
	}
}

// reached: the node and the client beyond it reach the guest on each of its addresses.
func (g *guest) reached(t *testing.T) {
	for _, a := range g.addresses {
		ping(t, g.pod.Peer, a, 0)
		if _, err := converse(g.pod.Peer, a); err != nil {
			t.Errorf("from the node to %s: %v", a, err)
		}
		if !g.routed(a) {
			continue
		}
		ping(t, g.pod.Client, a, 0)
		from, err := converse(g.pod.Client, a)
		if client := g.pod.ClientAddr(a.Is6()); err != nil || from != client {
			t.Errorf("from the client %s to %s: seen as %s, %v", client, a, from, err)
		}
		datagram(t, g.pod.Client, a)
	}
}

// routed says whether an address of the guest's is on the card with the default route, and so can answer a client that is not
// on its link.
func (g *guest) routed(a netip.Addr) bool {
	r, ok := g.want.before.Default(a.Is6())
	return ok && slices.ContainsFunc(g.want.before.Cards, func(c pod.Card) bool {
		return c.Name == r.Card && slices.ContainsFunc(c.Global(), func(p netip.Prefix) bool { return p.Addr() == a })
	})
}

// reaches: the guest connects to the client by its default route, and is seen there by the pod's address; without a default
// route, to the node.
func (g *guest) reaches(t *testing.T, v *vm) {
	for _, a := range g.addresses {
		if g.routed(a) {
			v.calls(t, g.pod.Client, g.pod.ClientAddr(a.Is6()), a)
		} else if node, ok := nodeOn(t, g.pod, a); ok {
			v.calls(t, g.pod.Peer, node, a)
		}
	}
}

// nodeOn is the node's address on the subnet of one of the pod's.
func nodeOn(t *testing.T, p *pod.Pod, a netip.Addr) (netip.Addr, bool) {
	t.Helper()
	for _, c := range p.Before.Cards {
		for _, subnet := range c.Global() {
			if subnet.Addr() != a {
				continue
			}
			for _, there := range pod.Cards(t, p.Peer) {
				for _, node := range there.Global() {
					if subnet.Contains(node.Addr()) {
						return node.Addr(), true
					}
				}
			}
		}
	}
	return netip.Addr{}, false
}

// fullFrames: pings that fill the MTU pass, and come back in one frame, as the guest's own MTU is the same.
func (g *guest) fullFrames(t *testing.T, v *vm) {
	for _, c := range g.want.before.Cards {
		for _, a := range c.Global() {
			ping(t, g.pod.Peer, a.Addr(), g.want.before.Payload(c, a.Addr()))
		}
	}
	if out := v.tell(t, "grep -h . /proc/net/snmp | grep ^Ip:"); !noFragments(out) {
		t.Errorf("the guest cuts up what it sends:\n%s", out)
	}
}

// noFragments reads the two lines that /proc/net/snmp has for IP: names, and values.
func noFragments(text string) bool {
	names, values, _ := strings.Cut(text, "\n")
	i := slices.Index(strings.Fields(names), "FragCreates")
	f := strings.Fields(values)
	return i > 0 && i < len(f) && f[i] == "0"
}

// probed: readiness is asked from inside the pod, and it is the guest's.
func (g *guest) probed(t *testing.T, v *vm) {
	if out, code := v.call(t, "probe", "ready"); code != 1 {
		t.Errorf("probe ready is %d while nobody listens: %s", code, out)
	}
	v.tell(t, fmt.Sprintf("netd services %d >/dev/null 2>&1 &", readyPort))
	v.Stderr.Await(t, "INF ready")
	if out, code := v.call(t, "probe", "ready"); code != 0 {
		t.Errorf("probe ready is %d while the guest listens: %s", code, out)
	}
}

// seen are the kinds of the stranger's frames that reach the guest. Some do in every case.
func (g *guest) seen(t *testing.T, v *vm) []string {
	t.Helper()
	stop := strange(t, g.pod)
	defer stop()
	var kinds []string
	pod.Eventually(t, func() error {
		var marks int
		kinds = nil
		for line := range strings.Lines(v.tell(t, "sleep 2; cat /run/frames")) { // the stranger speaks once a second
			f := strings.Fields(line)
			if len(f) != 3 || f[1] != stranger.String() {
				continue
			}
			if kinds = append(kinds, f[2]); f[2] == "mark" {
				marks++
			}
		}
		if marks < 2*len(g.pod.Wires) {
			return fmt.Errorf("of the stranger's frames the guest has seen %v", kinds)
		}
		return nil
	})
	slices.Sort(kinds)
	return slices.Compact(kinds)
}

// undisturbed: others' router advertisements and DHCP do not reach the guest; the rest of what they send does. Nor does the
// pod take an address from them.
func (g *guest) undisturbed(t *testing.T, v *vm) {
	if kinds := g.seen(t, v); !slices.Equal(kinds, []string{"mark"}) {
		t.Errorf("the stranger's %v have reached the guest", kinds)
	}
	if d := g.want.differences(v.state(t), g.served); len(d) > 0 {
		t.Errorf("the stranger has changed the guest:\n%s", strings.Join(d, "\n"))
	}
	for _, c := range g.pod.Now(t) {
		for _, a := range c.Addresses {
			if strangeNet.Contains(a.Prefix.Addr()) {
				t.Errorf("%s of the pod has taken %s from the stranger", c.Name, a.Prefix)
			}
		}
	}
}

// interfaces: runtime and CNI find the pod's interfaces as they left them.
func (g *guest) interfaces(t *testing.T) {
	now := g.pod.Now(t)
	for _, want := range g.pod.Before.Cards {
		i := slices.IndexFunc(now, func(c pod.Card) bool { return c.Name == want.Name })
		if i < 0 {
			t.Errorf("%s is gone", want.Name)
			continue
		}
		got := now[i]
		if got.MAC != want.MAC || !got.Up || got.MTU != want.MTU {
			t.Errorf("%s has MAC %s, MTU %d, up %t; want %s, %d", want.Name, got.MAC, got.MTU, got.Up, want.MAC, want.MTU)
		}
		if changed := diff.Diff(words(want.Global()), words(got.Global())); changed != "" {
			t.Errorf("the addresses of %s (-before +now):\n%s", want.Name, changed)
		}
	}
}

// works is the short form of what a guest must be able to do, after a restart.
func (g *guest) works(t *testing.T, v *vm) {
	t.Helper()
	g.configured(t, v)
	g.reached(t)
	g.reaches(t, v)
}

// asksAgain: another client gets the same, also one that knows less of DHCP.
func (g *guest) asksAgain(t *testing.T, v *vm, client string) {
	v.tell(t, "vmtest-ask "+client)
	g.works(t, v)
}

// rebooted: the guest alone was restarted.
func (g *guest) rebooted(t *testing.T, v *vm) {
	if out, code := v.call(t, "reset"); code != 0 {
		t.Fatalf("reset: %d: %s", code, out)
	}
	v.awaitReady(t, 2)
	g.works(t, v)
}

// killed: vmentry and all that it had started are no more, without a chance to clean up, and are started again.
func (g *guest) killed(t *testing.T, v *vm) *vm {
	v.Signal(t, syscall.SIGKILL)
	v.Exit(t)
	return g.startedAgain(t)
}

func (g *guest) startedAgain(t *testing.T) *vm {
	v := g.container.start(g.t)
	v.awaitReady(t, 1)
	g.works(t, v)
	g.interfaces(t)
	return v
}

// publish writes the matrix where it was asked for. When all of it has been run, the document must have it.
func publish(t *testing.T, rows map[mode]map[string]*row) {
	var text strings.Builder
	whole := true
	for _, m := range modes {
		fmt.Fprintf(&text, "### %s\n\n%s\n", m.mode, markdown(rows[m.mode]))
		shapes := len(m.shapes)
		if m.shapes == nil {
			shapes = len(pod.Shapes())
		}
		whole = whole && len(rows[m.mode]) == shapes
	}
	if *table != "" {
		if err := os.WriteFile(*table, []byte(text.String()), 0o644); err != nil {
			t.Error(err)
		}
	}
	if !whole {
		return
	}
	documented(t, "../../docs/networking.md", "matrix", "\n"+text.String())
}

// markdown is the table, in the order of the shapes.
func markdown(rows map[string]*row) string {
	var b strings.Builder
	fmt.Fprintf(&b, "| network | %s |\n|---|%s\n", strings.Join(columns, " | "), strings.Repeat("---|", len(columns)))
	for _, shape := range pod.Shapes() {
		r := rows[shape.Name]
		if r == nil {
			continue
		}
		fmt.Fprintf(&b, "| %s |", shape.Name)
		for _, c := range columns {
			fmt.Fprintf(&b, " %s |", cmp.Or(r.cells[c], notTried))
		}
		b.WriteString("\n")
	}
	return b.String()
}
