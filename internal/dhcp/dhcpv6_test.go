package dhcp

import (
	"bytes"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv6"
	"github.com/insomniacslk/dhcp/iana"
)

var (
	guest6  = netip.MustParseAddr("fe80::5054:ff:fe12:3456")
	server6 = netip.MustParseAddr("fe80::76:6dff:fe00:1")
)

const (
	guestDUID  = "\x00\x03\x00\x01RT\x00\x124V"
	serverDUID = "\x00\x03\x00\x01\x02vm\x00\x00\x01"
)

func frame6(m *dhcpv6.Message) []byte {
	d := datagram{src: netip.AddrPortFrom(guest6, 546), dst: netip.AddrPortFrom(allServers, 547), data: m.ToBytes()}
	return d.packet().frame(net.HardwareAddr{0x33, 0x33, 0, 1, 0, 2}, guestMAC)
}

func option6(code dhcpv6.OptionCode, data string) dhcpv6.Option { return generic6(code, []byte(data)) }

var (
	client = option6(dhcpv6.OptionClientID, guestDUID)
	server = option6(dhcpv6.OptionServerID, serverDUID)
	rapid  = option6(dhcpv6.OptionRapidCommit, "")
)

func iana6(id byte, addresses ...string) dhcpv6.Option {
	ia := &dhcpv6.OptIANA{IaId: [4]byte{id}}
	for _, a := range addresses {
		ia.Options.Add(&dhcpv6.OptIAAddress{IPv6Addr: net.ParseIP(a)})
	}
	return ia
}

func wanted6(codes ...dhcpv6.OptionCode) dhcpv6.Option { return dhcpv6.OptRequestedOption(codes...) }

// describe6 is what a message holds, in the order of the message: one line an option.
func describe6(m *dhcpv6.Message) []string {
	lines := []string{m.MessageType.String()}
	status := func(o *dhcpv6.OptStatusCode) string {
		if o == nil {
			return ""
		}
		return " " + o.StatusCode.String()
	}
	for _, o := range m.Options.Options {
		switch o := o.(type) {
		case *dhcpv6.OptIANA:
			line := "IA_NA " + string('0'+rune(o.IaId[0])) + status(o.Options.Status())
			for _, a := range o.Options.Addresses() {
				line += " " + a.IPv6Addr.String()
				switch {
				case a.ValidLifetime == 0 && a.PreferredLifetime == 0:
					line += " no more"
				case a.ValidLifetime != infinity || a.PreferredLifetime != infinity || o.T1 != infinity || o.T2 != infinity:
					line += " for a time"
				}
			}
			lines = append(lines, line)
		case *dhcpv6.OptIATA:
			lines = append(lines, "IA_TA"+status(o.Options.Status()))
		case *dhcpv6.OptIAPD:
			lines = append(lines, "IA_PD"+status(o.Options.Status()))
		case *dhcpv6.OptStatusCode:
			lines = append(lines, o.StatusCode.String())
		default:
			lines = append(lines, strings.SplitN(o.String(), "\n", 2)[0])
		}
	}
	return lines
}

// answer6 takes an answer apart. The identifiers, which all have, are checked and left out of what it holds.
func answer6(t *testing.T, frame []byte) []string {
	t.Helper()
	e, _ := parseEthernet(frame)
	p, _ := parseIPv6(e.payload)
	d, ok := p.udp()
	if !ok || d.src != netip.AddrPortFrom(server6, 547) || d.dst != netip.AddrPortFrom(guest6, 546) || !bytes.Equal(e.dst, guestMAC) || !bytes.Equal(e.src, serverMAC) {
		t.Fatalf("not an answer to the guest: %x", frame)
	}
	m, err := dhcpv6.MessageFromBytes(d.data)
	if err != nil {
		t.Fatal(err)
	}
	if m.TransactionID != (dhcpv6.TransactionID{1, 2, 3}) || string(duid(m, dhcpv6.OptionServerID)) != serverDUID {
		t.Errorf("not an answer of the server to this message: %s", m.Summary())
	}
	if id := duid(m, dhcpv6.OptionClientID); id != nil && string(id) != guestDUID {
		t.Errorf("client identifier %x", id)
	}
	m.Options.Del(dhcpv6.OptionServerID)
	m.Options.Del(dhcpv6.OptionClientID)
	return describe6(m)
}

