package dhcp

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

const (
	clientPort6 = 546
	serverPort6 = 547

	// infinity is the lifetime that never ends, and the renewal that never comes (RFC 8415 §7.7).
	infinity = 0xffffffff * time.Second

	// A DUID has two octets of type and up to 128 more (RFC 8415 §11.1).
	minDUID, maxDUID = 3, 130

	// preferenceHighest lets the client take the first answer at once, and not wait for other servers (RFC 8415 §18.2.1).
	preferenceHighest = 255
)

// allServers is All_DHCP_Relay_Agents_and_Servers. Nothing sent to the server's own address is taken: clients may send there
// only if the server has told them so (RFC 8415 §18.4).
var allServers = netip.MustParseAddr("ff02::1:2")

// handleUDP6 answers DHCPv6 messages.
func (s *Server) handleUDP6(p packet) answer {
	d, ok := p.udp()
	if !ok || d.dst != netip.AddrPortFrom(allServers, serverPort6) || !p.src.IsLinkLocalUnicast() {
		return answer{}
	}
	m, ok := parseDHCPv6(d.data)
	if !ok {
		return answer{}
	}
	r, ok := s.handleDHCPv6(m)
	if !ok {
		return answer{}
	}
	reply := datagram{
		src:  netip.AddrPortFrom(s.cfg.V6.Server, serverPort6),
		dst:  netip.AddrPortFrom(p.src, clientPort6),
		data: r.ToBytes(),
	}.packet()
	if len(reply.payload) > s.cfg.mtu()-ipv6Header {
		s.warn("a DHCPv6 answer is longer than the MTU: the guest asks for too much at once")
		return answer{}
	}
	return answer{kind: "DHCPv6 " + r.MessageType.String(), frame: reply.frame(s.cfg.Guest, s.cfg.Server)}
}

// parseDHCPv6 looks into the options alone that are of use here: a strange one in another option is no reason to leave the
// guest without an answer.
func parseDHCPv6(b []byte) (*dhcpv6.Message, bool) {
	if len(b) < dhcpv6.MessageHeaderSize {
		return nil, false
	}
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageType(b[0]), TransactionID: dhcpv6.TransactionID(b[1:4])}
	return m, m.Options.FromBytesWithParser(b[dhcpv6.MessageHeaderSize:], parseOption6) == nil
}

func parseOption6(code dhcpv6.OptionCode, data []byte) (dhcpv6.Option, error) {
	switch code {
	case dhcpv6.OptionIANA, dhcpv6.OptionIATA, dhcpv6.OptionIAPD, dhcpv6.OptionORO:
		return dhcpv6.ParseOption(code, data)
	}
	return generic6(code, bytes.Clone(data)), nil
}

func generic6(code dhcpv6.OptionCode, data []byte) dhcpv6.Option {
	return &dhcpv6.OptionGeneric{OptionCode: code, OptionData: data}
}

// duid is the identifier in an option, and nil where there is none.
func duid(m *dhcpv6.Message, code dhcpv6.OptionCode) []byte {
	if o := m.GetOneOption(code); o != nil {
		return o.ToBytes()
	}
	return nil
}

// serverDUID is this server's: a DUID-LL (RFC 8415 §11.4) of its port's MAC.
func (s *Server) serverDUID() []byte {
	return (&dhcpv6.DUIDLL{HWType: iana.HWTypeEthernet, LinkLayerAddr: s.cfg.Server}).ToBytes()
}

// valid6 says whether a message names the client and the server as RFC 8415 §16 wants it for its kind.
func (s *Server) valid6(m *dhcpv6.Message) bool {
	client, server := duid(m, dhcpv6.OptionClientID), duid(m, dhcpv6.OptionServerID)
	known := len(client) >= minDUID && len(client) <= maxDUID
	ours := bytes.Equal(server, s.serverDUID())
	switch m.MessageType {
	case dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeConfirm, dhcpv6.MessageTypeRebind:
		return known && server == nil
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRelease, dhcpv6.MessageTypeDecline:
		return known && ours
	case dhcpv6.MessageTypeInformationRequest:
		noIA := len(m.Options.IANA())+len(m.Options.IATA())+len(m.Options.IAPD()) == 0
		return (known || client == nil) && (ours || server == nil) && noIA
	}
	return false
}

