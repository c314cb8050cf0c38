package network

import (
	"encoding/binary"
	"net"
	"net/netip"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// arpRequest is a frame that asks who has an IPv4 address (RFC 826).
func arpRequest(mac net.HardwareAddr, sender, target netip.Addr) []byte {
	frame := ethernet(net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, unix.ETH_P_ARP)
	frame = append(frame, 0, 1, 8, 0, 6, 4, 0, 1) // Ethernet, IPv4, the lengths of their addresses, a request
	frame = append(append(frame, mac...), sender.AsSlice()...)
	return append(append(frame, make([]byte, 6)...), target.AsSlice()...)
}

// arpReply is a frame in which the host at mac says to another that it has an IPv4 address.
func arpReply(mac net.HardwareAddr, address netip.Addr, toMAC net.HardwareAddr, to netip.Addr) []byte {
	frame := append(ethernet(toMAC, mac, unix.ETH_P_ARP), 0, 1, 8, 0, 6, 4, 0, 2)
	frame = append(append(frame, mac...), address.AsSlice()...)
	return append(append(frame, toMAC...), to.AsSlice()...)
}

// solicitation is a frame that asks who has an IPv6 address (RFC 4861, section 4.3), sent to the group of those that may (RFC 4291,
// section 2.7.1).
func solicitation(mac net.HardwareAddr, sender, target netip.Addr) []byte {
	group := netip.MustParseAddr("ff02::1:ff00:0").As16()
	end := target.As16()
	copy(group[13:], end[13:])
	to := netip.AddrFrom16(group)
	return neighbourFrame(&ndp.NeighborSolicitation{
		TargetAddress: target,
		Options:       []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Source, Addr: mac}},
	}, net.HardwareAddr{0x33, 0x33, group[12], group[13], group[14], group[15]}, mac, to, sender)
}

// neighbourFrame is a frame with a message of neighbour discovery; nil if there can be none.
func neighbourFrame(m ndp.Message, toMAC, fromMAC net.HardwareAddr, to, from netip.Addr) []byte {
	message, err := ndp.MarshalMessageChecksum(m, from, to)
	if err != nil {
		return nil
	}
	frame := ethernet(toMAC, fromMAC, unix.ETH_P_IPV6)
	frame = binary.BigEndian.AppendUint16(append(frame, 0x60, 0, 0, 0), uint16(len(message)))
	frame = append(frame, unix.IPPROTO_ICMPV6, 255) // a smaller hop limit would have crossed a router
	frame = append(append(frame, from.AsSlice()...), to.AsSlice()...)
	return append(frame, message...)
}

func ethernet(to, from net.HardwareAddr, etherType uint16) []byte {
	frame := append(append([]byte(nil), to...), from...)
	return binary.BigEndian.AppendUint16(frame, etherType)
}