func TestDHCPv6(t *testing.T) {
	const given = "IA_NA 1 2001:db8:77::5"
	none := ordinary()
	none.V6.Addresses = nil
	two := routed()
	two.V6.Server = server6
	dns, search := "DNS: [2001:db8:96::10]", "Domain Search List: [default.svc.cluster.local svc.cluster.local cluster.local]"
	solicit, request := dhcpv6.MessageTypeSolicit, dhcpv6.MessageTypeRequest
	other := option6(dhcpv6.OptionServerID, "\x00\x03\x00\x01other!")
	tests := []struct {
		name    string
		cfg     Config
		kind    dhcpv6.MessageType
		options dhcpv6.Options
		want    []string // nil: no answer
	}{
		{"solicit", ordinary(), solicit, dhcpv6.Options{client, iana6(1)}, []string{"ADVERTISE", given, dns, search, "Preference: 255"}},
		{"solicit, rapid commit", ordinary(), solicit, dhcpv6.Options{client, rapid, iana6(1)}, []string{"REPLY", given, dns, search, "Rapid Commit"}},
		{"solicit, with a hint", ordinary(), solicit, dhcpv6.Options{client, iana6(1, "2001:db8::1")}, []string{"ADVERTISE", given, dns, search, "Preference: 255"}},
		{"solicit, two addresses", two, solicit, dhcpv6.Options{client, iana6(1)}, []string{"ADVERTISE", given + " fd00:77::5", "Preference: 255"}},
		{"solicit, no addresses", none, solicit, dhcpv6.Options{client, iana6(1)}, []string{"ADVERTISE", "IA_NA 1 NoAddrsAvail", dns, search, "Preference: 255"}},
		{"solicit, more than one of everything", ordinary(), solicit,
			dhcpv6.Options{client, wanted6(), iana6(1), iana6(2), &dhcpv6.OptIATA{}, &dhcpv6.OptIAPD{}},
			[]string{"ADVERTISE", given, "IA_NA 2 NoAddrsAvail", "IA_TA NoAddrsAvail", "IA_PD NoPrefixAvail", dns, search, "Preference: 255"}},
		{"request", ordinary(), request, dhcpv6.Options{client, server, iana6(1, "2001:db8:77::5")}, []string{"REPLY", given, dns, search}},
		{"request, name servers alone", ordinary(), request, dhcpv6.Options{client, server, wanted6(dhcpv6.OptionDNSRecursiveNameServer), iana6(1)}, []string{"REPLY", given, dns}},
		{"request, host name and time", ordinary(), request,
			dhcpv6.Options{client, server, wanted6(dhcpv6.OptionFQDN, dhcpv6.OptionNTPServer, dhcpv6.OptionSNTPServerList), iana6(1)},
			[]string{"REPLY", given, "SNTP Server List: [2001:db8:77::123]", "NTP: [Server Address: 2001:db8:77::123]", "FQDN: {Flags=4 DomainName=[pod-0]}"}},
		{"request, a host name of its own", ordinary(), request,
			dhcpv6.Options{client, server, wanted6(dhcpv6.OptionSNTPServerList), option6(dhcpv6.OptionFQDN, "\x01\x01a"), iana6(1)},
			[]string{"REPLY", given, "SNTP Server List: [2001:db8:77::123]", "FQDN: {Flags=4 DomainName=[pod-0]}"}},
		{"renew", ordinary(), dhcpv6.MessageTypeRenew, dhcpv6.Options{client, server, iana6(1, "2001:db8:77::5")}, []string{"REPLY", given, dns, search}},
		{"rebind", ordinary(), dhcpv6.MessageTypeRebind, dhcpv6.Options{client, iana6(1, "2001:db8:77::5")}, []string{"REPLY", given, dns, search}},
		{"rebind with the address of another pod", ordinary(), dhcpv6.MessageTypeRebind, dhcpv6.Options{client, iana6(1, "2001:db8:77::5", "2001:db8:77::6")},
			[]string{"REPLY", given + " 2001:db8:77::6 no more", dns, search}},
		{"confirm", ordinary(), dhcpv6.MessageTypeConfirm, dhcpv6.Options{client, iana6(1, "2001:db8:77::5")}, []string{"REPLY", "Success"}},
		{"confirm the address of another pod", ordinary(), dhcpv6.MessageTypeConfirm, dhcpv6.Options{client, iana6(1, "2001:db8:77::5", "2001:db8:77::6")}, []string{"REPLY", "NotOnLink"}},
		{"confirm nothing", ordinary(), dhcpv6.MessageTypeConfirm, dhcpv6.Options{client, iana6(1)}, nil},
		{"release", ordinary(), dhcpv6.MessageTypeRelease, dhcpv6.Options{client, server, iana6(1, "2001:db8:77::5")}, []string{"REPLY", "Success"}},
		{"decline", ordinary(), dhcpv6.MessageTypeDecline, dhcpv6.Options{client, server, iana6(1, "2001:db8:77::5")}, []string{"REPLY", "Success"}},
		{"information-request", ordinary(), dhcpv6.MessageTypeInformationRequest, nil, []string{"REPLY", dns, search}},
		{"information-request to this server", ordinary(), dhcpv6.MessageTypeInformationRequest, dhcpv6.Options{client, server}, []string{"REPLY", dns, search}},
		{"an option that cannot be read", ordinary(), solicit, dhcpv6.Options{client, iana6(1), option6(dhcpv6.OptionUserClass, "\xff\xff")},
			[]string{"ADVERTISE", given, dns, search, "Preference: 255"}},

		{"solicit without a client", ordinary(), solicit, dhcpv6.Options{iana6(1)}, nil},
		{"solicit of a client without a name", ordinary(), solicit, dhcpv6.Options{option6(dhcpv6.OptionClientID, ""), iana6(1)}, nil},
		{"solicit of a client with a long name", ordinary(), solicit, dhcpv6.Options{option6(dhcpv6.OptionClientID, strings.Repeat("x", 131)), iana6(1)}, nil},
		{"solicit to a server", ordinary(), solicit, dhcpv6.Options{client, server, iana6(1)}, nil},
		{"request to nobody", ordinary(), request, dhcpv6.Options{client, iana6(1)}, nil},
		{"request to another server", ordinary(), request, dhcpv6.Options{client, other, iana6(1)}, nil},
		{"renew with another server", ordinary(), dhcpv6.MessageTypeRenew, dhcpv6.Options{client, other, iana6(1)}, nil},
		{"rebind to a server", ordinary(), dhcpv6.MessageTypeRebind, dhcpv6.Options{client, server, iana6(1)}, nil},
		{"information-request with an address", ordinary(), dhcpv6.MessageTypeInformationRequest, dhcpv6.Options{client, iana6(1)}, nil},
		{"an answer", ordinary(), dhcpv6.MessageTypeReply, dhcpv6.Options{client, server, iana6(1)}, nil},
		{"a relay agent's message", ordinary(), dhcpv6.MessageTypeRelayForward, dhcpv6.Options{client, iana6(1)}, nil},
	}
	var sent [][]byte
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := &dhcpv6.Message{MessageType: tt.kind, TransactionID: dhcpv6.TransactionID{1, 2, 3}}
			m.Options.Options = slices.Clone(tt.options)
			a := newServer(t, tt.cfg).handle(frame6(m))
			if a.frame == nil {
				if tt.want != nil {
					t.Error("no answer")
				}
				return
			}
			sent = append(sent, a.frame)
			if diff := cmp.Diff(tt.want, answer6(t, a.frame)); diff != "" {
				t.Error(diff)
			}
			if tt.want != nil && a.kind != "DHCPv6 "+tt.want[0] {
				t.Errorf("it is called %q", a.kind)
			}
		})
	}
	checkFrames(t, tcpdump(t, sent, ""))
}

