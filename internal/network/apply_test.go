package network

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
)

var (
	podName  = fmt.Sprintf("vmnet-pod-%d", os.Getpid())
	peerName = fmt.Sprintf("vmnet-peer-%d", os.Getpid())
)

// pod makes a pod and a peer in network namespaces of their own, joined by a veth pair, and moves the test into the pod's. Addresses
// and routes are those of a dual-stack cluster. It returns what runs a command in the peer's.
func pod(t *testing.T) (peer func(command string, args ...string) string) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("network namespaces need root")
	}
	for _, name := range []string{podName, peerName} {
		run(t, "ip", "netns", "add", name)
		t.Cleanup(func() { exec.Command("ip", "netns", "del", name).Run() })
	}
	peer = func(command string, args ...string) string {
		t.Helper()
		return run(t, "ip", append([]string{"netns", "exec", peerName, command}, args...)...)
	}
	// not at random: one in 32 would begin as those that vmentry makes
	peer("ip", "link", "add", "host0", "address", "0a:07:00:00:00:01", "type", "veth", "peer", "name", "eth0", "address", "0a:07:00:00:00:05", "netns", podName)
	peer("ip", "addr", "add", "10.7.0.1/24", "dev", "host0")
	peer("ip", "addr", "add", "fd07::1/64", "dev", "host0", "nodad")
	peer("ip", "link", "set", "host0", "up")

	enter(t, podName)
	for _, command := range []string{
		"link set lo up", "addr add 10.7.0.5/24 dev eth0", "addr add fd07::5/64 dev eth0 nodad", "link set eth0 up mtu 1400",
		"route add 10.8.0.0/16 via 10.7.0.254", "route add default via 10.7.0.1", "-6 route add default via fd07::1",
	} {
		run(t, "ip", strings.Fields(command)...)
	}
	return peer
}

// enter moves the test's thread, and what it starts, into a network namespace. The thread ends with the test.
func enter(t *testing.T, name string) {
	t.Helper()
	runtime.LockOSThread()
	ns, err := netns.GetFromName(name)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := netns.Set(ns); err != nil {
		t.Fatal(err)
	}
}

// in runs f in another network namespace: the sockets that it opens are that one's.
func in(t *testing.T, namespace string, f func() error) {
	t.Helper()
	if err := inside(namespace, f); err != nil {
		t.Fatal(err)
	}
}

func inside(namespace string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread has left its namespace
		ns, err := netns.GetFromName(namespace)
		if err != nil {
			done <- err
			return
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	return <-done
}

func run(t *testing.T, command string, args ...string) string {
	t.Helper()
	var stderr strings.Builder
	cmd := exec.Command(command, args...)
	cmd.Stderr = &stderr // not part of the answer: ip complains of namespaces of other tests that go away
	text, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", command, strings.Join(args, " "), err, text, &stderr)
	}
	return string(text)
}

// state is all that a start can change in a pod. Times that go by are left out, and what the rules have noted of the traffic, and the metric of IPv6's local routes, which is 0 when
// the kernel makes them and cannot be 0 when anybody else does.
func state(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	for _, command := range []string{
		"ip -d link show", "ip addr show", "ip route show table all", "ip -6 route show table all", "ip rule", "bridge link", "bridge fdb show", "nft list ruleset",
	} {
		words := strings.Fields(command)
		fmt.Fprintf(&all, "$ %s\n%s", command, run(t, words[0], words[1:]...))
	}
	text := passing.ReplaceAllString(all.String(), "")
	return regexp.MustCompile(`(local .* proto kernel) metric \d+`).ReplaceAllString(text, "$1")
}

var passing = regexp.MustCompile(`(_timer +[\d.]+|expires [^ ]+|\s*elements = \{[^}]*\})`)

func bridgeInput(t *testing.T) Input {
	t.Helper()
	pod, err := Inspect(Bridge, Files{})
	if err != nil {
		t.Fatal(err)
	}
	return Input{Mode: Bridge, HostName: "vm", NICModel: "virtio", CPUs: 2, DHCP: true, Pod: pod}
}

