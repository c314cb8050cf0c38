package boot

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/vmentry/vmentry/internal/confine"
)

// TestOutward: the guest's way out leads to neither the pod's loopback nor clouds' metadata, but for DNS servers there, and answers.
func TestOutward(t *testing.T) {
	answering, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer answering.Close()
	relayed, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer relayed.Close()
	other, err := net.ListenPacket("udp4", "0.0.0.0:0")
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	served, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	asking := func(network, to string) string { // the address of one who is connected
		c, err := net.Dial(network, to)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		return c.LocalAddr().String()
	}
	portOf := func(c net.PacketConn) int { return c.LocalAddr().(*net.UDPAddr).Port }
	at := func(c net.PacketConn) string { return fmt.Sprint("127.0.0.1:", portOf(c)) }
	six, err := net.ListenPacket("udp", ":0") // of both families
	if err != nil {
		t.Fatal(err)
	}
	defer six.Close()
	number := func(c net.PacketConn) (fd int) {
		raw, err := c.(*net.UDPConn).SyscallConn()
		if err != nil {
			t.Fatal(err)
		}
		raw.Control(func(n uintptr) { fd = int(n) })
		return fd
	}
	o := outward{
		resolver: func() []netip.Addr {
			return []netip.Addr{netip.MustParseAddr("127.0.0.11"), netip.MustParseAddr("169.254.20.10"), netip.MustParseAddr("10.96.0.10")}
		},
		answers: []uint16{uint16(portOf(answering))},
		proc:    "/proc",
	}
	for _, tt := range []struct {
		to    string
		from  net.PacketConn
		allow bool
	}{
		{"192.0.2.1:80", other, true},
		{"10.96.0.10:53", other, true},
		{"[2001:db8::1]:443", other, true},
		{"127.0.0.1:80", other, false},
		{"127.0.0.11:80", other, false},
		{"127.0.0.11:53", other, true},
		{"127.0.0.1:53", other, false},
		{"0.0.0.0:80", other, false},
		{"0.1.2.3:80", other, false},
		{"[::1]:80", other, false},
		{"[::]:80", other, false},
		{"169.254.169.254:80", other, false},
		{"169.254.20.10:53", other, true},
		{"169.254.20.10:80", other, false},
		{"[fe80::1]:80", other, false},
		{"[fd00:ec2::254]:80", other, false},
		{"[fd00:c1::a9fe:a9fe]:80", other, false},
		{"100.100.100.200:80", other, false},
		{"168.63.129.16:80", other, false},
		{"168.63.129.16:53", other, false},
		{"168.63.129.17:53", other, true},
		{"[64:ff9b::a9fe:a9fe]:80", other, false},
		{"[64:ff9b::7f00:1]:80", other, false},
		{"[64:ff9b::192.0.2.1]:80", other, true},
		{asking("udp4", at(answering)), answering, true},
		{asking("udp4", at(answering)), relayed, false},
		{asking("udp4", at(answering)), other, false},
		{asking("udp4", at(relayed)), relayed, true},
		{asking("udp4", at(served)), answering, false},
		{at(other), answering, true}, // which may have asked
		{at(six), answering, true},
		{at(served), answering, false},
		{at(served), relayed, false},
		{fmt.Sprint("127.0.0.2:", portOf(served)), answering, false},
		{"127.0.0.1:1", answering, false},
		{"127.0.0.1:1", relayed, false},
		{"169.254.169.254:80", answering, false},
	} {
		c := confine.Connection{To: netip.MustParseAddrPort(tt.to), PID: os.Getpid(), FD: number(tt.from)}
		if got := o.allow(c); got != tt.allow {
			t.Errorf("%s from %s: %v", tt.to, tt.from.LocalAddr(), got)
		}
	}
	if o.allow(confine.Connection{To: netip.MustParseAddrPort("127.0.0.1:80"), PID: os.Getpid(), FD: 1 << 20}) {
		t.Error("a descriptor that there is not may answer")
	}
}

// TestAnswersToClients: a socket at a port that the kernel gives to nobody by itself is a server's, also one that is at no address of its own.
func TestAnswersToClients(t *testing.T) {
	proc := t.TempDir()
	settings := proc + "/sys/net/ipv4"
	if err := errors.Join(os.MkdirAll(settings, 0o755), os.Mkdir(proc+"/net", 0o755), os.MkdirAll(proc+"/1/fd", 0o755), os.Symlink("socket:[1]", proc+"/1/fd/3"),
		os.WriteFile(settings+"/ip_local_port_range", []byte("32768\t60999\n"), 0o644),
		os.WriteFile(proc+"/net/udp", []byte(" 1: 00000000:08B1 00000000:0000 07 0:0 0:0 0 0 0 1\n"+ // the guest's, 2225
			" 2: 00000000:0035 00000000:0000 07 0:0 0:0 0 0 0 2\n"+ // port 53
			" 3: 00000000:9C40 00000000:0000 07 0:0 0:0 0 0 0 3\n"+ // 40000, by two
			" 4: 0100007F:9C40 00000000:0000 07 0:0 0:0 0 0 0 4\n"+
			" 5: 00000000:9C41 00000000:0000 07 0:0 0:0 0 0 0 5\n"+
			" 6: 0100007F:9C42 0100007F:08B1 01 0:0 0:0 0 0 0 6\n"+
			" 7: 0100007F:1F90 0100007F:08B1 01 0:0 0:0 0 0 0 7\n"), 0o644)); err != nil {
		t.Fatal(err)
	}
	o := outward{answers: []uint16{2225}, proc: proc, resolver: func() []netip.Addr { return nil }}
	for to, want := range map[string]bool{"127.0.0.1:53": false, "127.0.0.1:40000": false, "127.0.0.2:40000": true, "127.0.0.1:40001": true, "127.0.0.1:40002": true, "127.0.0.1:8080": true, "127.0.0.1:40003": false} {
		if got := o.allow(confine.Connection{To: netip.MustParseAddrPort(to), PID: 1, FD: 3}); got != want {
			t.Errorf("an answer to %s: %v", to, got)
		}
	}
}

// TestReadSockets reads the tables of the kernel's (proc_pid_net(5)), and nothing that is not one.
func TestReadSockets(t *testing.T) {
	table := "  sl  local_address rem_address   st\n" +
		" 7: 0100007F:08B1 0200007F:0035 01 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0\n" +
		" 8: XYZ:08B1 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0 0\n" +
		" 9: 0000000000000000FFFF00000100007F:08B2 00000000000000000000000000000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 4713 2 0 0\n" +
		"10: 000000000000000000000000:08B2 00000000:0000 07 00000000:00000000 00:00000000 00000000 0 0 4714 2 0 0\n"
	want := []datagramSocket{
		{netip.MustParseAddrPort("127.0.0.1:2225"), netip.MustParseAddrPort("127.0.0.2:53"), "4711"},
		{netip.MustParseAddrPort("127.0.0.1:2226"), netip.MustParseAddrPort("[::]:0"), "4713"},
	}
	if got := readSockets(strings.NewReader(table)); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
}
