package network

import (
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/vmentry/vmentry/test/pod"
	"github.com/vmentry/vmentry/test/process"
)

// stranger is who sends what must not reach the guest. The rest of the network never has its MAC or its addresses.
var stranger = net.HardwareAddr{0x02, 0x00, 0x5e, 0x00, 0xbe, 0xef}

var (
	strangers4 = netip.MustParseAddr("203.0.113.66")
	strangers6 = netip.MustParseAddr("fe80::bad")
	strangeNet = netip.MustParsePrefix("2001:db8:bad::/64") // what it advertises
)

// UDP ports by which frames of the stranger's are told apart.
const (
	markPort = 9     // what may reach the guest
	lastPort = 10009 // what ends a capture
)

// speaker sends frames on a wire.
type speaker struct {
	fd    int
	index int
}

// newSpeaker speaks on a link of the namespace until the test ends.
func newSpeaker(t *testing.T, space pod.Space, wire string) *speaker {
	t.Helper()
	s := &speaker{}
	err := space.Do(func() error {
		link, err := net.InterfaceByName(wire)
		if err != nil {
			return err
		}
		s.index = link.Index
		s.fd, err = unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatalf("cannot speak on %s: %v", wire, err)
	}
	t.Cleanup(func() { unix.Close(s.fd) })
	return s
}

func (s *speaker) send(frame []byte) error {
	return unix.Sendto(s.fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: s.index, Halen: 6})
}

// strangeFrames are a router advertisement, a DHCP offer and a DHCPv6 advertisement for the guest, and then a mark.
func strangeFrames(guest net.HardwareAddr) [][]byte {
	return [][]byte{
		ipv6Frame(net.HardwareAddr{0x33, 0x33, 0, 0, 0, 1}, netip.MustParseAddr("ff02::1"), unix.IPPROTO_ICMPV6, 2, advertisement()),
		udpFrame(67, 68, offer(guest)),
		ipv6Frame(guest, netip.MustParseAddr("ff02::1"), unix.IPPROTO_UDP, 6, udp(547, 546, []byte{2, 1, 2, 3})),
		udpFrame(markPort, markPort, []byte("mark")),
	}
}

// advertisement says that the stranger is a router, with a prefix to make addresses of (RFC 4861, 4.2 and 4.6.2).
func advertisement() []byte {
	prefix := strangeNet.Addr().As16()
	b := []byte{134, 0, 0, 0, 64, 0, 0x07, 0x08, 0, 0, 0, 0, 0, 0, 0, 0}
	b = append(b, 3, 4, 64, 0xc0, 0, 0, 0xe, 0x10, 0, 0, 0xe, 0x10, 0, 0, 0, 0)
	return append(b, prefix[:]...)
}

// offer is a DHCPOFFER of an address of the stranger's (RFC 2131, 2).
func offer(guest net.HardwareAddr) []byte {
	b := make([]byte, 240)
	copy(b, []byte{2, 1, 6, 0, 1, 2, 3, 4})
	copy(b[16:], strangers4.AsSlice())
	copy(b[28:], guest)
	copy(b[236:], []byte{99, 130, 83, 99})
	return append(b, 53, 1, 2, 54, 4, 203, 0, 113, 66, 255)
}

// udpFrame is a broadcast from the stranger.
func udpFrame(from, to uint16, payload []byte) []byte {
	datagram := udp(from, to, payload)
	header := []byte{0x45, 0, 0, 0, 0, 0, 0, 0, 64, unix.IPPROTO_UDP, 0, 0}
	header = append(header, strangers4.AsSlice()...)
	header = append(header, 255, 255, 255, 255)
	binary.BigEndian.PutUint16(header[2:], uint16(len(header)+len(datagram)))
	binary.BigEndian.PutUint16(header[10:], checksum(header))
	broadcast := net.HardwareAddr{255, 255, 255, 255, 255, 255}
	return ethernet(broadcast, unix.ETH_P_IP, append(header, datagram...))
}