// handleDHCPv6 answers as RFC 8415 §18.3 says.
func (s *Server) handleDHCPv6(m *dhcpv6.Message) (*dhcpv6.Message, bool) {
	if !s.valid6(m) {
		return nil, false
	}
	r := s.message6(m)
	switch m.MessageType {
	case dhcpv6.MessageTypeSolicit:
		s.addAddresses(r, m)
		s.addOptions6(r, m)
		if m.GetOneOption(dhcpv6.OptionRapidCommit) != nil {
			r.AddOption(generic6(dhcpv6.OptionRapidCommit, nil))
			break
		}
		r.MessageType = dhcpv6.MessageTypeAdvertise
		r.AddOption(dhcpv6.OptPreference(preferenceHighest))
	case dhcpv6.MessageTypeRequest, dhcpv6.MessageTypeRenew, dhcpv6.MessageTypeRebind:
		s.addAddresses(r, m)
		s.addOptions6(r, m)
	case dhcpv6.MessageTypeInformationRequest:
		s.addOptions6(r, m)
	case dhcpv6.MessageTypeConfirm:
		return r, s.confirm(r, m)
	case dhcpv6.MessageTypeRelease:
		r.AddOption(status6(iana.StatusSuccess, "released; the address stays this machine's"))
	case dhcpv6.MessageTypeDecline:
		s.warn("the guest declines its IPv6 address: somebody else on the network answers for it")
		r.AddOption(status6(iana.StatusSuccess, "noted"))
	}
	return r, true
}

// message6 is what all answers have in common. The client's identifier goes back as it came.
func (s *Server) message6(m *dhcpv6.Message) *dhcpv6.Message {
	r := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeReply, TransactionID: m.TransactionID}
	if client := m.GetOneOption(dhcpv6.OptionClientID); client != nil {
		r.AddOption(client)
	}
	r.AddOption(generic6(dhcpv6.OptionServerID, s.serverDUID()))
	return r
}

func status6(code iana.StatusCode, text string) dhcpv6.Option {
	return &dhcpv6.OptStatusCode{StatusCode: code, StatusMessage: text}
}

// addAddresses gives the guest's addresses to the first identity association that asks for any. The others learn that there is
// nothing for them.
func (s *Server) addAddresses(r, m *dhcpv6.Message) {
	for i, ia := range m.Options.IANA() {
		given := &dhcpv6.OptIANA{IaId: ia.IaId, T1: infinity, T2: infinity}
		given.Options.Options = s.association(ia, i == 0, m.MessageType)
		r.AddOption(given)
	}
	for _, ia := range m.Options.IATA() {
		none := &dhcpv6.OptIATA{IaId: ia.IaId}
		none.Options.Add(status6(iana.StatusNoAddrsAvail, "no temporary addresses here"))
		r.AddOption(none)
	}
	for _, ia := range m.Options.IAPD() {
		none := &dhcpv6.OptIAPD{IaId: ia.IaId}
		none.Options.Add(status6(iana.StatusNoPrefixAvail, "no prefixes here"))
		r.AddOption(none)
	}
}

