package network

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/mdlayher/ndp"
	"golang.org/x/sys/unix"
)

// StandIn says the guest's MAC to those who ask the network for it, where a port of the guest's is served by the pod: it has to be found
// while the guest boots, is paused or hangs, which is when somebody wants to know. It says what the guest itself would. The filter
// of the bridge has the questions come here. The kernel can do it itself (neigh_suppress on a bridge's port), but not for an IPv6 address that an
// interface of the pod's has, as the uplink does (net/bridge/br_arp_nd_proxy.c, br_is_local_ip6).
type StandIn struct {
	Guest     net.HardwareAddr
	Addresses []netip.Addr
}

// StandIn is the bridge's; its Addresses are none where it has none.
func (b BridgePlan) StandIn() StandIn {
	s := StandIn{Guest: b.Guest}
	if b.Intercept != nil {
		for _, t := range b.Intercept.At {
			s.Addresses = append(s.Addresses, t.Guest)
		}
	}
	return s
}

// Serve answers at the port of the bridge until ctx ends.
func (s StandIn) Serve(ctx context.Context, port *os.File) error {
	defer context.AfterFunc(ctx, func() { port.SetReadDeadline(time.Unix(1, 0)) })()
	frame := make([]byte, maxQuestion)
	for {
		n, err := port.Read(frame)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("cannot answer for the guest: %w", err)
		}
		if answer := s.answer(frame[:n]); answer != nil {
			port.Write(answer) // who has not heard it asks again
		}
	}
}

// maxQuestion is more than any question has, in bytes. What is longer is cut off, and is none.
const maxQuestion = 512

// Lengths in bytes (IEEE 802.3; RFC 826; RFC 8200, section 3; RFC 4861, section 4.3).
const (
	ethernetHeader = 14
	arpMessage     = 28
	ipv6Header     = 40
)

// answer is the answer to a frame; nil: there is none.
func (s StandIn) answer(frame []byte) []byte {
	if len(frame) < ethernetHeader {
		return nil
	}
	asker := net.HardwareAddr(slices.Clone(frame[6:12]))
	switch binary.BigEndian.Uint16(frame[12:]) {
	case unix.ETH_P_ARP:
		return s.answerARP(frame[ethernetHeader:], asker)
	case unix.ETH_P_IPV6:
		return s.answerSolicitation(frame[ethernetHeader:], asker)
	}
	return nil
}

// answerARP answers a request (RFC 826) of a host that has an address. One that has none asks whether it may have this one, and that is the
// guest's to answer (RFC 5227, section 2.1.1).
func (s StandIn) answerARP(b []byte, asker net.HardwareAddr) []byte {
	if len(b) < arpMessage || !bytes.HasPrefix(b, []byte{0, 1, 8, 0, 6, 4, 0, 1}) {
		return nil
	}
	from, target := netip.AddrFrom4([4]byte(b[14:18])), netip.AddrFrom4([4]byte(b[24:28]))
	if from.IsUnspecified() || from == target || !slices.Contains(s.Addresses, target) {
		return nil
	}
	return arpReply(s.Guest, target, asker, from)
}

// answerSolicitation is answerARP for IPv6 (RFC 4861, section 7.2.4).
func (s StandIn) answerSolicitation(b []byte, asker net.HardwareAddr) []byte {
	if len(b) < ipv6Header || b[6] != unix.IPPROTO_ICMPV6 || b[7] != 255 {
		return nil
	}
	end := ipv6Header + int(binary.BigEndian.Uint16(b[4:]))
	if len(b) < end {
		return nil
	}
	from := netip.AddrFrom16([16]byte(b[8:24]))
	message, err := ndp.ParseMessage(b[ipv6Header:end])
	question, ok := message.(*ndp.NeighborSolicitation)
	if err != nil || !ok || from.IsUnspecified() || from.IsMulticast() || !slices.Contains(s.Addresses, question.TargetAddress) {
		return nil
	}
	for _, o := range question.Options { // it may have come through somebody who asks for others
		if a, ok := o.(*ndp.LinkLayerAddress); ok && a.Direction == ndp.Source {
			asker = a.Addr
		}
	}
	return neighbourFrame(&ndp.NeighborAdvertisement{
		Solicited: true, Override: true, TargetAddress: question.TargetAddress,
		Options: []ndp.Option{&ndp.LinkLayerAddress{Direction: ndp.Target, Addr: s.Guest}},
	}, asker, s.Guest, from, question.TargetAddress)
}
