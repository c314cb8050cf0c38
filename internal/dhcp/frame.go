package dhcp

import (
	"encoding/binary"
	"net"
	"net/netip"
)

// Values of the headers that are read and written here.
const (
	etherTypeIPv4 = 0x0800
	etherTypeARP  = 0x0806
	etherTypeIPv6 = 0x86dd

	protocolUDP    = 17
	protocolICMPv6 = 58

	etherHeader = 14
	ipv4Header  = 20 // without options
	ipv6Header  = 40
	udpHeader   = 8

	hopLimit = 64 // of what is not neighbour discovery (RFC 1700's default)
)

var etherBroadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// ethernet is an Ethernet II frame, untagged: a VLAN tag shows as an etherType that nobody here asks for.
type ethernet struct {
	dst, src  net.HardwareAddr
	etherType uint16
	payload   []byte
}

func parseEthernet(b []byte) (ethernet, bool) {
	if len(b) < etherHeader {
		return ethernet{}, false
	}
	return ethernet{
		dst:       net.HardwareAddr(b[0:6]),
		src:       net.HardwareAddr(b[6:12]),
		etherType: binary.BigEndian.Uint16(b[12:]),
		payload:   b[etherHeader:],
	}, true
}

func (e ethernet) bytes() []byte {
	b := make([]byte, 0, etherHeader+len(e.payload))
	b = append(b, e.dst...)
	b = append(b, e.src...)
	b = binary.BigEndian.AppendUint16(b, e.etherType)
	return append(b, e.payload...)
}

// packet is an IPv4 or IPv6 packet in one piece, without options or extension headers.
type packet struct {
	src, dst netip.Addr
	protocol uint8
	hops     uint8 // time to live, hop limit
	payload  []byte
}

// parseIPv4 takes a packet whose header is whole and whose checksum is right (RFC 791 §3.1). Fragments are refused: no
// DHCP client sends any, and putting them together would need a memory that the guest could fill.
func parseIPv4(b []byte) (packet, bool) {
	if len(b) < ipv4Header || b[0]>>4 != 4 {
		return packet{}, false
	}
	header, total := int(b[0]&0xf)*4, int(binary.BigEndian.Uint16(b[2:]))
	if header < ipv4Header || total < header || len(b) < total {
		return packet{}, false
	}
	const moreFragmentsAndOffset = 0x3fff
	if binary.BigEndian.Uint16(b[6:])&moreFragmentsAndOffset != 0 || fold(sum(0, b[:header])) != 0xffff {
		return packet{}, false
	}
	return packet{
		src:      netip.AddrFrom4([4]byte(b[12:])),
		dst:      netip.AddrFrom4([4]byte(b[16:])),
		protocol: b[9],
		hops:     b[8],
		payload:  b[header:total],
	}, true
}

// parseIPv6 takes a packet whose header is whole (RFC 8200 §3). One with extension headers keeps the first of them as its
// protocol, so nobody here takes it: neither DHCPv6 nor neighbour discovery needs any, and RFC 6980 forbids fragments of
// the latter.
func parseIPv6(b []byte) (packet, bool) {
	if len(b) < ipv6Header || b[0]>>4 != 6 {
		return packet{}, false
	}
	end := ipv6Header + int(binary.BigEndian.Uint16(b[4:]))
	if len(b) < end {
		return packet{}, false
	}
	return packet{
		src:      netip.AddrFrom16([16]byte(b[8:])),
		dst:      netip.AddrFrom16([16]byte(b[24:])),
		protocol: b[6],
		hops:     b[7],
		payload:  b[ipv6Header:end],
	}, true
}

// frame puts the packet into an Ethernet frame.
func (p packet) frame(dst, src net.HardwareAddr) []byte {
	if p.dst.Is4() {
		return ethernet{dst: dst, src: src, etherType: etherTypeIPv4, payload: p.ipv4()}.bytes()
	}
	return ethernet{dst: dst, src: src, etherType: etherTypeIPv6, payload: p.ipv6()}.bytes()
}

