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
	return arp(1, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, mac, sender, make([]byte, 6), target)
}

// arpReply is a frame in which the host at mac says to another that it has an IPv4 address.
func arpReply(mac net.HardwareAddr, address netip.Addr, toMAC net.HardwareAddr, to netip.Addr) []byte {
	return arp(2, toMAC, mac, address, toMAC, to)
}

// arp is a frame to receiver with an ARP message: what the sender asks or says, and of which target.
func arp(operation byte, receiver, senderMAC net.HardwareAddr, sender netip.Addr, targetMAC net.HardwareAddr, target netip.Addr) []byte {
	frame := append(ethernet(receiver, senderMAC, unix.ETH_P_ARP), 0, 1, 8, 0, 6, 4, 0, operation) // Ethernet, IPv4, the lengths of their addresses
	frame = append(append(frame, senderMAC...), sender.AsSlice()...)
	return append(append(frame, targetMAC...), target.AsSlice()...)
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
	}, groupMAC(to), mac, to, sender)
}

// groupMAC is the MAC of an IPv6 group (RFC 2464, section 7).
func groupMAC(group netip.Addr) net.HardwareAddr {
	b := group.As16()
	return net.HardwareAddr{0x33, 0x33, b[12], b[13], b[14], b[15]}
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