func TestDHCPv6BadFrames(t *testing.T) {
	s := newServer(t, ordinary())
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeSolicit}
	m.Options.Options = dhcpv6.Options{client, iana6(1)}
	good := func() datagram {
		return datagram{src: netip.AddrPortFrom(guest6, 546), dst: netip.AddrPortFrom(allServers, 547), data: m.ToBytes()}
	}
	group := net.HardwareAddr{0x33, 0x33, 0, 1, 0, 2}
	if a := s.handle(good().packet().frame(group, guestMAC)); a.kind != "DHCPv6 ADVERTISE" {
		t.Fatalf("the good one has the answer %q", a.kind)
	}
	const ip, udp = etherHeader, etherHeader + ipv6Header
	unicast, far, port := good(), good(), good()
	unicast.dst = netip.AddrPortFrom(server6, 547)
	far.src = netip.MustParseAddrPort("[2001:db8:77::5]:546")
	port.dst = netip.AddrPortFrom(allServers, 546)
	change := func(f func(b []byte) []byte) []byte { return f(good().packet().frame(group, guestMAC)) }
	for name, frame := range map[string][]byte{
		"another guest":                  good().packet().frame(group, routerMAC),
		"another MAC":                    good().packet().frame(net.HardwareAddr{2, 0, 0, 0, 0, 9}, guestMAC),
		"to the server's address":        unicast.packet().frame(serverMAC, guestMAC),
		"from another than a link-local": far.packet().frame(group, guestMAC),
		"another port":                   port.packet().frame(group, guestMAC),
		"version 4":                      change(func(b []byte) []byte { b[ip] = 0x45; return b }),
		"an extension header":            change(func(b []byte) []byte { b[ip+6] = 0; return b }),
		"cut off":                        change(func(b []byte) []byte { return b[:len(b)-1] }),
		"cut off in the header":          change(func(b []byte) []byte { return b[:ip+39] }),
		"wrong checksum":                 change(func(b []byte) []byte { b[udp+7]++; return b }),
		"no checksum":                    change(func(b []byte) []byte { b[udp+6], b[udp+7] = 0, 0; return b }),
		"an option longer than the rest": change(func(b []byte) []byte { b[udp+8+4+3]++; return again6(b) }),
		"a message of three bytes":       datagram{src: good().src, dst: good().dst, data: []byte{1, 2, 3}}.packet().frame(group, guestMAC),
	} {
		if a := s.handle(frame); a.frame != nil {
			t.Errorf("%s: answer %s", name, a.kind)
		}
	}
	c := ordinary()
	c.V6 = nil
	if a := newServer(t, c).handle(good().packet().frame(group, guestMAC)); a.frame != nil {
		t.Errorf("without IPv6: answer %s", a.kind)
	}
}