func apply(t *testing.T) (*Joined, Plan) {
	t.Helper()
	return applyInput(t, bridgeInput(t))
}

func applyInput(t *testing.T, in Input) (*Joined, Plan) {
	t.Helper()
	plan, err := MakePlan(in)
	if err != nil {
		t.Fatal(err)
	}
	joined, err := plan.Apply()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(joined.Close)
	await(t, "ip -6 route show table local dev vm-br0", plan.Bridges[0].Reach.V6.String()) // when the bridge's carrier is seen
	return joined, plan
}

// settled waits until the pod's addresses are certain: until then they are nobody's.
func settled(t *testing.T) {
	t.Helper()
	await(t, "ip link show dev eth0", "state UP")
	await(t, "ip -6 route show table local dev eth0", "local fe80:")
}

// await runs a command until it says text.
func await(t *testing.T, command, text string) {
	t.Helper()
	words := strings.Fields(command)
	for began := time.Now(); !strings.Contains(run(t, words[0], words[1:]...), text); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("%s never says %q", command, text)
		}
	}
}

// awaitNot runs a command until it does not say text any more.
func awaitNot(t *testing.T, command, text string) {
	t.Helper()
	words := strings.Fields(command)
	for began := time.Now(); strings.Contains(run(t, words[0], words[1:]...), text); time.Sleep(20 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("%s still says %q", command, text)
		}
	}
}

func TestReleaseUndoesApply(t *testing.T) {
	for name, input := range inputs {
		t.Run(name, func(t *testing.T) { releaseUndoesApply(t, input) })
	}
}

// inputs are starts that leave different things behind.
var inputs = map[string]func(*testing.T) Input{"plain": bridgeInput, "with a port taken from the guest": interceptInput}

func releaseUndoesApply(t *testing.T, input func(*testing.T) Input) {
	pod(t)
	settled(t)
	before := state(t)
	joined, first := applyInput(t, input(t))
	if first.Release {
		t.Error("the first start finds something to release")
	}
	during := state(t)
	if during == before {
		t.Fatal("nothing was done")
	}
	joined.Close() // vmentry is killed
	again, second := applyInput(t, input(t))
	if !second.Release {
		t.Error("a start after a crash does not see what the one before has left")
	}
	second.Release, second.Warnings = first.Release, first.Warnings
	if diff := cmp.Diff(fmt.Sprint(first.Lines()), fmt.Sprint(second.Lines())); diff != "" {
		t.Errorf("a start after a crash plans something else: %s", diff)
	}
	wantState(t, during, "applied twice")
	again.Close()
	for range 2 {
		if err := Release(); err != nil {
			t.Fatal(err)
		}
		wantState(t, before, "the pod is not what it was")
	}
}

// wantState waits until the state is what it should be: what hangs on a link's carrier changes in the kernel's own time.
func wantState(t *testing.T, want, otherwise string) {
	t.Helper()
	var diff string
	for began := time.Now(); time.Since(began) < 20*time.Second; time.Sleep(100 * time.Millisecond) {
		if diff = cmp.Diff(numberless(want), numberless(state(t))); diff == "" {
			return
		}
	}
	t.Errorf("%s: %s", otherwise, diff)
}

