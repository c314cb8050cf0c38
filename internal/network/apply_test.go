package network

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netns"
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
	peer("ip", "link", "add", "host0", "type", "veth", "peer", "name", "eth0", "netns", podName)
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

// listenIn listens in another network namespace, on the address that the pod knows of it.
func listenIn(t *testing.T, namespace string) net.Listener {
	t.Helper()
	type result struct {
		l   net.Listener
		err error
	}
	listening := make(chan result)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread has left its namespace
		ns, err := netns.GetFromName(namespace)
		if err != nil {
			listening <- result{nil, err}
			return
		}
		defer ns.Close()
		if err := netns.Set(ns); err != nil {
			listening <- result{nil, err}
			return
		}
		l, err := net.Listen("tcp4", "10.7.0.1:0")
		listening <- result{l, err}
	}()
	r := <-listening
	if r.err != nil {
		t.Fatal(r.err)
	}
	return r.l
}

func run(t *testing.T, command string, args ...string) string {
	t.Helper()
	text, err := exec.Command(command, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", command, strings.Join(args, " "), err, text)
	}
	return string(text)
}

// state is all that a start can change in a pod. Times that go by are left out, and the metric of IPv6's local routes, which is 0 when
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

var passing = regexp.MustCompile(`(_timer +[\d.]+|expires [^ ]+)`)

func bridgeInput(t *testing.T) Input {
	t.Helper()
	pod, err := Inspect(t.TempDir() + "/none")
	if err != nil {
		t.Fatal(err)
	}
	return Input{Mode: Bridge, HostName: "vm", NICModel: "virtio", CPUs: 2, DHCP: true, Pod: pod}
}

func apply(t *testing.T) (*Joined, Plan) {
	t.Helper()
	plan, err := MakePlan(bridgeInput(t))
	if err != nil {
		t.Fatal(err)
	}
	joined, err := plan.Apply()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(joined.Close)
	await(t, "ip -6 route show table local dev vm-br0", plan.Bridges[0].Inside.V6.String()) // when the bridge's carrier is seen
	return joined, plan
}

// settled waits until the pod's addresses are certain: until then they are nobody's.
func settled(t *testing.T) {
	t.Helper()
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

func TestReleaseUndoesApply(t *testing.T) {
	pod(t)
	settled(t)
	before := state(t)
	joined, first := apply(t)
	if first.Release {
		t.Error("the first start finds something to release")
	}
	during := state(t)
	if during == before {
		t.Fatal("nothing was done")
	}
	joined.Close() // vmentry is killed
	again, second := apply(t)
	if !second.Release {
		t.Error("a start after a crash does not see what the one before has left")
	}
	second.Release, second.Warnings = first.Release, first.Warnings
	if diff := cmp.Diff(fmt.Sprint(first.Lines()), fmt.Sprint(second.Lines())); diff != "" {
		t.Errorf("a start after a crash plans something else: %s", diff)
	}
	if diff := cmp.Diff(numberless(during), numberless(state(t))); diff != "" {
		t.Errorf("applied twice: %s", diff)
	}
	again.Close()
	for range 2 {
		if err := Release(); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(before, state(t)); diff != "" {
			t.Errorf("the pod is not what it was: %s", diff)
		}
	}
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
	pod(t)
	settled(t)
	before := state(t)
	plan, err := MakePlan(bridgeInput(t))
	if err != nil {
		t.Fatal(err)
	}
	b := plan.Bridges[0]
	steps := []func() error{
		func() error { return filter(plan.Bridges) },
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
		if diff := cmp.Diff(before, state(t)); diff != "" {
			t.Errorf("cut off after step %d, the pod is not what it was: %s", n, diff)
		}
	}
}

// TestOutward: the pod still speaks to the outside while the guest has its address, and what it hears is not for the guest.
func TestOutward(t *testing.T) {
	peer := pod(t)
	joined, _ := apply(t)
	const text = "for the pod alone"
	l := listenIn(t, peerName)
	defer l.Close()
	go func() {
		if conn, err := l.Accept(); err == nil {
			conn.Write([]byte(text))
			conn.Close()
		}
	}()
	conn, err := net.DialTimeout("tcp4", l.Addr().String(), time.Minute)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	if got, err := io.ReadAll(conn); string(got) != text {
		t.Errorf("the pod hears %q from outside (%v), want %q", got, err, text)
	}
	// the guest's tap has seen nothing of it
	queue := joined.Taps[0][0]
	queue.SetReadDeadline(time.Now())
	for frame := make([]byte, 2000); ; {
		n, err := queue.Read(frame)
		if err != nil {
			break
		}
		if strings.Contains(string(frame[:n]), text) {
			t.Errorf("the guest hears what is for the pod")
		}
	}
	if neighbours := peer("ip", "neigh", "show", "10.7.0.5"); strings.Contains(neighbours, "lladdr fe:") {
		t.Errorf("the network takes the bridge for the guest: %s", neighbours)
	}
}
