package dhcp

import (
	"bytes"
	"encoding/binary"
	"net/netip"
)

// ARP over Ethernet for IPv4 (RFC 826).
const (
	arpLength  = 28
	arpRequest = 1
	arpReply   = 2
)

// arpHeader is hardware Ethernet, protocol IPv4, and the lengths of their addresses.
var arpHeader = []byte{0, 1, etherTypeIPv4 >> 8, etherTypeIPv4 & 0xff, 6, 4}

// handleARP answers the guest's requests for the server's address, where nobody else does.
func (s *Server) handleARP(b []byte) answer {
	v4 := s.cfg.V4
	if !v4.AnswerARP || len(b) < arpLength || !bytes.Equal(b[:6], arpHeader) || binary.BigEndian.Uint16(b[6:]) != arpRequest {
		return answer{}
	}
	senderMAC, sender, target := b[8:14], b[14:18], netip.AddrFrom4([4]byte(b[24:28]))
	if !bytes.Equal(senderMAC, s.cfg.Guest) || target != v4.Server {
		return answer{}
	}
	reply := binary.BigEndian.AppendUint16(bytes.Clone(arpHeader), arpReply)
	reply = append(reply, s.cfg.Server...)
	reply = append(reply, target.AsSlice()...)
	reply = append(reply, senderMAC...)
	reply = append(reply, sender...)
	e := ethernet{dst: s.cfg.Guest, src: s.cfg.Server, etherType: etherTypeARP, payload: reply}
	return answer{kind: "ARP reply", frame: e.bytes()}
}
