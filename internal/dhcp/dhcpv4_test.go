package dhcp

import (
	"bytes"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

func newServer(t *testing.T, cfg Config) *Server {
	t.Helper()
	s, err := New(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// frame4 is a message as the guest sends it before it has an address.
func frame4(m *dhcpv4.DHCPv4) []byte {
	return udp4(netip.IPv4Unspecified(), broadcast4, m).frame(etherBroadcast, guestMAC)
}

func udp4(src, dst netip.Addr, m *dhcpv4.DHCPv4) packet {
	return datagram{src: netip.AddrPortFrom(src, 68), dst: netip.AddrPortFrom(dst, 67), data: m.ToBytes()}.packet()
}

func request4(t *testing.T, kind dhcpv4.MessageType, modifiers ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	t.Helper()
	m, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithMessageType(kind), dhcpv4.WithHwAddr(guestMAC)}, modifiers...)...)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// answer4 is the DHCP message in an answer, and where it goes.
func answer4(t *testing.T, a answer) (m *dhcpv4.DHCPv4, mac net.HardwareAddr, dst netip.Addr) {
	t.Helper()
	e, _ := parseEthernet(a.frame)
	p, _ := parseIPv4(e.payload)
	d, ok := p.udp()
	if !ok || d.src.String() != "10.77.0.2:67" || d.dst.Port() != 68 || !bytes.Equal(e.src, serverMAC) {
		t.Fatalf("not an answer from the server: %x", a.frame)
	}
	m, err := dhcpv4.FromBytes(d.data)
	if err != nil {
		t.Fatal(err)
	}
	return m, e.dst, d.dst.Addr()
}

func requested(ip string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(ip)))
}

func named(ip string) dhcpv4.Modifier {
	return dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.ParseIP(ip)))
}

func ciaddr(ip string) dhcpv4.Modifier { return dhcpv4.WithClientIP(net.ParseIP(ip)) }

