package network

import (
	"bytes"
	"encoding/hex"
	"net"
	"net/netip"
	"testing"
)

var (
	standIn = StandIn{
		Guest:     net.HardwareAddr{2, 0, 0, 0, 0, 5},
		Addresses: []netip.Addr{netip.MustParseAddr("10.7.0.5"), netip.MustParseAddr("fd07::5")},
	}
	asker = net.HardwareAddr{2, 0, 0, 0, 0, 9}
)

func TestStandIn(t *testing.T) {
	ip := netip.MustParseAddr
	ask := func(from, target string) []byte {
		if ip(target).Is4() {
			return arpRequest(asker, ip(from), ip(target))
		}
		return solicitation(asker, ip(from), ip(target))
	}
	reply := ask("10.7.0.9", "10.7.0.5")
	reply[21] = 2
	hops := ask("fd07::9", "fd07::5")
	hops[21] = 254
	tests := []struct {
		name     string
		question []byte
		answer   string
	}{
		// receiver, sender, type; RFC 826 in its order
		{"OK IPv4", ask("10.7.0.9", "10.7.0.5"), "020000000009" + "020000000005" + "0806" + "0001080006040002" + "020000000005" + "0a070005" + "020000000009" + "0a070009"},
		// …; IPv6 header, addresses; RFC 4861, section 4.4: solicited and to be taken, target, its MAC
		{"OK IPv6", ask("fd07::9", "fd07::5"), "020000000009" + "020000000005" + "86dd" + "6000000000203aff" + "fd070000000000000000000000000005" + "fd070000000000000000000000000009" +
			"8800" + "1c74" + "60000000" + "fd070000000000000000000000000005" + "0201" + "020000000005"},
		{"bad another's address", ask("10.7.0.9", "10.7.0.6"), ""},
		{"bad another's address of IPv6", ask("fd07::9", "fd07::6"), ""},
		{"bad who wants the address himself", ask("0.0.0.0", "10.7.0.5"), ""},
		{"bad who has the address himself", ask("10.7.0.5", "10.7.0.5"), ""},
		{"bad who wants the address of IPv6 himself", ask("::", "fd07::5"), ""},
		{"bad a reply", reply, ""},
		{"bad from behind a router", hops, ""},
		{"bad nothing", nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := hex.EncodeToString(standIn.answer(tt.question)); got != tt.answer {
				t.Errorf("the answer is\n%s, want\n%s", got, tt.answer)
			}
			for n := range tt.question { // cut off anywhere
				standIn.answer(tt.question[:n])
			}
		})
	}
}

func FuzzStandIn(f *testing.F) {
	f.Add(arpRequest(asker, netip.MustParseAddr("10.7.0.9"), netip.MustParseAddr("10.7.0.5")))
	f.Add(solicitation(asker, netip.MustParseAddr("fd07::9"), netip.MustParseAddr("fd07::5")))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if answer := standIn.answer(frame); answer != nil && !bytes.Equal(answer[6:12], standIn.Guest) {
			t.Errorf("it answers as %x", answer[6:12])
		}
	})
}
