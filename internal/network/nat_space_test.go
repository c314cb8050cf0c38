package network

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// natPod is a pod with a neighbour, who is also its gateway, and a guest where QEMU would be.
type natPod struct {
	pod, peer, guest space
}

// Addresses of natPod. The last two are beyond the gateway.
const (
	pod4, peer4, far4 = "10.244.1.7", "10.244.1.1", "198.51.100.1"
	pod6, peer6, far6 = "2001:db8:1::7", "2001:db8:1::1", "2001:db8:9::1"
)

// newNATPod makes a pod of both families whose interface has the given MTU. Nothing is forwarded in it, but IPv6 where six says so.
func newNATPod(t *testing.T, mtu int, six bool) natPod {
	t.Helper()
	p := natPod{newSpace(t, "pod"), newSpace(t, "peer"), newSpace(t, "guest")}
	p.peer.script(t, fmt.Sprintf(`
		ip link add pod type veth peer name eth0 netns %s
		ip addr add %s/24 dev pod
		ip addr add %s/64 dev pod nodad
		ip link set pod up
		ip addr add %s/32 dev lo
		ip addr add %s/128 dev lo nodad`, p.pod, peer4, peer6, far4, far6))
	p.pod.script(t, fmt.Sprintf(`
		sysctl -qw net.ipv4.ip_forward=0 net.ipv6.conf.all.forwarding=%d
		ip link set eth0 mtu %d addrgenmode none
		ip addr add %s/24 dev eth0
		ip addr add %s/64 dev eth0 nodad
		ip link set eth0 up
		ip route add default via %s
		ip route add default via %s`, map[bool]int{true: 1}[six], mtu, pod4, pod6, peer4, peer6))
	t.Cleanup(func() {
		if t.Failed() {
			for _, s := range []space{p.pod, p.guest} {
				t.Log(s.run(t, "sh", "-c", "ip addr; ip route; ip -6 route; ip neigh; bridge fdb; nft list ruleset; cat /proc/net/nf_conntrack || true"))
			}
		}
	})
	return p
}

// natOrder is an applier's order for nat mode.
func natOrder(change func(*Input)) order {
	in := Input{Mode: NAT, Identity: "a pod", NICModel: "virtio", CPUs: 1, DHCP: true}
	if change != nil {
		change(&in)
	}
	return order{Input: in}
}

// join puts the guest where QEMU would be: at the bridge, with what a DHCP client would have learned.
func (p natPod) join(t *testing.T, plan Plan) {
	t.Helper()
	b := plan.Bridges[0]
	p.pod.script(t, fmt.Sprintf(`
		ip link add guest type veth peer name eth0 address %[2]s netns %[1]s
		ip link set guest master %[3]s up
		bridge fdb replace %[2]s dev guest master static`, p.guest, b.Guest, b.Name))
	lease := b.Service.Lease
	p.guest.script(t, fmt.Sprintf(`
		ip addr add %s dev eth0
		ip link set eth0 up
		ip route add default via %s`, lease.V4.Address, lease.V4.Router))
	if lease.V6 != nil {
		p.guest.script(t, fmt.Sprintf(`
			ip addr add %s/128 dev eth0 nodad
			ip route add %s dev eth0
			ip route add default via %s dev eth0`, lease.V6.Addresses[0], lease.V6.OnLink[0], lease.V6.Router))
	}
}

// expect checks who answers.
func expect(t *testing.T, from space, address, want string) {
	t.Helper()
	for _, network := range []string{"tcp", "udp"} {
		if got := from.ask(t, network, address); got != want {
			t.Errorf("%s asks %s by %s: %q, want %q", from, address, network, got, want)
		}
	}
}

