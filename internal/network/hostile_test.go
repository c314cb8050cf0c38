package network

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// udpFrame is a datagram over IPv4, without a checksum of its own (RFC 768).
func udpFrame(from, to net.HardwareAddr, src, dst netip.AddrPort, text string) []byte {
	frame := append(append(append([]byte{}, to...), from...), 8, 0)
	ip := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	ip = append(append(ip, src.Addr().AsSlice()...), dst.Addr().AsSlice()...)
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)+8+len(text)))
	sum := uint32(0)
	for i := 0; i < len(ip); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(ip[i:]))
	}
	binary.BigEndian.PutUint16(ip[10:], ^uint16(sum>>16+sum&0xffff))
	frame = append(frame, ip...)
	for _, n := range []uint16{src.Port(), dst.Port(), uint16(8 + len(text)), 0} {
		frame = binary.BigEndian.AppendUint16(frame, n)
	}
	return append(frame, text...)
}

// hears checks what a socket of the pod's receives first.
func hears(t *testing.T, conn *net.UDPConn, want string) {
	t.Helper()
	conn.SetReadDeadline(time.Now().Add(time.Minute))
	buffer := make([]byte, 100)
	n, from, err := conn.ReadFromUDPAddrPort(buffer)
	if got := string(buffer[:n]); err != nil || got != want {
		t.Errorf("the pod hears %q from %s (%v), want %q", got, from, err, want)
	}
}

// TestGuestSpeaksForOthers: an answer to the pod's own question comes from the network, and not from a guest that pretends.
func TestGuestSpeaksForOthers(t *testing.T) {
	pod(t)
	joined, plan := apply(t)
	b := plan.Bridges[0]
	var server *net.UDPConn
	in(t, peerName, func() (err error) {
		server, err = net.ListenUDP("udp4", &net.UDPAddr{IP: net.IPv4(10, 7, 0, 1)})
		return err
	})
	defer server.Close()
	at := server.LocalAddr().(*net.UDPAddr).AddrPort()
	conn, err := net.DialUDP("udp4", nil, net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	conn.Write([]byte("question"))
	server.SetReadDeadline(time.Now().Add(time.Minute))
	_, asked, err := server.ReadFromUDPAddrPort(make([]byte, 100))
	if err != nil {
		t.Fatal(err)
	}
	own := conn.LocalAddr().(*net.UDPAddr).AddrPort()
	header := make([]byte, 10) // of virtio, as QEMU's end of the tap has it
	if _, err := joined.Taps[0][0].Write(append(header, udpFrame(b.Guest, b.MAC, at, own, "the guest's lie")...)); err != nil {
		t.Fatal(err)
	}
	if _, err := server.WriteToUDPAddrPort([]byte("answer"), asked); err != nil {
		t.Fatal(err)
	}
	hears(t, conn, "answer")
}

// TestNeighbourAsks: the DNS forwarder is the guest's alone, and no resolver for the network.
func TestNeighbourAsks(t *testing.T) {
	pod(t)
	input := bridgeInput(t)
	input.Pod.Resolver.Servers = servers("127.0.0.53")
	plan, err := MakePlan(input)
	if err != nil {
		t.Fatal(err)
	}
	joined, err := plan.Apply()
	if err != nil {
		t.Fatal(err)
	}
	defer joined.Close()
	b := plan.Bridges[0]
	forwarder, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(b.DNS.At, DNSPort)))
	if err != nil {
		t.Fatal(err)
	}
	defer forwarder.Close()
	dns := netip.AddrPortFrom(b.DNS.At, dnsPort)
	in(t, peerName, func() error {
		wire, err := net.InterfaceByName("host0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		question := udpFrame(wire.HardwareAddr, b.MAC, netip.MustParseAddrPort("10.7.0.1:4000"), dns, "the neighbour's")
		return unix.Sendto(fd, question, 0, &unix.SockaddrLinklayer{Ifindex: wire.Index, Halen: 6})
	})
	guest := netip.AddrPortFrom(b.Reach.Guest[len(b.Reach.Guest)-1], 4000)
	if _, err := joined.Taps[0][0].Write(append(make([]byte, 10), udpFrame(b.Guest, b.MAC, guest, dns, "the guest's")...)); err != nil {
		t.Fatal(err)
	}
	hears(t, forwarder, "the guest's")
}