func TestDHCPv4Answers(t *testing.T) {
	const all = "255.255.255.255"
	discover, request := dhcpv4.MessageTypeDiscover, dhcpv4.MessageTypeRequest
	tests := []struct {
		name      string
		kind      dhcpv4.MessageType
		modifiers []dhcpv4.Modifier
		want      string // "" is no answer
		to        string // "" is the guest's address, its frame to the guest's MAC
	}{
		{"discover", discover, nil, "DHCPOFFER", ""},
		{"discover, answer to be broadcast", discover, []dhcpv4.Modifier{dhcpv4.WithBroadcast(true)}, "DHCPOFFER", all},
		{"discover through a relay agent", discover, []dhcpv4.Modifier{dhcpv4.WithGatewayIP(net.IPv4(10, 77, 0, 9))}, "", ""},
		{"selecting", request, []dhcpv4.Modifier{named("10.77.0.2"), requested("10.77.0.5")}, "DHCPACK", ""},
		{"selecting, answer to be broadcast", request, []dhcpv4.Modifier{named("10.77.0.2"), requested("10.77.0.5"), dhcpv4.WithBroadcast(true)}, "DHCPACK", all},
		{"selecting another address", request, []dhcpv4.Modifier{named("10.77.0.2"), requested("10.77.0.6")}, "DHCPNAK", all},
		{"selecting another server", request, []dhcpv4.Modifier{named("10.77.0.3"), requested("10.77.0.6")}, "", ""},
		{"init-reboot", request, []dhcpv4.Modifier{requested("10.77.0.5")}, "DHCPACK", ""},
		{"init-reboot with another address", request, []dhcpv4.Modifier{requested("192.168.1.7")}, "DHCPNAK", all},
		{"renewing, rebinding", request, []dhcpv4.Modifier{ciaddr("10.77.0.5")}, "DHCPACK", ""},
		{"renewing, with the broadcast flag", request, []dhcpv4.Modifier{ciaddr("10.77.0.5"), dhcpv4.WithBroadcast(true)}, "DHCPACK", ""},
		{"renewing another address", request, []dhcpv4.Modifier{ciaddr("10.77.0.6")}, "DHCPNAK", all},
		{"request for nothing", request, nil, "", ""},
		{"inform", dhcpv4.MessageTypeInform, []dhcpv4.Modifier{ciaddr("10.77.0.5")}, "DHCPACK", ""},
		{"inform without an address", dhcpv4.MessageTypeInform, nil, "DHCPACK", all},
		{"decline", dhcpv4.MessageTypeDecline, []dhcpv4.Modifier{named("10.77.0.2"), requested("10.77.0.5")}, "", ""},
		{"release", dhcpv4.MessageTypeRelease, []dhcpv4.Modifier{named("10.77.0.2"), ciaddr("10.77.0.5")}, "", ""},
		{"BOOTP", dhcpv4.MessageTypeNone, []dhcpv4.Modifier{dhcpv4.WithoutOption(dhcpv4.OptionDHCPMessageType)}, "", ""},
		{"an answer", dhcpv4.MessageTypeOffer, nil, "", ""},
		{"another one's discover", discover, []dhcpv4.Modifier{dhcpv4.WithHwAddr(routerMAC)}, "", ""},
		{"no client at all", discover, []dhcpv4.Modifier{dhcpv4.WithHwAddr(nil)}, "", ""},
		{"a client identifier in two parts", discover, []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptClientIdentifier(make([]byte, 300)))}, "", ""},
	}
	var sent [][]byte
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := request4(t, tt.kind, append(tt.modifiers, dhcpv4.WithTransactionID(dhcpv4.TransactionID{1, 2, 3, 4}))...)
			a := newServer(t, ordinary()).handle(frame4(m))
			if a.kind != tt.want {
				t.Fatalf("answer %q, want %q", a.kind, tt.want)
			}
			if tt.want == "" {
				return
			}
			sent = append(sent, a.frame)
			r, mac, dst := answer4(t, a)
			wantDst, wantMAC := "10.77.0.5", guestMAC
			if tt.to == all {
				wantDst, wantMAC = all, etherBroadcast
			}
			if dst.String() != wantDst || !bytes.Equal(mac, wantMAC) {
				t.Errorf("it goes to %s at %s", dst, mac)
			}
			if r.TransactionID != m.TransactionID || r.Flags != m.Flags || !bytes.Equal(r.ClientHWAddr, guestMAC) {
				t.Errorf("not the client's: %s", r.Summary())
			}
			if !r.ServerIdentifier().Equal(net.IPv4(10, 77, 0, 2)) {
				t.Errorf("server identifier %s", r.ServerIdentifier())
			}
			leased := tt.want != "DHCPNAK" && tt.kind != dhcpv4.MessageTypeInform
			if r.Options.Has(dhcpv4.OptionIPAddressLeaseTime) != leased || r.YourIPAddr.Equal(net.IPv4(10, 77, 0, 5)) != leased {
				t.Errorf("address and lease: %s", r.Summary())
			}
			if leased && r.IPAddressLeaseTime(0) != 0xffffffff*time.Second {
				t.Errorf("lease of %s", r.IPAddressLeaseTime(0))
			}
			if r.Options.Has(dhcpv4.OptionRouter) == (tt.want == "DHCPNAK") {
				t.Errorf("options: %s", r.Summary())
			}
		})
	}
	checkFrames(t, tcpdump(t, sent, ""))
}

func TestDHCPv4WithoutV4(t *testing.T) {
	c := ordinary()
	c.V4 = nil
	if a := newServer(t, c).handle(frame4(request4(t, dhcpv4.MessageTypeDiscover))); a.frame != nil {
		t.Errorf("answer %s", a.kind)
	}
}

func TestDHCPv4ClientIdentifier(t *testing.T) {
	id := []byte{255, 1, 2, 3}
	s := newServer(t, ordinary())
	for _, wanted := range []string{"10.77.0.5", "10.77.0.6"} {
		m := request4(t, dhcpv4.MessageTypeRequest, requested(wanted), dhcpv4.WithOption(dhcpv4.OptClientIdentifier(id)))
		r, _, _ := answer4(t, s.handle(frame4(m)))
		if got := r.Options.Get(dhcpv4.OptionClientIdentifier); !bytes.Equal(got, id) {
			t.Errorf("%s: client identifier %x, want %x", r.MessageType(), got, id)
		}
	}
	r, _, _ := answer4(t, s.handle(frame4(request4(t, dhcpv4.MessageTypeDiscover))))
	if r.Options.Has(dhcpv4.OptionClientIdentifier) {
		t.Error("a client identifier for a client that has none")
	}
}

