package config

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// compare lets cmp look at Config: netip.Addr has no exported fields.
var compare = cmp.Options{cmp.Comparer(func(a, b netip.Addr) bool { return a == b }), cmpopts.EquateEmpty()}

func TestParseForwards(t *testing.T) {
	ip := netip.MustParseAddr
	tcp := func(host, guest uint16) Forward { return Forward{Proto: "tcp", HostPort: host, GuestPort: guest} }
	tests := []struct {
		name, in string
		want     []Forward
	}{
		{"OK none", "none", nil},
		{"OK one", "2222:22", []Forward{tcp(2222, 22)}},
		{"OK tcp", "8443:443/tcp", []Forward{tcp(8443, 443)}},
		{"OK any case", "8443:443/TCP", []Forward{tcp(8443, 443)}},
		{"OK udp", "53:53/udp", []Forward{{Proto: "udp", HostPort: 53, GuestPort: 53}}},
		{"OK address", "127.0.0.1:2222:22", []Forward{{Proto: "tcp", HostIP: ip("127.0.0.1"), HostPort: 2222, GuestPort: 22}}},
		{"OK IPv6", "[::1]:2222:22", []Forward{{Proto: "tcp", HostIP: ip("::1"), HostPort: 2222, GuestPort: 22}}},
		{"OK IPv4 in IPv6", "[::ffff:127.0.0.1]:2222:22", []Forward{{Proto: "tcp", HostIP: ip("127.0.0.1"), HostPort: 2222, GuestPort: 22}}},
		{"OK several with blanks", " 2222:22 ,\n80:80 ", []Forward{tcp(2222, 22), tcp(80, 80)}},
		{"OK QEMU's words", "hostfwd=tcp::2222-:22,hostfwd=tcp::1443-:443", []Forward{tcp(2222, 22), tcp(1443, 443)}},
		{"OK QEMU's addresses", "hostfwd=tcp:127.0.0.1:2222-10.0.2.15:22", []Forward{{Proto: "tcp", HostIP: ip("127.0.0.1"), HostPort: 2222, GuestIP: ip("10.0.2.15"), GuestPort: 22}}},
		{"OK QEMU's udp", "hostfwd=udp::53-:53", []Forward{{Proto: "udp", HostPort: 53, GuestPort: 53}}},
		{"OK QEMU without a protocol", "hostfwd=::2222-:22", []Forward{tcp(2222, 22)}},
		{"OK both spellings", "80:80,hostfwd=tcp::2222-:22", []Forward{tcp(80, 80), tcp(2222, 22)}},
		{"OK one port of two protocols", "53:53,53:53/udp", []Forward{tcp(53, 53), {Proto: "udp", HostPort: 53, GuestPort: 53}}},
		{"OK one port of two addresses", "127.0.0.1:80:80,127.0.0.2:80:81", []Forward{
			{Proto: "tcp", HostIP: ip("127.0.0.1"), HostPort: 80, GuestPort: 80}, {Proto: "tcp", HostIP: ip("127.0.0.2"), HostPort: 80, GuestPort: 81},
		}},
		{"OK wildcards of two families", "0.0.0.0:80:80,[::]:80:80", []Forward{
			{Proto: "tcp", HostIP: ip("0.0.0.0"), HostPort: 80, GuestPort: 80}, {Proto: "tcp", HostIP: ip("::"), HostPort: 80, GuestPort: 80},
		}},
		{"OK two ports to one", "80:80,81:80", []Forward{tcp(80, 80), tcp(81, 80)}},
		{"OK the highest port", "65535:65535", []Forward{tcp(65535, 65535)}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseForwards(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, compare); diff != "" {
				t.Errorf("(-want +got)\n%s", diff)
			}
		})
	}
}

func TestParseForwardsRefuses(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"bad one port", "22", "not a port forward"},
		{"bad empty entry", "80:80,", "an empty entry"},
		{"bad port 0", "0:22", "from 1 to 65535"},
		{"bad guest port 0", "22:0", "from 1 to 65535"},
		{"bad port 65536", "65536:22", "from 1 to 65535"},
		{"bad negative port", "-1:22", "from 1 to 65535"},
		{"bad name of a port", "ssh:22", "from 1 to 65535"},
		{"bad range", "80-81:80-81", "from 1 to 65535"},
		{"bad no port", ":22", "from 1 to 65535"},
		{"bad empty address", ":2222:22", "an address is missing"},
		{"bad protocol", "80:80/sctp", "write tcp or udp"},
		{"bad empty protocol", "80:80/", "write tcp or udp"},
		{"bad name", "localhost:80:80", "not an IP address"},
		{"bad IPv6 without brackets", "::1:80:80", "not an IP address"},
		{"bad IPv4 in brackets", "[127.0.0.1]:80:80", "not an IP address"},
		{"bad zone", "[fe80::1%eth0]:80:80", "not an IP address"},
		{"bad duplicate", "80:80,80:81", "the same tcp port"},
		{"bad duplicate in two spellings", "80:80,hostfwd=tcp::80-:80", "the same tcp port"},
		{"bad address under the wildcard", "80:80,127.0.0.1:80:81", "the same tcp port"},
		{"bad wildcard over an address", "127.0.0.1:80:81,0.0.0.0:80:80", "the same tcp port"},
		{"bad wildcards", "80:80/udp,[::]:80:80/udp", "the same udp port"},
		{"bad QEMU without a dash", "hostfwd=tcp::2222:22", "not QEMU's"},
		{"bad QEMU without a colon", "hostfwd=2222-22", "not QEMU's"},
		{"bad QEMU's protocol", "hostfwd=icmp::1-:1", "write tcp or udp"},
		{"bad QEMU's guest", "hostfwd=tcp::80-[::1]:80", "not an address of the guest"},
		{"bad QEMU's guest everywhere", "hostfwd=tcp::80-0.0.0.0:80", "not an address of the guest"},
		{"bad none among others", "80:80,none", "not a port forward"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := parseForwards(tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, %v; want an error with %q", got, err, tt.want)
			}
		})
	}
}

// What is read reads the same from its own spelling, and no two entries listen in one place.
func FuzzParseForwards(f *testing.F) {
	for _, s := range []string{
		"2222:22", "53:53/udp", "[::1]:2222:22", "hostfwd=tcp::2222-:22,hostfwd=tcp::1443-:443", "hostfwd=tcp:127.0.0.1:2222-10.0.2.15:22",
		"127.0.0.1:80:80, 81:80/TCP", "80:80,0.0.0.0:80:80", "hostfwd=:[::]:1-:1", "none", ",", "[::ffff:1.2.3.4]:1:1", "[fe80::1%a]:1:1",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		forwards, _ := parseForwards(s)
		spelled := make([]string, len(forwards))
		for i, forward := range forwards {
			spelled[i] = forward.String()
			if other, found := conflicting(forwards[:i], forward); found {
				t.Errorf("%q: %v and %v", s, other, forward)
			}
		}
		if len(forwards) == 0 {
			return
		}
		again, err := parseForwards(strings.Join(spelled, ","))
		if err != nil {
			t.Fatalf("%q is %v, which is wrong: %v", s, forwards, err)
		}
		if diff := cmp.Diff(forwards, again, compare); diff != "" {
			t.Errorf("%q is %v, and again\n%s", s, forwards, diff)
		}
	})
}