// association is what is in an identity association. An address that the guest wants to keep and that is not its own, for it
// comes from a snapshot or another pod, is given back with lifetimes of zero: so it is dropped at once (RFC 8415 §18.3.4).
func (s *Server) association(ia *dhcpv6.OptIANA, first bool, kind dhcpv6.MessageType) dhcpv6.Options {
	var options dhcpv6.Options
	if first {
		for _, a := range s.cfg.V6.Addresses {
			options.Add(&dhcpv6.OptIAAddress{IPv6Addr: a.AsSlice(), PreferredLifetime: infinity, ValidLifetime: infinity})
		}
	}
	if len(options) == 0 {
		options.Add(status6(iana.StatusNoAddrsAvail, "no more addresses here"))
	}
	if kind != dhcpv6.MessageTypeRenew && kind != dhcpv6.MessageTypeRebind {
		return options
	}
	for _, had := range ia.Options.Addresses() {
		if !first || !s.has(had.IPv6Addr) {
			options.Add(&dhcpv6.OptIAAddress{IPv6Addr: had.IPv6Addr})
		}
	}
	return options
}

func (s *Server) has(ip net.IP) bool {
	a, ok := netip.AddrFromSlice(ip)
	return ok && slices.Contains(s.cfg.V6.Addresses, a)
}

// confirm answers a guest that asks whether its addresses are still right. It is about its own addresses here and not, as in
// RFC 8415 §18.3.3, about prefixes: another address is of no use to it, even on the same link. A question without an
// address has no answer.
func (s *Server) confirm(r, m *dhcpv6.Message) bool {
	count, status := 0, status6(iana.StatusSuccess, "")
	for _, ia := range m.Options.IANA() {
		for _, a := range ia.Options.Addresses() {
			count++
			if !s.has(a.IPv6Addr) {
				status = status6(iana.StatusNotOnLink, "not this machine's address")
			}
		}
	}
	r.AddOption(status)
	return count > 0
}

// addOptions6 adds what the guest asks for. One that does not say what it wants gets what everybody wants.
func (s *Server) addOptions6(r, m *dhcpv6.Message) {
	asked := m.Options.RequestedOptions()
	wants := func(code dhcpv6.OptionCode) bool { return asked == nil || asked.Contains(code) }
	if dns := ips(s.cfg.V6.DNS); len(dns) > 0 && wants(dhcpv6.OptionDNSRecursiveNameServer) {
		r.AddOption(dhcpv6.OptDNS(dns...))
	}
	if len(s.cfg.Search) > 0 && wants(dhcpv6.OptionDomainSearchList) {
		r.AddOption(generic6(dhcpv6.OptionDomainSearchList, uncompressed(s.cfg.Search)))
	}
	if ntp := ips(s.cfg.NTP); len(ntp) > 0 {
		s.addNTP6(r, ntp, asked)
	}
	if s.cfg.HostName != "" && (asked.Contains(dhcpv6.OptionFQDN) || m.GetOneOption(dhcpv6.OptionFQDN) != nil) {
		r.AddOption(generic6(dhcpv6.OptionFQDN, fqdn(s.cfg.HostName)))
	}
}

// addNTP6 tells the time servers in the way of RFC 5908, or in the older one of RFC 4075 that some clients ask for.
func (s *Server) addNTP6(r *dhcpv6.Message, servers []net.IP, asked dhcpv6.OptionCodes) {
	if asked.Contains(dhcpv6.OptionSNTPServerList) {
		r.AddOption(dhcpv6.OptSNTP(servers...))
	}
	if !asked.Contains(dhcpv6.OptionNTPServer) {
		return
	}
	list := &dhcpv6.OptNTPServer{}
	for _, ip := range servers {
		list.Suboptions.Add((*dhcpv6.NTPSuboptionSrvAddr)(&ip))
	}
	r.AddOption(list)
}

// fqdn is the value of option 39 (RFC 4704 §4): nobody here updates the DNS (the N flag), and a name that is not fully qualified
// has no empty label at its end.
func fqdn(name string) []byte {
	const noUpdates = 1 << 2
	b := uncompressed([]string{name})
	return append([]byte{noUpdates}, b[:len(b)-1]...)
}

// ips are the IPv6 ones among the addresses.
func ips(addresses []netip.Addr) []net.IP {
	var list []net.IP
	for _, a := range addresses {
		if a.Is6() {
			list = append(list, a.AsSlice())
		}
	}
	return list
}