func TestDHCPv4Options(t *testing.T) {
	many := ordinary()
	for i := range 40 {
		many.Search = append(many.Search, strings.Repeat("a", 20)+string(rune('a'+i%26))+strings.Repeat("b", i)+".example")
	}
	basic := []uint8{1, 3, 6, 51, 53, 54}
	everything := join8(basic, 12, 15, 26, 28, 42, 119, 121)
	huge := ordinary()
	for i := range 200 {
		huge.V4.Routes = append(huge.V4.Routes, Route{Dst: netip.PrefixFrom(netip.AddrFrom4([4]byte{11, 0, byte(i), 0}), 24), Via: huge.V4.Router})
	}
	hugeAndFar := ordinary()
	far := *huge.V4
	far.Address, far.Router = netip.MustParsePrefix("10.77.0.5/32"), netip.MustParseAddr("169.254.1.1")
	hugeAndFar.V4 = &far
	tests := []struct {
		name      string
		cfg       Config
		modifiers []dhcpv4.Modifier
		want      []uint8
	}{
		{"no list: all", ordinary(), nil, everything},
		{"an empty wish, with routes that it needs", ordinary(), []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask)}, join8(basic, 121)},
		{"some", ordinary(), []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(dhcpv4.OptionInterfaceMTU, dhcpv4.OptionHostName)}, join8(basic, 12, 26, 121)},
		{"a router that option 3 is enough for", plain(), []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(dhcpv4.OptionRouter)}, []uint8{1, 3, 51, 53, 54}},
		{"classless routes that were asked for", plain(), []dhcpv4.Modifier{dhcpv4.WithRequestedOptions(dhcpv4.OptionClasslessStaticRoute)}, []uint8{1, 3, 51, 53, 54, 121}},
		{"little room", many, nil, everything},
		{"more room", many, []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1400))}, everything},
		{"all the room of the link", many, []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(65535))}, everything},
		{"too many routes", huge, nil, join8(basic, 12, 15, 26, 28, 42, 119)},
		{"too many routes, and a router outside of the network", hugeAndFar, nil, join8(basic, 12, 15, 26, 42, 119, 121)},
		{"less room than there must be", many, []dhcpv4.Modifier{dhcpv4.WithOption(dhcpv4.OptMaxMessageSize(1))}, everything},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := request4(t, dhcpv4.MessageTypeDiscover, tt.modifiers...)
			a := newServer(t, tt.cfg).handle(frame4(m))
			r, _, _ := answer4(t, a)
			var got []uint8
			for code := range r.Options {
				got = append(got, code)
			}
			slices.Sort(got)
			slices.Sort(tt.want)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if len(tt.cfg.Search) > 40 {
				names := r.DomainSearch().Labels
				if valid, _ := validNames(tt.cfg.Search); len(names) < 4 || !slices.Equal(names, valid[:len(names)]) {
					t.Errorf("search list %v", names)
				}
			}
			if tt.cfg.V4 == &far {
				if routes := r.ClasslessStaticRoute(); len(routes) != 2 || !routes[1].Router.Equal(net.IPv4(169, 254, 1, 1)) {
					t.Errorf("routes %v", routes)
				}
			}
			if len(r.ToBytes()) < 300 {
				t.Errorf("%d bytes are too few for old clients", len(r.ToBytes()))
			}
			room := 576
			if says, err := m.MaxMessageSize(); err == nil {
				room = min(max(room, int(says)), 1400)
			}
			if size := len(a.frame) - etherHeader; size > room {
				t.Errorf("%d bytes for a client that takes %d", size, room)
			}
		})
	}
}

// plain needs no classless routes.
func plain() Config {
	return Config{Guest: guestMAC, Server: serverMAC, V4: &V4{
		Address: netip.MustParsePrefix("10.77.0.5/24"), Server: netip.MustParseAddr("10.77.0.2"), Router: netip.MustParseAddr("10.77.0.1"),
	}}
}

func join8(a []uint8, b ...uint8) []uint8 { return append(slices.Clone(a), b...) }

