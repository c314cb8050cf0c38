package network

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/pod"
	"github.com/vmentry/vmentry/test/process"
	"github.com/vmentry/vmentry/test/transcript"
)

// Ports of the guest, the same on the pod where it has forwards.
const (
	echoPort  = 5200 // sends back what it gets (netd)
	iperfPort = 5201 // iperf3
)

// speedShape is a veth pair and nothing else between the pod and who measures.
const speedShape = "CNI ptp, dual stack"

// speedWords are for all guests that are measured. The cards' names and drivers are the same in all of them.
var speedWords = fmt.Sprintf("vmtest.services=%d ", echoPort)

// measuredModes are the modes that are compared, each with what makes the ports reach the guest.
var measuredModes = []struct {
	mode     mode
	settings []string
}{
	{"user", forwards},
	{"passt", forwards},
	{"nat", forwards},
	{bridge, nil},
}

var forwards = []string{fmt.Sprintf("HOSTFWD=%[1]d:%[1]d,%[2]d:%[2]d", echoPort, iperfPort)}

// BenchmarkModes measures throughput and the time of a request through each mode as a ratio to the same guest on a tap that was
// joined to the pod's interface by hand. A round measures the one and then the other, so that what else the machine does slows
// both. A mode that this release has not, or that cannot run here, is left out.
func BenchmarkModes(b *testing.B) {
	bare, machine := newBare(b)
	r := report{machine: machine}
	for _, m := range measuredModes {
		b.Run(string(m.mode), func(b *testing.B) {
			through, missing := newThrough(b, m.mode, m.settings)
			if missing != "" {
				r.leaveOut(m.mode, missing)
				b.Skip(missing)
			}
			rounds := measureBoth(b, bare, through)
			r.add(m.mode, rounds)
			for i, ratio := range rounds.ratios() {
				b.ReportMetric(ratio, speedColumns[i].metric)
			}
			b.ReportMetric(0, "ns/op")
		})
	}
	fmt.Print(r.markdown())
}

// measureBoth measures two guests in turns. The first round of each does not count: QEMU translates the guest's code in it.
func measureBoth(b *testing.B, bare, through *measured) rounds {
	b.Helper()
	bare.measure(b)
	through.measure(b)
	var r rounds
	for b.Loop() {
		r.bare = append(r.bare, bare.measure(b))
		r.through = append(r.through, through.measure(b))
	}
	return r
}

// measured is a guest, and from where it is reached at which address.
type measured struct {
	vm      *vm
	from    pod.Space
	address netip.Addr
}

// newThrough starts a guest with vmentry; missing says why a mode cannot be measured here.
func newThrough(b *testing.B, m mode, settings []string) (g *measured, missing string) {
	b.Helper()
	p := pod.New(b, pod.Named(b, speedShape))
	c := newContainer(b, p, m, speedWords+"vmtest.dhcp=udhcpc", append([]string{"VM_ACCEL=auto"}, settings...)...)
	v := c.start(b)
	if err := v.Stdout.Find("vmtest: ready", 1); err != nil {
		return nil, v.missing(b)
	}
	return serving(b, v, p), ""
}

// missing is why vmentry has ended before the guest ran, where that is not the benchmark's own mistake.
func (v *vm) missing(b *testing.B) string {
	b.Helper()
	code, log := v.Exit(b), strings.TrimSpace(v.Stderr.String())
	if code == 69 {
		return log[strings.LastIndex(log, "ERR ")+len("ERR "):]
	}
	b.Fatalf("vmentry has ended with code %d", code)
	return ""
}

// serving waits until the guest's servers listen.
func serving(b *testing.B, v *vm, p *pod.Pod) *measured {
	b.Helper()
	v.tell(b, fmt.Sprintf("iperf3 --server --daemon --port %d", iperfPort))
	v.awaitListener(b, echoPort)
	return &measured{vm: v, from: p.Peer, address: address4(b, p).Addr()}
}

// awaitListener waits until somebody in the guest listens on port. From outside one could not tell: forwarders accept what the
// guest refuses.
func (v *vm) awaitListener(b *testing.B, port int) {
	b.Helper()
	v.tell(b, fmt.Sprintf("until netstat -ltn | grep -q ':%d '; do sleep 1; done", port))
}

// address4 is the pod's first address of IPv4.
func address4(b *testing.B, p *pod.Pod) netip.Prefix {
	b.Helper()
	for _, a := range p.Before.Cards[0].Global() {
		if a.Addr().Is4() {
			return a
		}
	}
	b.Fatalf("%s has no address of IPv4", p.Shape.Name)
	return netip.Prefix{}
}

