package boot

import (
	"bufio"
	"net"
	"net/netip"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/vmentry/vmentry/internal/confine"
)

// TestOutward: the guest's way out leads to neither the pod's loopback nor link-local addresses, but for DNS servers there, and answers.
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
		answers: []uint16{uint16(answering.LocalAddr().(*net.UDPAddr).Port)},
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
		{"127.0.0.1:4000", answering, true},
		{"127.0.0.1:4000", relayed, true},
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

// TestLocalOf reads the table of the kernel's (proc_pid_net(5)), and none that is not.
func TestLocalOf(t *testing.T) {
	table := "  sl  local_address rem_address   st\n" +
		" 7: 0100007F:08B1 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4711 2 0 0\n" +
		" 8: XYZ:08B1 00000000:0000 07 00000000:00000000 00:00000000 00000000     0        0 4712 2 0 0\n"
	for inode, want := range map[int]string{4711: "127.0.0.1:2225", 4712: "invalid AddrPort", 4713: "invalid AddrPort"} {
		if got := localOf(bufio.NewScanner(strings.NewReader(table)), strconv.Itoa(inode)).String(); got != want {
			t.Errorf("%d: %s", inode, got)
		}
	}
}