// again6 makes the UDP checksum right again.
func again6(b []byte) []byte {
	p, _ := parseIPv6(b[etherHeader:])
	p.payload[6], p.payload[7] = 0, 0
	check := p.checksum()
	p.payload[6], p.payload[7] = byte(check>>8), byte(check)
	return b
}

// A guest that asks for hundreds of associations would make an answer that no frame holds.
func TestDHCPv6AnswerTooLong(t *testing.T) {
	m := &dhcpv6.Message{MessageType: dhcpv6.MessageTypeSolicit}
	m.AddOption(client)
	for range 80 {
		m.AddOption(iana6(1))
	}
	s := newServer(t, ordinary())
	if a := s.handle(frame6(m)); a.frame != nil {
		t.Errorf("an answer of %d bytes", len(a.frame))
	}
}

func TestServerDUIDIsStable(t *testing.T) {
	if got := newServer(t, ordinary()).serverDUID(); string(got) != serverDUID {
		t.Errorf("DUID %x", got)
	}
	var d dhcpv6.DUIDLL
	if err := d.FromBytes([]byte(serverDUID)[2:]); err != nil || d.HWType != iana.HWTypeEthernet || !bytes.Equal(d.LinkLayerAddr, serverMAC) {
		t.Errorf("%v: %v", d, err)
	}
	if infinity/time.Second != 0xffffffff {
		t.Errorf("infinity is %s", infinity)
	}
}
