package dhcp

import (
	"bytes"
	"encoding/binary"
	"log/slog"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/mdlayher/ndp"
)

// seeds are frames that are answered.
func seeds() [][]byte {
	var frames [][]byte
	for _, kind := range []dhcpv4.MessageType{dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest, dhcpv4.MessageTypeInform, dhcpv4.MessageTypeDecline} {
		m, err := dhcpv4.New(dhcpv4.WithMessageType(kind), dhcpv4.WithHwAddr(guestMAC), requested("10.77.0.5"))
		if err == nil {
			frames = append(frames, frame4(m))
		}
	}
	for kind := dhcpv6.MessageTypeSolicit; kind <= dhcpv6.MessageTypeInformationRequest; kind++ {
		m := &dhcpv6.Message{MessageType: kind}
		m.Options.Options = dhcpv6.Options{client, iana6(1, "2001:db8:77::6"), wanted6(dhcpv6.OptionFQDN), &dhcpv6.OptIAPD{}}
		frames = append(frames, frame6(m))
	}
	for _, m := range []ndp.Message{&ndp.RouterSolicitation{Options: slla()}, &ndp.NeighborSolicitation{TargetAddress: server6, Options: slla()}} {
		if b, err := ndp.MarshalMessage(m); err == nil {
			frames = append(frames, icmpv6(guest6, solicitedNode(server6), b).frame(serverMAC, guestMAC))
		}
	}
	return frames
}

// FuzzHandle: whatever a guest sends, there is no answer or a whole one, to the guest. Checksums are put right, so that what
// is behind them is reached.
func FuzzHandle(f *testing.F) {
	for _, frame := range seeds() {
		f.Add(frame)
	}
	f.Fuzz(func(t *testing.T, frame []byte) {
		s, err := New(ordinary(), slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		frame = bytes.Clone(frame)
		for range 2 {
			before := bytes.Clone(frame)
			a := s.handle(frame)
			if !bytes.Equal(before, frame) {
				t.Fatal("the frame was changed")
			}
			if a.frame != nil {
				checkAnswer(t, a.frame)
			}
			repair(frame)
		}
	})
}

func checkAnswer(t *testing.T, frame []byte) {
	e, ok := parseEthernet(frame)
	if !ok || !bytes.Equal(e.src, serverMAC) || e.dst[0]&1 == 0 && !bytes.Equal(e.dst, guestMAC) {
		t.Fatalf("not to the guest: %x", frame)
	}
	if len(e.payload) > ordinary().MTU {
		t.Fatalf("%d bytes", len(frame))
	}
	var p packet
	switch e.etherType {
	case etherTypeARP:
		return
	case etherTypeIPv4:
		p, ok = parseIPv4(e.payload)
	default:
		p, ok = parseIPv6(e.payload)
	}
	if !ok || p.checksum() != 0 {
		t.Fatalf("a bad packet: %x", frame)
	}
}

// repair sets the guest's MACs and the checksums, as far as there are such fields.
func repair(b []byte) {
	if len(b) < etherHeader+ipv4Header {
		return
	}
	copy(b[6:], guestMAC)
	field := 0
	var p packet
	var ok bool
	switch binary.BigEndian.Uint16(b[12:]) {
	case etherTypeIPv4:
		p, ok = parseIPv4(again4(b))
		field = 6
	case etherTypeIPv6:
		p, ok = parseIPv6(b[etherHeader:])
		field = 6
		if p.protocol == protocolICMPv6 {
			field = 2
		}
	}
	if !ok || len(p.payload) < 8 {
		return
	}
	if p.protocol == protocolUDP {
		if length := int(binary.BigEndian.Uint16(p.payload[4:])); length >= 8 && length <= len(p.payload) {
			p.payload = p.payload[:length]
		}
		if p.dst.Is4() && len(p.payload) > 50 {
			copy(p.payload[udpHeader+28:], guestMAC) // chaddr
		}
	}
	binary.BigEndian.PutUint16(p.payload[field:], 0)
	binary.BigEndian.PutUint16(p.payload[field:], p.checksum())
}

// FuzzParse: what is parsed lies within the frame, and is the same after it has been built again.
func FuzzParse(f *testing.F) {
	for _, frame := range seeds() {
		f.Add(frame[etherHeader:])
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (packet, bool){parseIPv4, parseIPv6} {
			p, ok := parse(b)
			if !ok {
				continue
			}
			d, isUDP := p.udp()
			if !isUDP {
				continue
			}
			p.hops, p.payload = hopLimit, d.packet().payload
			e, _ := parseEthernet(p.frame(guestMAC, serverMAC))
			again, ok := parse(e.payload)
			if !ok || again.src != p.src || again.dst != p.dst || again.protocol != p.protocol {
				t.Fatalf("%+v became %+v", p, again)
			}
			if back, ok := again.udp(); !ok || back.src != d.src || back.dst != d.dst || !bytes.Equal(back.data, d.data) {
				t.Fatalf("%+v became %+v", d, back)
			}
		}
	})
}

func TestSeedsAreAnswered(t *testing.T) {
	s := newServer(t, ordinary())
	answers := 0
	for _, frame := range seeds() {
		if s.handle(frame).frame != nil {
			answers++
		}
	}
	if answers < 6 {
		t.Errorf("%d answers", answers)
	}
}

// The Internet checksum's own example (RFC 1071 §3), and what is folded more than once.
func TestChecksum(t *testing.T) {
	if got := fold(sum(0, []byte{0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7})); got != 0xddf2 {
		t.Errorf("%#x", got)
	}
	if got := fold(sum(0, bytes.Repeat([]byte{0xff}, 65535))); got != fold(0xff00) {
		t.Errorf("%#x", got)
	}
	// A datagram whose checksum comes to zero is sent with its other spelling.
	d := datagram{src: netip.MustParseAddrPort("10.0.0.1:67"), dst: netip.MustParseAddrPort("10.0.0.2:68"), data: []byte{0, 0}}
	b := d.packet().payload
	copy(d.data, b[6:8]) // the sum of all is now what its complement was: all ones
	if b := d.packet().payload; b[6] != 0xff || b[7] != 0xff {
		t.Errorf("checksum %x", b[6:8])
	}
}