// numberless is a state without the numbers that the kernel gives to links as they are made, and the order that they bring.
func numberless(state string) string {
	lines := strings.Split(state, "\n")
	for i, l := range lines {
		if number, rest, found := strings.Cut(l, ": "); found && strings.Trim(number, "0123456789") == "" {
			lines[i] = rest
		}
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

// TestReleaseAfterACut cuts a start off after each of its steps.
func TestReleaseAfterACut(t *testing.T) {
	for name, input := range inputs {
		t.Run(name, func(t *testing.T) { releaseAfterACut(t, input) })
	}
}

func releaseAfterACut(t *testing.T, input func(*testing.T) Input) {
	pod(t)
	settled(t)
	before := state(t)
	plan, err := MakePlan(input(t))
	if err != nil {
		t.Fatal(err)
	}
	b := plan.Bridges[0]
	steps := []func() error{
		func() error {
			rules, err := begin()
			if err != nil {
				return err
			}
			defer rules.end()
			return plan.filter(rules)
		},
		func() error { _, err := makeBridge(b.Name, b.MAC, b.MTU); return err },
		func() error {
			j := &Joined{}
			defer j.Close()
			return b.make(j)
		},
		func() error {
			j := &Joined{}
			defer j.Close()
			if err := b.make(j); err != nil {
				return err
			}
			return b.join()
		},
	}
	for n := range steps {
		for _, step := range steps[:n+1] {
			if err := step(); err != nil {
				t.Fatal(err)
			}
		}
		if err := Release(); err != nil {
			t.Fatal(err)
		}
		wantState(t, before, fmt.Sprintf("cut off after step %d, the pod is not what it was", n))
	}
}

// TestInUse: the network of a guest that is alive is not touched, by whoever starts beside it.
func TestInUse(t *testing.T) {
	pod(t)
	settled(t)
	joined, plan := apply(t)
	before := state(t)
	again, err := plan.Apply()
	if !errors.Is(err, ErrInUse) {
		t.Errorf("a second Apply: %v, want %v", err, ErrInUse)
	}
	if err == nil {
		again.Close()
	}
	if err := Release(); !errors.Is(err, ErrInUse) {
		t.Errorf("Release: %v, want %v", err, ErrInUse)
	}
	wantState(t, before, "the network has changed")
	joined.Close()
	if err := Release(); err != nil {
		t.Error(err)
	}
}

// TestForeignBridge: a link that is called as vmentry's are is not deleted for its name.
func TestForeignBridge(t *testing.T) {
	pod(t)
	run(t, "ip", "link", "add", "vm-br0", "type", "veth", "peer", "name", "other0")
	if err := Release(); err != nil {
		t.Fatal(err)
	}
	run(t, "ip", "link", "show", "vm-br0")
}

// TestForeignRule: a routing rule of somebody else's in the place of vmentry's is named, and stays.
func TestForeignRule(t *testing.T) {
	pod(t)
	run(t, "ip", strings.Fields("rule add pref 75 from 192.0.2.1 lookup 75")...)
	plan, err := MakePlan(bridgeInput(t))
	if err != nil {
		t.Fatal(err)
	}
	joined, err := plan.Apply()
	if err == nil {
		joined.Close()
		t.Error("the pod's way to the guest is missing, and nobody says so")
	} else if !strings.Contains(err.Error(), "rule 75") {
		t.Errorf("%v does not name the rule", err)
	}
	if err := Release(); err != nil {
		t.Fatal(err)
	}
	if rules := run(t, "ip", "rule"); !strings.Contains(rules, "192.0.2.1") {
		t.Errorf("the rule is gone:\n%s", rules)
	}
}

// TestInspectWaits: an address that the pod was given a moment ago is the guest's, too.
func TestInspectWaits(t *testing.T) {
	pod(t)
	run(t, "ip", "addr", "add", "fd07::6/64", "dev", "eth0")
	var got []netip.Addr
	for _, a := range bridgeInput(t).Pod.link("eth0").addresses(false) {
		got = append(got, a.Addr())
	}
	if want := netip.MustParseAddr("fd07::6"); !slices.Contains(got, want) {
		t.Errorf("the pod's addresses are %v, without %s", got, want)
	}
}

// TestIPv6OfInterfaces: in Docker's networks IPv6 is on where there is an address, and nowhere else; the guest has it all the same.
func TestIPv6OfInterfaces(t *testing.T) {
	pod(t)
	for _, command := range []string{
		"sysctl -qw net.ipv6.conf.all.disable_ipv6=1", "sysctl -qw net.ipv6.conf.eth0.disable_ipv6=0",
		"ip addr add fd07::5/64 dev eth0 nodad", "ip -6 route add default via fd07::1",
	} {
		words := strings.Fields(command)
		run(t, words[0], words[1:]...)
	}
	plan, err := MakePlan(bridgeInput(t))
	if err != nil {
		t.Fatal(err)
	}
	joined, err := plan.Apply()
	if err != nil {
		t.Fatal(err)
	}
	defer joined.Close()
	if v6 := plan.Bridges[0].Service.Lease.V6; v6 == nil || !v6.Router.IsValid() {
		t.Errorf("the guest is told %+v of IPv6", v6)
	}
}

// TestSeveralWays: of a route with several gateways the guest gets one.
func TestSeveralWays(t *testing.T) {
	pod(t)
	run(t, "ip", strings.Fields("route replace default nexthop via 10.7.0.1 nexthop via 10.7.0.2")...)
	r := bridgeInput(t).Pod.link("eth0").defaultRoute(true)
	if want := netip.MustParseAddr("10.7.0.1"); r == nil || r.Via != want {
		t.Errorf("the default route is %v, want one via %s", r, want)
	}
}

// TestGatewaysRemembered: a start finds the gateways' hardware addresses when the one before has made it impossible to ask for them.
func TestGatewaysRemembered(t *testing.T) {
	pod(t)
	settled(t)
	joined, first := apply(t)
	joined.Close()
	for _, f := range []string{"-4", "-6"} {
		run(t, "ip", f, "neigh", "flush", "dev", "eth0", "nud", "all")
	}
	second, err := MakePlan(bridgeInput(t))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first.Bridges, second.Bridges, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})); diff != "" {
		t.Errorf("the second start plans something else (-first +second):\n%s", diff)
	}
}