// resolvConf is a resolv.conf with one server.
func resolvConf(t *testing.T, server string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "resolv.conf")
	if err := os.WriteFile(path, []byte("nameserver "+server+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

const gateway4, guest4 = "10.0.2.2", "10.0.2.15"

// TestNATEveryPort: whoever speaks to the pod speaks to the guest, and the guest speaks to all as the pod.
func TestNATEveryPort(t *testing.T) {
	p := newNATPod(t, 1500, true)
	p.pod.echo(t, "pod", ":8080")
	p.pod.echo(t, "pod", pod4+":53")
	o := natOrder(func(in *Input) { in.AllPorts, in.OwnPorts = true, []uint16{8080} })
	o.ResolvConf = resolvConf(t, pod4)
	a := p.pod.apply(t, o)
	p.join(t, a.Plan)
	v6 := a.Plan.Bridges[0].Reach
	guest6 := v6.Guest[0].String()
	p.guest.echo(t, "guest", ":7")
	p.guest.echo(t, "guest", ":8080")
	p.peer.echo(t, "peer", peer4+":9")
	p.peer.echo(t, "peer", far4+":9")
	in6 := func(a string, port int) string { return fmt.Sprintf("[%s]:%d", a, port) }

	p.peer.echo(t, "peer", in6(far6, 9))

	expect(t, p.peer, pod4+":7", "guest "+peer4)
	expect(t, p.peer, in6(pod6, 7), "guest "+peer6)
	expect(t, p.pod, "127.0.0.1:7", "guest "+gateway4)
	expect(t, p.pod, pod4+":7", "guest "+pod4)
	expect(t, p.pod, in6(pod6, 7), "guest "+pod6)
	expect(t, p.pod, guest4+":7", "guest "+gateway4)
	expect(t, p.pod, in6(guest6, 7), "guest "+v6.V6.String())

	expect(t, p.guest, peer4+":9", "peer "+pod4)
	expect(t, p.guest, far4+":9", "peer "+pod4)
	expect(t, p.guest, in6(far6, 9), "peer "+pod6)
	expect(t, p.pod, far4+":9", "peer "+pod4)
	expect(t, p.pod, in6(far6, 9), "peer "+pod6)

	// the pod's own DNS server stays where it is
	expect(t, p.pod, pod4+":53", "pod "+pod4)
	expect(t, p.peer, pod4+":53", "pod "+peer4)

	// vmentry's own port is TCP alone
	for _, from := range []space{p.peer, p.pod} {
		if got := from.ask(t, "tcp", pod4+":8080"); !strings.HasPrefix(got, "pod ") {
			t.Errorf("vmentry's own port is answered by %s", got)
		}
	}
	if got := p.peer.ask(t, "udp", pod4+":8080"); got != "guest "+peer4 {
		t.Errorf("the same port by UDP is answered by %s", got)
	}
}

// TestNATGuard: what listens in the pod is not the guest's to speak to, and the metadata of clouds neither.
func TestNATGuard(t *testing.T) {
	p := newNATPod(t, 1500, true)
	clouds := []string{"169.254.169.254", "100.100.100.200", "168.63.129.16", "fd00:ec2::254", "fd00:c1::a9fe:a9fe", "64:ff9b::a9fe:a9fe"}
	for _, a := range clouds {
		p.peer.script(t, "ip addr add "+a+" dev lo "+map[bool]string{true: "nodad"}[strings.Contains(a, ":")])
	}
	p.pod.echo(t, "pod", ":8080")
	p.pod.echo(t, "pod", fmt.Sprint(":", DNSPort))
	p.pod.echo(t, "pod", "127.0.0.1:53")
	o := natOrder(nil)
	o.ResolvConf = resolvConf(t, "127.0.0.1")
	a := p.pod.apply(t, o)
	p.join(t, a.Plan)
	reach := a.Plan.Bridges[0].Reach
	for _, a := range append(clouds, far4) {
		p.peer.echo(t, "peer", net.JoinHostPort(a, "9"))
	}
	p.guest.echo(t, "guest", ":7")

	// neighbours can name the guest's networks, but have no business there
	p.peer.script(t, fmt.Sprintf("ip route add 10.0.2.0/24 via %s; ip route add %s via %s", pod4, a.Plan.NAT.Networks[1], pod6))

	expect(t, p.guest, gateway4+":53", "pod "+guest4) // where vmentry forwards DNS
	expect(t, p.guest, far4+":9", "peer "+pod4)
	expect(t, p.pod, "127.0.0.1:53", "pod 127.0.0.1")
	var closed []string
	for _, a := range clouds {
		at := net.JoinHostPort(a, "9")
		expect(t, p.pod, at, "peer "+map[bool]string{true: pod4, false: pod6}[netip.MustParseAddr(a).Is4()])
		closed = append(closed, at)
	}
	p.guest.run(t, "ping", "-c", "1", "-w", "60", gateway4)
	for _, network := range []string{"tcp", "udp"} {
		p.guest.refused(t, network, closed...)
		p.guest.refused(t, network, gateway4+":8080", pod4+":8080", pod4+":53", "["+pod6+"]:8080", "["+reach.V6.String()+"]:8080", "["+reach.V6.String()+"]:53")
		p.peer.refused(t, network, gateway4+":53", guest4+":7", "["+reach.V6.String()+"]:53", "["+reach.Guest[0].String()+"]:7")
	}
}

// TestNATSpoofing: a guest that makes its own frames reaches nothing by them, and nobody in the pod's name.
func TestNATSpoofing(t *testing.T) {
	p := newNATPod(t, 1500, false)
	a := p.pod.apply(t, natOrder(nil))
	p.join(t, a.Plan)
	b := a.Plan.Bridges[0]
	p.peer.echo(t, "peer", ":9")
	var inPod, outside net.PacketConn
	p.pod.do(t, func() (err error) { inPod, err = net.ListenPacket("udp", "127.0.0.1:81"); return err })
	p.peer.do(t, func() (err error) { outside, err = net.ListenPacket("udp", far4+":81"); return err })
	defer inPod.Close()
	defer outside.Close()
	for _, spoofed := range [][2]string{{guest4, "127.0.0.1"}, {"127.0.0.1", "127.0.0.1"}, {pod4, far4}, {peer4, far4}} {
		frame := datagram(b.Guest, b.MAC, netip.MustParseAddr(spoofed[0]), netip.MustParseAddr(spoofed[1]), 81)
		p.guest.do(t, func() error { return sendFrame("eth0", frame) })
	}
	honest := datagram(b.Guest, b.MAC, netip.MustParseAddr(guest4), netip.MustParseAddr(far4), 81)
	p.guest.do(t, func() error { return sendFrame("eth0", honest) })
	buffer := make([]byte, 100)
	outside.SetReadDeadline(time.Now().Add(patient))
	if _, from, err := outside.ReadFrom(buffer); err != nil || hostPart(from) != pod4 {
		t.Errorf("the first that arrives is from %v, %v; want the honest one, by way of %s", from, err, pod4)
	}
	inPod.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if _, from, err := inPod.ReadFrom(buffer); err == nil {
		t.Errorf("the pod's loopback was reached by %s", from)
	}
}

// datagram is a frame with a UDP datagram whose source port is that of no other.
func datagram(from, to net.HardwareAddr, source, target netip.Addr, port uint16) []byte {
	frame := append(append(append([]byte{}, to...), from...), 0x08, 0x00)
	ip := []byte{0x45, 0, 0, 28 + 4, 0, 0, 0x40, 0, 64, unix.IPPROTO_UDP, 0, 0}
	ip = append(append(ip, source.AsSlice()...), target.AsSlice()...)
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	sum = sum&0xffff + sum>>16
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	frame = append(frame, ip...)
	frame = binary.BigEndian.AppendUint16(frame, 4000)
	frame = binary.BigEndian.AppendUint16(frame, port)
	return append(frame, 0, 8+4, 0, 0, 's', 'p', 'o', 'o') // no checksum (RFC 768)
}

func sendFrame(link string, frame []byte) error {
	i, err := net.InterfaceByName(link)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: i.Index, Halen: 6})
}