func (p packet) ipv4() []byte {
	b := make([]byte, ipv4Header, ipv4Header+len(p.payload))
	b[0] = 4<<4 | ipv4Header/4
	binary.BigEndian.PutUint16(b[2:], uint16(ipv4Header+len(p.payload)))
	b[6] = 0x40 // do not fragment: so the identification may stay zero (RFC 6864 §4.1)
	b[8], b[9] = p.hops, p.protocol
	copy(b[12:], p.src.AsSlice())
	copy(b[16:], p.dst.AsSlice())
	binary.BigEndian.PutUint16(b[10:], ^fold(sum(0, b)))
	return append(b, p.payload...)
}

func (p packet) ipv6() []byte {
	b := make([]byte, ipv6Header, ipv6Header+len(p.payload))
	b[0] = 6 << 4
	binary.BigEndian.PutUint16(b[4:], uint16(len(p.payload)))
	b[6], b[7] = p.protocol, p.hops
	copy(b[8:], p.src.AsSlice())
	copy(b[24:], p.dst.AsSlice())
	return append(b, p.payload...)
}

// datagram is what a UDP packet carries.
type datagram struct {
	src, dst netip.AddrPort
	data     []byte
}

// udp takes a whole datagram whose checksum is right. Zero, none, is allowed over IPv4 alone (RFC 768, RFC 8200 §8.1).
func (p packet) udp() (datagram, bool) {
	if p.protocol != protocolUDP || len(p.payload) < udpHeader {
		return datagram{}, false
	}
	length := int(binary.BigEndian.Uint16(p.payload[4:]))
	if length < udpHeader || length > len(p.payload) {
		return datagram{}, false
	}
	p.payload = p.payload[:length]
	unchecked := p.src.Is4() && binary.BigEndian.Uint16(p.payload[6:]) == 0
	if !unchecked && p.checksum() != 0 {
		return datagram{}, false
	}
	return datagram{
		src:  netip.AddrPortFrom(p.src, binary.BigEndian.Uint16(p.payload)),
		dst:  netip.AddrPortFrom(p.dst, binary.BigEndian.Uint16(p.payload[2:])),
		data: p.payload[udpHeader:],
	}, true
}

// packet makes the UDP packet, with its whole checksum: old clients drop one that is left for a network card to finish.
func (d datagram) packet() packet {
	b := make([]byte, udpHeader, udpHeader+len(d.data))
	binary.BigEndian.PutUint16(b, d.src.Port())
	binary.BigEndian.PutUint16(b[2:], d.dst.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(udpHeader+len(d.data)))
	p := packet{src: d.src.Addr(), dst: d.dst.Addr(), protocol: protocolUDP, hops: hopLimit, payload: append(b, d.data...)}
	check := p.checksum()
	if check == 0 {
		check = 0xffff // zero would mean that there is none (RFC 768)
	}
	binary.BigEndian.PutUint16(p.payload[6:], check)
	return p
}

// icmpv6 makes an ICMPv6 packet of a message whose checksum field, octets 2 and 3, is zero.
func icmpv6(src, dst netip.Addr, message []byte) packet {
	p := packet{src: src, dst: dst, protocol: protocolICMPv6, hops: neighbourHops, payload: append([]byte(nil), message...)}
	binary.BigEndian.PutUint16(p.payload[2:], p.checksum())
	return p
}

// checksum is the Internet checksum (RFC 1071) of the payload and the pseudo-header of UDP (RFC 768) or RFC 8200 §8.1, which
// add up alike. Over a payload that holds its own checksum it is zero.
func (p packet) checksum() uint16 {
	s := sum(0, p.src.AsSlice())
	s = sum(s, p.dst.AsSlice())
	s += uint32(p.protocol) + uint32(len(p.payload))
	return ^fold(sum(s, p.payload))
}

// sum adds the 16-bit words of b. Nothing overflows: a packet has no more than 2¹⁵ of them.
func sum(s uint32, b []byte) uint32 {
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	return s
}

// fold adds the carries (RFC 1071 §2).
func fold(s uint32) uint16 {
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}