// TestLasting: what router advertisements have told the pod does not run out while it cannot hear them.
func TestLasting(t *testing.T) {
	pod(t)
	for _, command := range []string{
		"-6 route replace default via fd07::1 proto ra expires 1800", "-6 route add fd08::/48 via fd07::1 proto ra expires 1800",
		"addr replace fd07::5/64 dev eth0 nodad valid_lft 1800 preferred_lft 1800",
	} {
		run(t, "ip", strings.Fields(command)...)
	}
	apply(t)
	for command, want := range map[string]string{"ip -6 route show default": "via fd07::1", "ip -6 route show fd08::/48": "via fd07::1", "ip -6 addr show dev eth0 scope global": "fd07::5"} {
		words := strings.Fields(command)
		text := run(t, words[0], words[1:]...)
		if strings.Contains(text, "expires") || strings.Contains(text, "sec") || !strings.Contains(text, want) {
			t.Errorf("%s says:\n%s", command, text)
		}
	}
}

// TestSecondInterface: the pod reaches the networks of an interface that it keeps, and the guest at its second one.
func TestSecondInterface(t *testing.T) {
	peer := pod(t)
	settled(t)
	peer("ip", "link", "add", "host1", "type", "veth", "peer", "name", "net1", "netns", podName)
	peer("ip", "link", "set", "host1", "up")
	run(t, "ip", "addr", "add", "10.9.0.5/24", "dev", "net1")
	run(t, "ip", "link", "set", "net1", "up")
	await(t, "ip -6 route show table local dev net1", "local fe80:")
	before := state(t)
	for _, tt := range []struct {
		name       string
		interfaces []string
		to, by     string
	}{
		{"the pod's", []string{"eth0"}, "10.9.0.1", "dev net1"},
		{"the guest's", []string{"eth0", "net1"}, "10.9.0.5", "dev vm-br1"},
		{"the guest's first", []string{"net1", "eth0"}, "10.9.0.5", "dev vm-br0"},
	} {
		in := bridgeInput(t)
		in.Interfaces = tt.interfaces
		plan, err := MakePlan(in)
		if err != nil {
			t.Fatal(err)
		}
		joined, err := plan.Apply()
		if err != nil {
			t.Fatal(err)
		}
		if route := run(t, "ip", "route", "get", tt.to); !strings.Contains(route, tt.by) {
			t.Errorf("net1 is %s, and the pod's way to %s is not %s:\n%s", tt.name, tt.to, tt.by, route)
		}
		joined.Close()
		if err := Release(); err != nil {
			t.Fatal(err)
		}
		wantState(t, before, fmt.Sprintf("net1 was %s, and the pod is not what it was", tt.name))
	}
}