// TestNATForwards: HOSTFWD's ports lead to the guest, each where it was said; all others stay the pod's.
func TestNATForwards(t *testing.T) {
	p := newNATPod(t, 1500, true)
	p.pod.echo(t, "pod", ":9000")
	p.pod.echo(t, "pod", ":2222") // whoever listens there, the guest has it
	a := p.pod.apply(t, natOrder(func(in *Input) {
		in.Forwards = []Forward{
			{Proto: "tcp", HostPort: 2222, GuestPort: 7},
			{Proto: "udp", HostPort: 2222, GuestPort: 7},
			{Proto: "tcp", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 2223, GuestPort: 7},
			{Proto: "tcp", HostIP: netip.MustParseAddr(pod4), HostPort: 2224, GuestPort: 7},
			{Proto: "tcp", HostIP: netip.IPv6Unspecified(), HostPort: 2225, GuestPort: 7},
			{Proto: "tcp", HostIP: netip.IPv4Unspecified(), HostPort: 2226, GuestIP: userGuest, GuestPort: 7},
		}
	}))
	p.join(t, a.Plan)
	p.guest.echo(t, "guest", ":7")
	v6 := "[" + pod6 + "]"
	for _, from := range []struct {
		space
		to4, to6 string // as whom the peer or the pod is seen
	}{{p.peer, peer4, peer6}, {p.pod, pod4, pod6}} {
		expect(t, from.space, pod4+":2222", "guest "+from.to4)
		expect(t, from.space, v6+":2222", "guest "+from.to6)
		expect(t, from.space, pod4+":9000", "pod "+from.to4)
		expect(t, from.space, v6+":9000", "pod "+from.to6)
		for address, want := range map[string]string{
			pod4 + ":2223": "refused", pod4 + ":2224": "guest " + from.to4, v6 + ":2224": "refused", pod4 + ":2225": "refused",
			v6 + ":2225": "guest " + from.to6, pod4 + ":2226": "guest " + from.to4, v6 + ":2226": "refused", pod4 + ":7": "refused",
		} {
			if got := from.ask(t, "tcp", address); got != want && !(want == "refused" && strings.Contains(got, want)) {
				t.Errorf("%s asks %s: %s, want %s", from.space, address, got, want)
			}
		}
	}
	expect(t, p.pod, "127.0.0.1:2222", "guest "+gateway4)
	for port, want := range map[int]string{2223: "guest " + gateway4, 2224: "refused", 2225: "refused", 2226: "guest " + gateway4} {
		if got := p.pod.ask(t, "tcp", fmt.Sprintf("127.0.0.1:%d", port)); got != want && !(want == "refused" && strings.Contains(got, want)) {
			t.Errorf("the loopback's port %d: %s, want %s", port, got, want)
		}
	}
}