func TestClasslessRoutes(t *testing.T) {
	via := func(dst, gateway string) Route {
		r := Route{Dst: netip.MustParsePrefix(dst)}
		if gateway != "" {
			r.Via = netip.MustParseAddr(gateway)
		}
		return r
	}
	tests := []struct {
		name    string
		address string
		router  string
		routes  []Route
		want    []string
		needed  bool
	}{
		{"none", "10.0.0.5/24", "", nil, nil, false},
		{"a router", "10.0.0.5/24", "10.0.0.1", nil, []string{"0.0.0.0/0 10.0.0.1"}, false},
		{"a router, and its route", "10.0.0.5/24", "10.0.0.1", []Route{via("0.0.0.0/0", "10.0.0.1")}, []string{"0.0.0.0/0 10.0.0.1"}, false},
		{"Calico", "10.0.0.5/32", "169.254.1.1", nil, []string{"169.254.1.1/32 0.0.0.0", "0.0.0.0/0 169.254.1.1"}, true},
		{"Calico, all of its routes, the wrong way round", "10.0.0.5/32", "169.254.1.1",
			[]Route{via("0.0.0.0/0", "169.254.1.1"), via("169.254.1.1/32", "")}, []string{"169.254.1.1/32 0.0.0.0", "0.0.0.0/0 169.254.1.1"}, true},
		{"the longest prefix first, the default last", "10.0.0.5/8", "10.0.0.1",
			[]Route{via("0.0.0.0/0", "10.0.0.1"), via("172.16.0.0/12", "10.0.0.2"), via("192.168.0.0/16", "10.0.0.2"), via("192.0.2.0/24", "")},
			[]string{"192.0.2.0/24 0.0.0.0", "192.168.0.0/16 10.0.0.2", "172.16.0.0/12 10.0.0.2", "0.0.0.0/0 10.0.0.1"}, true},
		{"a gateway on another on-link prefix", "10.0.0.5/32", "192.0.2.1", []Route{via("192.0.2.0/24", "")},
			[]string{"192.0.2.0/24 0.0.0.0", "0.0.0.0/0 192.0.2.1"}, true},
		{"stray bits", "10.0.0.5/24", "", []Route{via("192.0.2.77/24", "10.0.0.1"), via("192.0.2.0/24", "10.0.0.1")}, []string{"192.0.2.0/24 10.0.0.1"}, true},
		{"an on-link default", "10.0.0.5/32", "", []Route{via("0.0.0.0/0", "")}, []string{"0.0.0.0/0 0.0.0.0"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := V4{Address: netip.MustParsePrefix(tt.address), Routes: tt.routes}
			if tt.router != "" {
				v.Router = netip.MustParseAddr(tt.router)
			}
			routes, needed := v.classless()
			var got []string
			for _, r := range routes {
				got = append(got, r.Dest.String()+" "+r.Router.String())
			}
			if diff := cmp.Diff(tt.want, got); diff != "" || needed != tt.needed {
				t.Errorf("needed %t, want %t; routes %s", needed, tt.needed, diff)
			}
		})
	}
}

func TestBroadcastAddress(t *testing.T) {
	for prefix, want := range map[string]string{
		"10.1.2.3/8": "10.255.255.255", "10.1.2.3/23": "10.1.3.255", "10.1.2.3/30": "10.1.2.3", "10.1.2.3/31": "", "10.1.2.3/32": "",
	} {
		got := ""
		if b := broadcastOf(netip.MustParsePrefix(prefix)); b != nil {
			got = net.IP(b).String()
		}
		if got != want {
			t.Errorf("broadcast address of %s is %q, want %q", prefix, got, want)
		}
	}
}

func TestDHCPv4Unicast(t *testing.T) {
	s := newServer(t, ordinary())
	guest, server := netip.MustParseAddr("10.77.0.5"), netip.MustParseAddr("10.77.0.2")
	p := udp4(guest, server, request4(t, dhcpv4.MessageTypeRequest, ciaddr("10.77.0.5")))
	if a := s.handle(p.frame(serverMAC, guestMAC)); a.kind != "DHCPACK" {
		t.Errorf("a renewal to the server has the answer %q", a.kind)
	}
	if a := s.handle(p.frame(net.HardwareAddr{2, 0, 0, 0, 0, 9}, guestMAC)); a.frame != nil {
		t.Error("a frame to another MAC has an answer")
	}
	if a := s.handle(p.frame(serverMAC, routerMAC)); a.frame != nil {
		t.Error("a frame from another MAC has an answer")
	}
	p.dst = netip.MustParseAddr("10.77.0.3")
	if a := s.handle(p.frame(etherBroadcast, guestMAC)); a.frame != nil {
		t.Error("a packet to another address has an answer")
	}
}

