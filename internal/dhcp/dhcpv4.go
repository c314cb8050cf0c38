package dhcp

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// The ports of RFC 2131 §4.1.
const (
	serverPort4 = 67
	clientPort4 = 68
)

var broadcast4 = netip.AddrFrom4([4]byte{255, 255, 255, 255})

// handleIPv4 answers DHCP messages that are broadcast or sent to the server's address.
func (s *Server) handleIPv4(b []byte) answer {
	p, ok := parseIPv4(b)
	if !ok || p.dst != broadcast4 && p.dst != s.cfg.V4.Server {
		return answer{}
	}
	d, ok := p.udp()
	if !ok || d.dst.Port() != serverPort4 {
		return answer{}
	}
	m, err := dhcpv4.FromBytes(d.data)
	if err != nil || !s.fromGuest4(m) {
		return answer{}
	}
	return s.handleDHCPv4(m)
}

// fromGuest4 takes the guest's own requests only. A relay agent would have filled in giaddr: between the guest and this
// server there is none. A client identifier has one octet of length (RFC 2132 §9.14): a longer one, which comes in parts
// (RFC 3396), would only serve to make answers long.
func (s *Server) fromGuest4(m *dhcpv4.DHCPv4) bool {
	return m.OpCode == dhcpv4.OpcodeBootRequest && m.HWType == iana.HWTypeEthernet && bytes.Equal(m.ClientHWAddr, s.cfg.Guest) &&
		m.GatewayIPAddr.IsUnspecified() && len(m.Options.Get(dhcpv4.OptionClientIdentifier)) <= 255
}

// handleDHCPv4 answers as RFC 2131 §4.3 says. Messages without a type are those of BOOTP, which is not served.
func (s *Server) handleDHCPv4(m *dhcpv4.DHCPv4) answer {
	switch m.MessageType() {
	case dhcpv4.MessageTypeDiscover:
		return s.reply4(m, dhcpv4.MessageTypeOffer)
	case dhcpv4.MessageTypeRequest:
		return s.handleRequest4(m)
	case dhcpv4.MessageTypeInform:
		return s.reply4(m, dhcpv4.MessageTypeAck)
	case dhcpv4.MessageTypeDecline:
		if s.named4(m) {
			s.warn("the guest declines its address: somebody else on the network answers for it", "address", address4(m.RequestedIPAddress()))
		}
	case dhcpv4.MessageTypeRelease:
		s.log.Debug("the guest releases its address, which stays its own", "address", address4(m.ClientIPAddr))
	}
	return answer{}
}

// handleRequest4 tells the states that a client can be in apart by RFC 2131 §4.3.2 (table 4). A guest that asks for another
// address than its own is refused in all of them, also where it wants to keep one: it may come from a snapshot or another
// pod, and starts again when it is told so.
func (s *Server) handleRequest4(m *dhcpv4.DHCPv4) answer {
	wanted := address4(m.RequestedIPAddress()) // selecting, init-reboot
	if !wanted.IsValid() {
		wanted = address4(m.ClientIPAddr) // renewing, rebinding
	}
	switch {
	case m.Options.Has(dhcpv4.OptionServerIdentifier) && !s.named4(m):
		return answer{} // the guest has chosen another server
	case !wanted.IsValid() || wanted.IsUnspecified():
		return answer{}
	case wanted != s.cfg.V4.Address.Addr():
		return s.nak4(m, wanted)
	}
	return s.reply4(m, dhcpv4.MessageTypeAck)
}

// named4 says whether the message names this server (option 54).
func (s *Server) named4(m *dhcpv4.DHCPv4) bool {
	return address4(m.ServerIdentifier()) == s.cfg.V4.Server
}

// reply4 is an offer or an acknowledgement. The answer to DHCPINFORM has neither an address nor a lease (RFC 2131 §4.3.5).
//
// The lease is infinite: the pod keeps its address for as long as it lives. Times for renewal are not given, because there is
// none: clients that are told T1 and T2 want them to be less than the lease.
func (s *Server) reply4(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType) answer {
	v4 := s.cfg.V4
	r := s.message4(m, kind)
	r.ClientIPAddr = m.ClientIPAddr
	if kind == dhcpv4.MessageTypeOffer {
		r.ClientIPAddr = net.IPv4zero
	}
	if m.MessageType() != dhcpv4.MessageTypeInform {
		r.YourIPAddr = v4.Address.Addr().AsSlice()
		r.UpdateOption(dhcpv4.OptIPAddressLeaseTime(dhcpv4.MaxLeaseTime))
	}
	r.UpdateOption(dhcpv4.OptSubnetMask(net.CIDRMask(v4.Address.Bits(), 32)))
	if left := s.addOptions4(r, m); len(left) > 0 {
		s.warn("DHCP options do not fit into the size that the guest takes", "options", left)
	}
	return s.send4(r)
}

// nak4 refuses. What it may hold is in RFC 2131 §4.3.1 (table 3).
func (s *Server) nak4(m *dhcpv4.DHCPv4, wanted netip.Addr) answer {
	r := s.message4(m, dhcpv4.MessageTypeNak)
	r.UpdateOption(dhcpv4.OptMessage(fmt.Sprintf("%s is not this machine's address", wanted)))
	return s.send4(r)
}

// message4 is what all answers have in common. The client identifier goes back as it came (RFC 6842).
func (s *Server) message4(m *dhcpv4.DHCPv4, kind dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	r := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        m.HWType,
		TransactionID: m.TransactionID,
		Flags:         m.Flags,
		ClientHWAddr:  m.ClientHWAddr,
	}
	r.UpdateOption(dhcpv4.OptMessageType(kind))
	r.UpdateOption(dhcpv4.OptServerIdentifier(s.cfg.V4.Server.AsSlice()))
	if id := m.Options.Get(dhcpv4.OptionClientIdentifier); id != nil {
		r.UpdateOption(dhcpv4.OptClientIdentifier(id))
	}
	return r
}

// send4 addresses the answer as RFC 2131 §4.1 says: to the address that the client has, else to all if the client cannot take
// anything else or is refused, else to the address that it is given.
func (s *Server) send4(r *dhcpv4.DHCPv4) answer {
	dst, mac := address4(r.YourIPAddr), s.cfg.Guest
	client := address4(r.ClientIPAddr)
	switch {
	case client.IsValid() && host4(client):
		dst = client
	case r.IsBroadcast() || r.MessageType() == dhcpv4.MessageTypeNak || !dst.IsValid():
		dst, mac = broadcast4, etherBroadcast
	}
	d := datagram{
		src:  netip.AddrPortFrom(s.cfg.V4.Server, serverPort4),
		dst:  netip.AddrPortFrom(dst, clientPort4),
		data: r.ToBytes(),
	}
	return answer{kind: "DHCP" + r.MessageType().String(), frame: d.packet().frame(mac, s.cfg.Server)}
}

// address4 is invalid where there is none.
func address4(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip.To4())
	return a
}