// TestNATClampsMSS: a guest that believes in Ethernet's size announces what the pod's network carries, and is announced that.
func TestNATClampsMSS(t *testing.T) {
	p := newNATPod(t, 1400, true)
	a := p.pod.apply(t, natOrder(func(in *Input) { in.AllPorts = true }))
	if got := a.Plan.NICs[0].MTU; got != 1400 {
		t.Errorf("the guest's card has an MTU of %d", got)
	}
	p.join(t, a.Plan)
	p.peer.echo(t, "peer", ":77")
	p.guest.echo(t, "guest", ":77")
	for _, tt := range []struct {
		from, to space
		link     string // of the second
		address  string
		want     uint16
	}{
		{p.guest, p.peer, "pod", far4, 1400 - 40},
		{p.guest, p.peer, "pod", "[" + far6 + "]", 1400 - 60},
		{p.peer, p.guest, "eth0", pod4, 1400 - 40},
		{p.peer, p.guest, "eth0", "[" + pod6 + "]", 1400 - 60},
	} {
		seen := make(chan uint16, 1)
		ear := tt.to.listen(t, tt.link)
		go func() { seen <- announced(ear, 77) }()
		tt.from.ask(t, "tcp", tt.address+":77")
		select {
		case got := <-seen:
			if got != tt.want {
				t.Errorf("%s announces to %s segments of %d bytes, want %d", tt.from, tt.address, got, tt.want)
			}
		case <-time.After(patient):
			t.Errorf("%s has not seen a connection to %s", tt.to, tt.address)
		}
	}
}