// TestOutward: the pod still speaks to the outside while the guest has its address, and what it hears is not for the guest: answers, and
// the news that there is none.
func TestOutward(t *testing.T) {
	for name, input := range inputs {
		t.Run(name, func(t *testing.T) { goesOutward(t, input) })
	}
}

func goesOutward(t *testing.T, input func(*testing.T) Input) {
	peer := pod(t)
	settled(t) // a link that was only just made does not carry yet, and its gateway would not answer
	joined, plan := applyInput(t, input(t))
	peer("ip", "addr", "add", "192.0.2.9/32", "dev", "lo")
	peer("ip", "addr", "add", "2001:db8::9/128", "dev", "lo")
	for _, server := range []string{"10.7.0.1", "192.0.2.9", "fd07::1", "2001:db8::9"} {
		t.Run(server, func(t *testing.T) {
			in(t, podName, func() error { return outwardFrom(server) }) // a subtest has a thread of its own
			run(t, "ip", "netns", "exec", podName, "ping", "-c", "1", "-W", "60", server)
		})
	}
	// the guest's tap has seen nothing of it
	for _, queue := range joined.Taps[0] {
		queue.SetReadDeadline(time.Now().Add(time.Second)) // nothing more is on its way
		for frame := make([]byte, 2000); ; {
			n, err := queue.Read(frame)
			if err != nil {
				break
			}
			if strings.Contains(string(frame[:n]), forPod) {
				t.Errorf("the guest hears what is for the pod")
			}
		}
	}
	for _, a := range plan.Bridges[0].Reach.Guest {
		if neighbours := peer("ip", "neigh", "show", a.String()); strings.Contains(neighbours, "lladdr fe:") {
			t.Errorf("the network takes the bridge for the guest: %s", neighbours)
		}
	}
}

const forPod = "for the pod alone"

// outwardFrom speaks to a server of the peer's by TCP and UDP, and to a port where nobody listens.
func outwardFrom(server string) error {
	var listener net.Listener
	var answering net.PacketConn
	err := inside(peerName, func() (err error) {
		if listener, err = net.Listen("tcp", net.JoinHostPort(server, "0")); err == nil {
			answering, err = net.ListenPacket("udp", net.JoinHostPort(server, "0"))
		}
		return err
	})
	if err != nil {
		return err
	}
	defer listener.Close()
	defer answering.Close()
	go func() {
		if conn, err := listener.Accept(); err == nil {
			conn.Write([]byte(forPod))
			conn.Close()
		}
	}()
	go func() {
		if _, from, err := answering.ReadFrom(make([]byte, 100)); err == nil {
			answering.WriteTo([]byte(forPod), from)
		}
	}()
	for _, a := range []net.Addr{listener.Addr(), answering.LocalAddr()} {
		conn, err := net.DialTimeout(a.Network(), a.String(), time.Minute)
		if err != nil {
			return err
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(time.Minute))
		conn.Write([]byte("question"))
		got := make([]byte, len(forPod))
		if _, err := io.ReadFull(conn, got); string(got) != forPod {
			return fmt.Errorf("the pod hears %q from %s (%v)", got, a, err)
		}
	}
	return refusedBy(answering, server)
}

// refusedBy checks that the pod hears that nobody listens any more: by an ICMP error about its own datagram.
func refusedBy(closed net.PacketConn, server string) error {
	closed.Close()
	conn, err := net.Dial("udp", closed.LocalAddr().String())
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(time.Minute))
	conn.Write([]byte("question"))
	if _, err = conn.Read(make([]byte, 100)); !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("nobody listens at %s, and the pod hears: %v", server, err)
	}
	return nil
}