// TestPodIsShut: what listens in the pod, on all addresses, does not hear the guest.
func TestPodIsShut(t *testing.T) {
	pod(t)
	joined, plan := apply(t)
	b := plan.Bridges[0]
	conn, err := net.ListenUDP("udp4", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	port := conn.LocalAddr().(*net.UDPAddr).AddrPort().Port()
	guest := netip.AddrPortFrom(b.Reach.Guest[len(b.Reach.Guest)-1], 4000)
	for _, to := range []netip.Addr{b.Reach.V4, guest.Addr(), netip.MustParseAddr("127.0.0.1"), netip.MustParseAddr("10.7.0.255")} {
		for _, mac := range []net.HardwareAddr{b.MAC, b.Guest, {255, 255, 255, 255, 255, 255}} {
			frame := udpFrame(b.Guest, mac, guest, netip.AddrPortFrom(to, port), "the guest's")
			if _, err := joined.Taps[0][0].Write(append(make([]byte, 10), frame...)); err != nil {
				t.Fatal(err)
			}
		}
	}
	own, err := net.Dial("udp4", netip.AddrPortFrom(netip.MustParseAddr("127.0.0.1"), port).String())
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	own.Write([]byte("the pod's"))
	hears(t, conn, "the pod's")
}

// TestLeaseIsRenewed: what the guest sends to its DHCP server alone, to renew or to release, arrives there, by whichever MAC it believes
// to reach the server.
func TestLeaseIsRenewed(t *testing.T) {
	pod(t)
	joined, plan := apply(t)
	b := plan.Bridges[0]
	guest := netip.AddrPortFrom(b.Reach.Guest[len(b.Reach.Guest)-1], dhcpClient)
	for _, by := range []net.HardwareAddr{b.MAC, wireMAC(t)} {
		frame := udpFrame(b.Guest, by, guest, netip.AddrPortFrom(b.Service.V4, dhcpServer), "again, by "+by.String())
		if _, err := joined.Taps[0][0].Write(append(make([]byte, 10), frame...)); err != nil {
			t.Fatal(err)
		}
		if !heard(joined.Services[0], frame[14:]) {
			t.Errorf("the server does not hear what is sent to %s at %s", b.Service.V4, by)
		}
	}
}

// TestGuestServes: a guest that has a DHCP server or a router for others in it, and what it asks of such, is not heard by the network.
func TestGuestServes(t *testing.T) {
	pod(t)
	settled(t)
	joined, plan := apply(t)
	b := plan.Bridges[0]
	own, group := LinkLocal(b.Guest), netip.MustParseAddr("ff02::1")
	all := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	guest := b.Reach.Guest[len(b.Reach.Guest)-1]
	nobody, everybody := netip.IPv4Unspecified(), netip.AddrFrom4([4]byte{255, 255, 255, 255})
	// what the network may hear, and what comes to an end with it: frames of one protocol do not overtake each other
	mark4 := udpFrame(b.Guest, all, netip.AddrPortFrom(guest, 9), netip.AddrPortFrom(everybody, 9), "mark")
	mark6 := ndpFrame(t, b.Guest, own, group, &ndp.NeighborSolicitation{TargetAddress: own})
	wire := space(peerName).listen(t, "host0")
	for name, frames := range map[string][2][]byte{
		"DHCP client":          {udpFrame(b.Guest, all, netip.AddrPortFrom(nobody, dhcpClient), netip.AddrPortFrom(everybody, dhcpServer), "discovery"), mark4},
		"DHCP server":          {udpFrame(b.Guest, all, netip.AddrPortFrom(guest, dhcpServer), netip.AddrPortFrom(everybody, dhcpClient), "offer"), mark4},
		"router solicitation":  {ndpFrame(t, b.Guest, own, netip.MustParseAddr("ff02::2"), &ndp.RouterSolicitation{}), mark6},
		"router advertisement": {ndpFrame(t, b.Guest, own, group, &ndp.RouterAdvertisement{RouterLifetime: time.Hour}), mark6},
	} {
		for _, frame := range frames {
			if _, err := joined.Taps[0][0].Write(append(make([]byte, 10), frame...)); err != nil {
				t.Fatal(err)
			}
		}
		if heard(wire, frames[0][14:], frames[1]) {
			t.Errorf("the network hears the guest's %s", name)
		}
	}
}

// ndpFrame is a message of IPv6's neighbour discovery, to a group.
func ndpFrame(t *testing.T, from net.HardwareAddr, src, dst netip.Addr, m ndp.Message) []byte {
	t.Helper()
	frame := neighbourFrame(m, groupMAC(dst), from, dst, src)
	if frame == nil {
		t.Fatalf("there can be no %T", m)
	}
	return frame
}

// TestNotTwice: whoever asks for the guest's address gets one answer at most, the guest's, and the guest does not hear its own question from
// a network that sends it back: both would make it believe that somebody else has its address.
func TestNotTwice(t *testing.T) {
	peer := pod(t)
	settled(t)
	input := bridgeInput(t)
	input.CPUs = 1 // and with it one queue, where all frames come out
	joined, plan := applyInput(t, input)
	b := plan.Bridges[0]
	guest := b.Reach.Guest[len(b.Reach.Guest)-1]
	queue := joined.Taps[0][0]
	// a neighbour asks: the guest alone hears it, and the pod says nothing
	peer("sh", "-c", "ip neigh flush dev host0; ping -c 1 -W 2 "+guest.String()+" || true")
	if !heard(queue, arpRequest(wireMAC(t), netip.MustParseAddr("10.7.0.1"), guest)) {
		t.Error("the guest does not hear who asks for its address")
	}
	if neighbours := peer("ip", "neigh", "show", guest.String()); strings.Contains(neighbours, "lladdr") {
		t.Errorf("the pod has answered for the guest's address: %s", neighbours)
	}
	// the guest asks whether anybody has its address (RFC 5227), and the network sends that back before it says something itself
	probe := arpRequest(b.Guest, netip.IPv4Unspecified(), guest)
	last := arpRequest(wireMAC(t), netip.MustParseAddr("10.7.0.77"), guest)
	in(t, peerName, func() error {
		wire, err := net.InterfaceByName("host0")
		if err != nil {
			return err
		}
		fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		for _, frame := range [][]byte{probe, last} {
			if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: wire.Index, Halen: 6}); err != nil {
				return err
			}
		}
		return nil
	})
	if heard(queue, probe, last) {
		t.Error("the guest hears its own question")
	}
}

// wireMAC is the MAC of the network's end of the wire.
func wireMAC(t *testing.T) (mac net.HardwareAddr) {
	t.Helper()
	in(t, peerName, func() error {
		wire, err := net.InterfaceByName("host0")
		if err == nil {
			mac = wire.HardwareAddr
		}
		return err
	})
	return mac
}

// heard says whether a frame comes out of a tap, before any of those that end the search.
func heard(tap *os.File, want []byte, before ...[]byte) bool {
	tap.SetReadDeadline(time.Now().Add(time.Minute))
	frame := make([]byte, 2000)
	for {
		n, err := tap.Read(frame)
		if err != nil {
			return false
		}
		if bytes.Contains(frame[:n], want) {
			return true
		}
		if slices.ContainsFunc(before, func(end []byte) bool { return bytes.Contains(frame[:n], end) }) {
			return false
		}
	}
}