// listen is a socket that gets all frames of a link.
func (s space) listen(t *testing.T, link string) *os.File {
	t.Helper()
	var f *os.File
	s.do(t, func() error {
		i, err := net.InterfaceByName(link)
		if err != nil {
			return err
		}
		all := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, int(all))
		if err != nil {
			return err
		}
		f = os.NewFile(uintptr(fd), link)
		return unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: i.Index})
	})
	t.Cleanup(func() { f.Close() })
	return f
}

// announced is the largest segment that the first SYN to a port announces (TCP option 2), 0 for none.
func announced(frames io.Reader, port uint16) uint16 {
	frame := make([]byte, 2000)
	for {
		n, err := frames.Read(frame)
		if err != nil {
			return 0
		}
		tcp := frame[14:n]
		switch {
		case tcp[0]>>4 == 4 && tcp[9] == unix.IPPROTO_TCP:
			tcp = tcp[20:]
		case tcp[0]>>4 == 6 && tcp[6] == unix.IPPROTO_TCP:
			tcp = tcp[40:]
		default:
			continue
		}
		if binary.BigEndian.Uint16(tcp[2:]) != port || tcp[13] != 2 {
			continue
		}
		for options := tcp[20:]; len(options) > 3; options = options[options[1]:] {
			if options[0] == 2 {
				return binary.BigEndian.Uint16(options[2:])
			}
		}
		return 0
	}
}

// metrics are left out: the kernel's own routes to an IPv6 address have 0, which nobody else can say who puts one back.
var metrics = regexp.MustCompile(` metric \d+| pref medium| linkdown| +$`)

// transient is what comes and goes with a guest's taps, that the kernel makes in its own time, or that the rules have noted of the traffic.
var transient = regexp.MustCompile(tapPrefix + `|` + servicePrefix + `|^multicast |^elements = `)

// snapshot is what the pod's network is, without what is transient and without the kernel's numbers.
func (p natPod) snapshot(t *testing.T) string {
	t.Helper()
	out := p.pod.run(t, "sh", "-ec", `
		ip -o link | sed -E 's/^[0-9]+: ([^:@]*)[:@].* mtu ([0-9]+).*link\/[a-z]+ ([^ ]*).*/link \1 \2 \3/'
		ip -o addr | sed -E 's/^[0-9]+: |\\\\ +valid_lft.*//g'
		ip route show table all
		ip -o link show master vm-br0 2>/dev/null | sed -E 's/^[0-9]+: ([^:@]*).*/port \1/' || true
		sysctl net.ipv4.ip_forward net.ipv4.conf.eth0.forwarding net.ipv6.conf.eth0.forwarding
		nft list ruleset`)
	var kept []string
	for line := range strings.Lines(out) {
		line = metrics.ReplaceAllString(strings.TrimSpace(line), "")
		if !transient.MatchString(line) && !(strings.HasPrefix(line, "local ") && slices.Contains(kept, line)) {
			kept = append(kept, line)
		}
	}
	return strings.Join(kept, "\n")
}

// eventually waits until something is true, and says whether it came to be.
func eventually(is func() bool) bool {
	for give := time.Now().Add(patient); ; time.Sleep(50 * time.Millisecond) {
		if is() {
			return true
		}
		if time.Now().After(give) {
			return false
		}
	}
}

// TestNATAgain: whatever an earlier start has left, and however far it had come, the next one makes the same of it; and another mode
// finds the pod as it was.
func TestNATAgain(t *testing.T) {
	p := newNATPod(t, 1500, true)
	before := p.snapshot(t)
	nat := natOrder(func(in *Input) { in.AllPorts = true })
	other := func(m Mode) order { return natOrder(func(in *Input) { in.Mode = m }) }
	// once is what an order makes, when the kernel has seen that the bridge has ports
	once := func(o order) (made string) {
		t.Helper()
		a := p.pod.apply(t, o)
		defer a.kill()
		ready := "local " + a.Plan.Bridges[0].Reach.V6.String()
		eventually(func() bool { made = p.snapshot(t); return strings.Contains(made, ready) })
		return made
	}
	// then does what was ordered, and kills whoever has done it.
	then := func(name string, o order, want string) {
		t.Helper()
		a := p.pod.apply(t, o)
		defer a.kill()
		got := ""
		if !eventually(func() bool { got = p.snapshot(t); return got == want }) {
			t.Errorf("%s: (-want +got)\n%s", name, cmp.Diff(want, got))
		}
	}
	first := once(nat)
	if first == before || !strings.Contains(first, "table inet vmentry") {
		t.Fatalf("nat mode has made nothing:\n%s", first)
	}
	over := nat
	over.Keep = true
	then("the same over it", over, first)
	then("the same after tidying up", nat, first)
	then("user", other(User), before)
	for _, step := range []string{"filter", "make"} {
		part := nat
		part.Step = step
		p.pod.apply(t, part).kill()
		then("nat after "+step, over, first)
		then("none", other(None), before)
		p.pod.apply(t, part).kill()
		then("none after "+step, other(None), before)
	}
	bridged := once(other(Bridge))
	then("nat after bridge", nat, first)
	then("bridge after nat", other(Bridge), bridged)
	then("none after bridge", other(None), before)
}