// udp is a datagram without a checksum.
func udp(from, to uint16, payload []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, from)
	b = binary.BigEndian.AppendUint16(b, to)
	b = binary.BigEndian.AppendUint16(b, uint16(8+len(payload)))
	return append(append(b, 0, 0), payload...)
}

// ipv6Frame is a packet from the stranger whose checksum goes at the given place of the payload (RFC 8200, 8.1).
func ipv6Frame(mac net.HardwareAddr, to netip.Addr, protocol byte, place int, payload []byte) []byte {
	header := []byte{0x60, 0, 0, 0, 0, 0, protocol, 255}
	binary.BigEndian.PutUint16(header[4:], uint16(len(payload)))
	header = append(append(header, strangers6.AsSlice()...), to.AsSlice()...)
	pseudo := append(append([]byte(nil), header[8:]...), 0, 0, header[4], header[5], 0, 0, 0, protocol)
	binary.BigEndian.PutUint16(payload[place:], checksum(append(pseudo, payload...)))
	return ethernet(mac, unix.ETH_P_IPV6, append(header, payload...))
}

func ethernet(to net.HardwareAddr, etherType uint16, payload []byte) []byte {
	frame := append(append([]byte(nil), to...), stranger...)
	return append(binary.BigEndian.AppendUint16(frame, etherType), payload...)
}

// checksum is the Internet's (RFC 1071).
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i++ {
		sum += uint32(b[i]) << (8 * (1 - i%2))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}

// strange sends the stranger's frames on the wire of each of the pod's cards, again and again until stop is called.
func strange(t *testing.T, p *pod.Pod) (stop func()) {
	t.Helper()
	done, ended := make(chan struct{}), make(chan struct{})
	var failed atomic.Value
	var speakers []*speaker
	var frames [][][]byte
	for i, wire := range p.Wires {
		guest, err := net.ParseMAC(p.Before.Cards[i].MAC)
		if err != nil {
			t.Fatal(err)
		}
		speakers, frames = append(speakers, newSpeaker(t, p.Peer, wire)), append(frames, strangeFrames(guest))
	}
	go func() {
		defer close(ended)
		for {
			for i, s := range speakers {
				for _, f := range frames[i] {
					if err := s.send(f); err != nil {
						failed.Store(err)
					}
				}
			}
			select {
			case <-done:
				return
			case <-time.After(time.Second):
			}
		}
	}()
	return func() {
		close(done)
		<-ended
		if err := failed.Load(); err != nil {
			t.Errorf("the stranger could not speak: %v", err)
		}
	}
}

// capture is a tcpdump on the wires of a pod, of what must not be seen there.
type capture struct {
	pod   *pod.Pod
	dumps []*process.Process
}

// listen begins to look for DHCP, DHCPv6 and router advertisements on the wires.
func listen(t *testing.T, p *pod.Pod) *capture {
	t.Helper()
	c := &capture{pod: p}
	for _, wire := range p.Wires {
		d := process.Start(t, p.Peer.Command("tcpdump", "-i", wire, "-n", "-e", "-l", "--immediate-mode", "-Z", "root", fmt.Sprintf(
			"udp port 67 or udp port 68 or udp port 546 or udp port 547 or udp port %d or (icmp6 and ip6[40] == 134)", lastPort)))
		d.Stderr.Await(t, "listening on")
		c.dumps = append(c.dumps, d)
	}
	return c
}

// nothing checks that nothing of that kind was seen, but for what the stranger said.
func (c *capture) nothing(t *testing.T) {
	t.Helper()
	for i, d := range c.dumps {
		if err := newSpeaker(t, c.pod.Peer, c.pod.Wires[i]).send(udpFrame(lastPort, lastPort, []byte("last"))); err != nil {
			t.Fatal(err)
		}
		d.Stdout.Await(t, fmt.Sprintf(".%d:", lastPort)) // all that came before has been printed
		for line := range strings.Lines(d.Stdout.String()) {
			if !strings.Contains(line, stranger.String()+" >") {
				t.Errorf("seen on %s: %s", c.pod.Wires[i], line)
			}
		}
	}
}