// newBare starts the guest that the others are compared to, and tells on what machine. There is no vmentry in it: QEMU has a tap on
// a bridge with the pod's interface, and the guest the pod's address and MAC. The machine is the one that vmentry makes, with all its
// devices, as otherwise the machines would be compared: without a few idle devices a request takes a tenth less.
func newBare(b *testing.B) (*measured, string) {
	b.Helper()
	p := pod.New(b, pod.Named(b, speedShape))
	card, address := p.Before.Cards[0], address4(b, p)
	route, ok := p.Before.Default(false)
	if !ok {
		b.Fatalf("%s has no default route", p.Shape.Name)
	}
	words := fmt.Sprintf("%svmtest.dhcp=none vmtest.address=eth0,%s,%s", speedWords, address, route.Via)
	plan := planOf(b, newContainer(b, p, "none", words, "VM_ACCEL=auto"))

	p.Space.Run(b, "sh", "-ec", fmt.Sprintf(`
		ip addr flush dev %[1]s
		ip link set %[1]s address 02:00:00:00:00:01
		ip link add bare type bridge
		ip tuntap add tap0 mode tap vnet_hdr
		ip link set tap0 mtu %[2]d
		ip link set %[1]s master bare
		ip link set tap0 master bare up
		ip link set bare up`, card.Name, card.MTU))
	netdev := "tap,id=net0,ifname=tap0,script=no,downscript=no"
	if vhost() {
		netdev += ",vhost=on"
	}
	args := append(plan.machine(), "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio", "-netdev", netdev,
		"-device", fmt.Sprintf("virtio-net-pci,netdev=net0,mac=%s,host_mtu=%d,romfile=,bus=pcie.0,addr=0x02", card.MAC, card.MTU))
	v := &vm{Process: process.StartTyping(b, p.Space.Command(plan.QEMU.Path, args...))}
	v.awaitReady(b, 1)
	return serving(b, v, p), plan.describe(b)
}

// plan is what `vmentry plan -o json` says of QEMU.
type plan struct {
	QEMU struct {
		Path, Version string
		Arguments     []string
	}
}

func planOf(b *testing.B, c *container) plan {
	b.Helper()
	cmd := c.pod.Space.Command(binaries.VMEntry, "plan", "-o", "json")
	cmd.Env, cmd.Stderr = c.environment(b), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("vmentry plan: %v", err)
	}
	var p plan
	if err := json.Unmarshal(out, &p); err != nil {
		b.Fatalf("vmentry plan: %v\n%s", err, out)
	}
	return p
}

// option is the value of one of QEMU's options.
func (p plan) option(b *testing.B, name string) string {
	b.Helper()
	i := slices.Index(p.QEMU.Arguments, name)
	if i < 0 || i+1 == len(p.QEMU.Arguments) {
		b.Fatalf("the plan has no %s for QEMU", name)
	}
	return p.QEMU.Arguments[i+1]
}

// hardware are the options of QEMU that say what machine the guest has.
var hardware = []string{"-machine", "-accel", "-cpu", "-smp", "-m", "-kernel", "-initrd", "-append", "-object", "-device"}

// machine are QEMU's arguments without what is for vmentry: its sockets, the guest's configuration, and that it starts paused.
func (p plan) machine() []string {
	var args []string
	for i, name := range p.QEMU.Arguments {
		if !slices.Contains(hardware, name) {
			continue
		}
		value := p.QEMU.Arguments[i+1]
		if name == "-device" && (strings.Contains(value, ",chardev=") || strings.Contains(value, ",drive=")) {
			continue
		}
		args = append(args, name, value)
	}
	return args
}

// vhost says whether the kernel can move the frames of a tap itself; vmentry then has it do so.
func vhost() bool {
	f, err := os.OpenFile("/dev/vhost-net", os.O_RDWR, 0)
	if err != nil {
		return false
	}
	f.Close()
	return true
}

// figures are what was measured of a guest in one round, in the order of [speedColumns].
type figures [4]float64

func (g *measured) measure(b *testing.B) figures {
	b.Helper()
	times := g.requests(b)
	return figures{g.stream(b), g.stream(b, "--reverse"), times[len(times)/2].Seconds(), times[len(times)*99/100].Seconds()}
}

// stream is how many bits per second one TCP connection carries to the guest; with --reverse from it. The first second does not
// count: TCP begins slowly.
func (g *measured) stream(b *testing.B, more ...string) float64 {
	b.Helper()
	g.vm.awaitListener(b, iperfPort) // iperf3 closes its port between two tests
	args := []string{"iperf3", "--client", g.address.String(), "--port", fmt.Sprint(iperfPort), "--json", "--omit", "1", "--time", "3"}
	var result struct {
		End struct {
			Received struct {
				BitsPerSecond float64 `json:"bits_per_second"`
			} `json:"sum_received"`
		}
	}
	out := g.from.Run(b, append(args, more...)...)
	if err := json.Unmarshal([]byte(out), &result); err != nil {
		b.Fatalf("iperf3: %v\n%s", err, out)
	}
	if result.End.Received.BitsPerSecond == 0 {
		b.Fatalf("iperf3 has received nothing:\n%s", out)
	}
	return result.End.Received.BitsPerSecond
}

// requests are the times, shortest first, that requests on one TCP connection took until the guest's answer was there, each sent
// when the one before it was answered.
func (g *measured) requests(b *testing.B) []time.Duration {
	b.Helper()
	conn := g.dial(b)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(transcript.Patience))
	answers := bufio.NewReader(conn)
	if _, err := answers.ReadString('\n'); err != nil { // the greeting
		b.Fatal(err)
	}
	times := make([]time.Duration, 2000)
	message := make([]byte, 64)
	for i := range times {
		began := time.Now()
		if _, err := conn.Write(message); err != nil {
			b.Fatal(err)
		}
		if _, err := io.ReadFull(answers, message); err != nil {
			b.Fatal(err)
		}
		times[i] = time.Since(began)
	}
	slices.Sort(times)
	return times
}

func (g *measured) dial(b *testing.B) net.Conn {
	b.Helper()
	var conn net.Conn
	err := g.from.Do(func() (err error) {
		conn, err = net.DialTimeout("tcp", netip.AddrPortFrom(g.address, echoPort).String(), transcript.Patience)
		return err
	})
	if err != nil {
		b.Fatal(err)
	}
	return conn
}