// TestNATRestart: connections work after a restart in the same pod, also after one in bridge mode.
func TestNATRestart(t *testing.T) {
	p := newNATPod(t, 1500, false)
	p.pod.apply(t, natOrder(func(in *Input) { in.Mode = Bridge })).kill()
	a := p.pod.apply(t, natOrder(func(in *Input) { in.AllPorts = true }))
	p.join(t, a.Plan)
	p.guest.echo(t, "guest", ":7")
	p.peer.echo(t, "peer", far4+":9")
	expect(t, p.peer, pod4+":7", "guest "+peer4)
	a.kill()
	over := natOrder(func(in *Input) { in.AllPorts = true })
	over.Keep = true // the test's guest is a port of the bridge
	again := p.pod.apply(t, over)
	if diff := cmp.Diff(a.Plan.Bridges, again.Plan.Bridges, addressesEqual); diff != "" {
		t.Errorf("another plan in the same pod: %s", diff)
	}
	p.pod.run(t, "bridge", "fdb", "replace", again.Plan.Bridges[0].Guest.String(), "dev", "guest", "master", "static")
	expect(t, p.peer, pod4+":7", "guest "+peer4)
	expect(t, p.guest, far4+":9", "peer "+pod4)
}

// TestNATDatagrams: a sender of UDP that was there before the rules, and never pauses, comes to speak to the guest.
func TestNATDatagrams(t *testing.T) {
	p := newNATPod(t, 1500, false)
	// As in a container of Docker's, somebody else's rules have connections tracked all the time.
	p.pod.script(t, "nft add table ip other; nft add chain ip other c '{ type filter hook prerouting priority 0; }'; nft add rule ip other c ct state invalid drop")
	var conn net.PacketConn
	p.peer.do(t, func() (err error) { conn, err = net.ListenPacket("udp", peer4+":5000"); return err })
	defer conn.Close()
	to := net.UDPAddrFromAddrPort(netip.MustParseAddrPort(pod4 + ":7"))
	stop := make(chan struct{})
	defer close(stop)
	go func() {
		for ; ; time.Sleep(50 * time.Millisecond) {
			select {
			case <-stop:
				return
			default:
				conn.WriteTo([]byte("hello"), to)
			}
		}
	}()
	p.pod.do(t, func() error {
		tracked := func() bool {
			flows, _ := netlink.ConntrackTableList(netlink.ConntrackTable, netlink.FAMILY_V4)
			return slices.ContainsFunc(flows, func(f *netlink.ConntrackFlow) bool { return f.Forward.SrcPort == 5000 })
		}
		if !eventually(tracked) {
			return errors.New("the sender is not tracked")
		}
		return nil
	})
	a := p.pod.apply(t, natOrder(func(in *Input) { in.AllPorts = true }))
	p.join(t, a.Plan)
	p.guest.echo(t, "guest", ":7")
	conn.SetReadDeadline(time.Now().Add(patient))
	answer := make([]byte, 100)
	n, _, err := conn.ReadFrom(answer)
	if got := string(answer[:n]); got != "guest "+peer4+" hello" {
		t.Errorf("%q, %v", got, err)
	}
}