// The frames of a hostile or broken guest: each has the one change that makes it bad.
func TestDHCPv4BadFrames(t *testing.T) {
	s := newServer(t, ordinary())
	good := frame4(request4(t, dhcpv4.MessageTypeDiscover))
	if a := s.handle(good); a.kind != "DHCPOFFER" {
		t.Fatalf("the good one has the answer %q", a.kind)
	}
	const ip, udp = etherHeader, etherHeader + ipv4Header
	tests := map[string]func(b []byte) []byte{
		"cut off in the Ethernet header": func(b []byte) []byte { return b[:13] },
		"cut off in the IP header":       func(b []byte) []byte { return b[:ip+19] },
		"cut off in the data":            func(b []byte) []byte { return b[:len(b)-1] },
		"a VLAN tag": func(b []byte) []byte {
			return slices.Insert(b, 12, 0x81, 0, 0, 5)
		},
		"version 5":                func(b []byte) []byte { b[ip] = 0x55; return b },
		"a header of 16 bytes":     func(b []byte) []byte { b[ip] = 0x44; return b },
		"wrong header checksum":    func(b []byte) []byte { b[ip+8]--; return b },
		"a fragment":               func(b []byte) []byte { b[ip+6] = 0x20; return again4(b) },
		"a later fragment":         func(b []byte) []byte { b[ip+7] = 1; return again4(b) },
		"TCP":                      func(b []byte) []byte { b[ip+9] = 6; return again4(b) },
		"wrong UDP checksum":       func(b []byte) []byte { b[udp+6]++; return b },
		"UDP shorter than itself":  func(b []byte) []byte { b[udp+4], b[udp+5] = 0, 7; return b },
		"UDP longer than the data": func(b []byte) []byte { b[udp+4] = 0xff; return b },
		"another port":             func(b []byte) []byte { b[udp+3]++; b[udp+1]--; return b },
	}
	for name, change := range tests {
		if a := s.handle(change(bytes.Clone(good))); a.frame != nil {
			t.Errorf("%s: answer %s", name, a.kind)
		}
	}
	unchecked := bytes.Clone(good)
	unchecked[udp+6], unchecked[udp+7] = 0, 0
	if a := s.handle(unchecked); a.kind != "DHCPOFFER" {
		t.Errorf("UDP without a checksum has the answer %q", a.kind)
	}
	padded := append(bytes.Clone(good), make([]byte, 20)...)
	if a := s.handle(padded); a.kind != "DHCPOFFER" {
		t.Errorf("a padded frame has the answer %q", a.kind)
	}
}

// again4 makes the IPv4 header's checksum right again.
func again4(b []byte) []byte {
	header := b[etherHeader : etherHeader+ipv4Header]
	header[10], header[11] = 0, 0
	check := ^fold(sum(0, header))
	header[10], header[11] = byte(check>>8), byte(check)
	return b
}

func TestARP(t *testing.T) {
	request := func(change ...func([]byte)) []byte {
		b := []byte{0, 1, 8, 0, 6, 4, 0, 1}
		b = append(append(b, guestMAC...), 10, 77, 0, 5)
		b = append(append(b, 0, 0, 0, 0, 0, 0), 10, 77, 0, 2)
		for _, c := range change {
			c(b)
		}
		return ethernet{dst: etherBroadcast, src: guestMAC, etherType: etherTypeARP, payload: b}.bytes()
	}
	s := newServer(t, ordinary())
	a := s.handle(request())
	if a.kind != "ARP reply" {
		t.Fatalf("answer %q", a.kind)
	}
	text := tcpdump(t, [][]byte{a.frame}, "")
	checkFrames(t, text)
	if !strings.Contains(text, "Reply 10.77.0.2 is-at "+serverMAC.String()) || !strings.Contains(text, "> "+guestMAC.String()) {
		t.Error(text)
	}
	for name, frame := range map[string][]byte{
		"for another address":   request(func(b []byte) { b[27]++ }),
		"in another one's name": request(func(b []byte) { b[8]++ }),
		"a reply":               request(func(b []byte) { b[7] = 2 }),
		"not of Ethernet":       request(func(b []byte) { b[1] = 2 }),
		"cut off":               request()[:etherHeader+27],
	} {
		if a := s.handle(frame); a.frame != nil {
			t.Errorf("a request %s has an answer", name)
		}
	}
	c := ordinary()
	c.V4.AnswerARP = false
	if a := newServer(t, c).handle(request()); a.frame != nil {
		t.Error("an answer where somebody else answers")
	}
}