// TestNeutral: no checksum changes with the pod's address.
func TestNeutral(t *testing.T) {
	for _, a := range []string{"fd07::5", "2001:db8:ffff:ffff:ffff:ffff:ffff:fffe", "::1", "2001:db8::"} {
		other := netip.MustParseAddr(a)
		got := neutral(LinkLocal(net.HardwareAddr{0xfe, 0xff, 0xff, 1, 0xff, 0xff}), other)
		if !got.IsLinkLocalUnicast() || onesSum(got.As16()) != onesSum(other.As16()) {
			t.Errorf("%s in the place of %s changes checksums", got, other)
		}
	}
}

// TestQuietBridge: what is seen of the bridges from outside is nothing: they neither learn nor age, and nothing that they or vmentry's own
// ports say by themselves gets out, from the first moment on.
func TestQuietBridge(t *testing.T) {
	peer := pod(t)
	settled(t)
	dump := exec.Command("ip", "netns", "exec", peerName, "tcpdump", "-i", "host0", "-n", "-e", "-l", "--immediate-mode", "-Z", "root", "ether[6] == 0xfe")
	var seen strings.Builder
	dump.Stdout = &seen
	listening, err := dump.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := dump.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(listening)
	for lines.Scan() && !strings.Contains(lines.Text(), "listening on") {
	}
	_, plan := apply(t)
	// what a kernel says of itself when a link comes up (router solicitations, MLD) it says in the first second or two
	time.Sleep(3 * time.Second)
	dump.Process.Signal(os.Interrupt)
	for lines.Scan() {
	}
	dump.Wait()
	if frames := strings.TrimSpace(seen.String()); frames != "" {
		t.Errorf("seen on the network:\n%s", frames)
	}
	if text := run(t, "ip", "-d", "link", "show", "vm-br0"); !strings.Contains(text, "ageing_time 0 ") || !strings.Contains(text, plan.Bridges[0].MAC.String()) {
		t.Errorf("the bridge is:\n%s", text)
	}
	for _, port := range []string{"eth0", "vm-tap0", "vm-dhcp0"} {
		if text := run(t, "bridge", "-d", "link", "show", "dev", port); !strings.Contains(text, "learning off") {
			t.Errorf("the port %s learns:\n%s", port, text)
		}
	}
	if before := peer("ip", "link", "show", "host0"); !strings.Contains(before, "UP") {
		t.Errorf("the wire is down:\n%s", before)
	}
}

// TestKeeper: a gateway whose MAC changes is followed, and the guest is told where it has it from vmentry; an interface that is set down and up is
// still the guest's.
func TestKeeper(t *testing.T) {
	peer := pod(t)
	settled(t)
	joined, plan := apply(t)
	moved := make(chan net.HardwareAddr, 10)
	k := Keeper{
		Plan: plan, Joined: joined, Every: 100 * time.Millisecond, Log: slog.New(slog.DiscardHandler),
		Moved: func(_ int, mac net.HardwareAddr) { moved <- mac },
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error)
	go func() {
		ended <- inside(podName, func() error { return k.Run(ctx) })
	}()
	const other = "02:00:00:00:77:77"
	peer("ip", "link", "set", "host0", "address", other)
	for _, gateway := range []string{"10.7.0.1", "fd07::1", plan.Bridges[0].Outward[1].Gateway.IP.String()} {
		await(t, "ip neigh show "+gateway+" dev vm-br0", other)
	}
	if mac := <-moved; mac.String() != other {
		t.Errorf("the guest is told %s", mac)
	}
	run(t, "ip", "link", "set", "eth0", "down")
	run(t, "ip", "link", "set", "eth0", "up")
	awaitNot(t, "ip route show table local dev eth0", "local 10.7.0.5")
	cancel()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}
