package dhcp

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// patience is how long a client may take. It is only ever waited for in full when a test fails.
const patience = 3 * time.Minute

var (
	guestMAC  = net.HardwareAddr{0x52, 0x54, 0x00, 0x12, 0x34, 0x56}
	serverMAC = net.HardwareAddr{0x02, 0x76, 0x6d, 0x00, 0x00, 0x01}
	routerMAC = net.HardwareAddr{0x02, 0x76, 0x6d, 0x00, 0x00, 0x02}
)

// machine is a set of namespaces (network, mounts, host name, processes) that ends, with all that runs in it, when its first
// process does. That reads from a pipe of the test's, so it ends with the test, however that ends.
type machine struct {
	pid string
	dir string // on the real file system: etc is the machine's /etc
}

// newMachine makes an empty machine: its /run and the clients' state are its own.
func newMachine(t *testing.T) *machine {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces takes root")
	}
	m := &machine{dir: t.TempDir()}
	const begin = `set -e
mount --make-rprivate /
mount -t proc proc /proc
mount -t sysfs -o ro sysfs /sys # read-only is how systemd-networkd knows that there is no udev
cp -a /etc/passwd /etc/group /etc/nsswitch.conf /etc/dhcp /etc/udhcpc /etc/dhcpcd.conf /etc/protocols /etc/services "$1/etc"
cp /etc/fstab "$1/etc" 2>/dev/null || true
[ ! -e /etc/alternatives ] || cp -a /etc/alternatives "$1/etc"
mount --bind "$1/etc" /etc
for d in /run /var/lib/dhcp /var/lib/dhcpcd; do mkdir -p $d; mount -t tmpfs -o mode=755 tmpfs $d; done
hostname localhost
ip link set lo up
echo ready
exec cat`
	if err := os.Mkdir(filepath.Join(m.dir, "etc"), 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"resolv.conf": "", "machine-id": "0123456789abcdef0123456789abcdef\n"} {
		if err := os.WriteFile(filepath.Join(m.dir, "etc", name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.Command("sh", "-c", begin, "sh", m.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS | unix.CLONE_NEWUTS | unix.CLONE_NEWPID}
	var errs bytes.Buffer
	cmd.Stderr = &errs
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("cannot make namespaces: %v", err)
	}
	t.Cleanup(func() {
		stdin.Close()
		_ = cmd.Wait()
	})
	if said, _ := io.ReadAll(io.LimitReader(stdout, 6)); string(said) != "ready\n" {
		stdin.Close()
		_ = cmd.Wait()
		t.Fatalf("cannot make a machine: %s", &errs)
	}
	m.pid = strconv.Itoa(cmd.Process.Pid)
	return m
}

// command runs in the machine.
func (m *machine) command(args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"-t", m.pid, "-n", "-m", "-u", "-p", "--"}, args...)...)
}

// try runs a command to its end.
func (m *machine) try(args ...string) (string, error) {
	out, err := m.command(args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), err
}

func (m *machine) run(t *testing.T, args ...string) string {
	t.Helper()
	out, err := m.try(args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// start starts a command that runs until the test ends it, or ends. What it says is shown if the test fails.
func (m *machine) start(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	log, err := os.Create(filepath.Join(t.TempDir(), "log"))
	if err != nil {
		t.Fatal(err)
	}
	cmd := m.command(args...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		_ = cmd.Wait()
		log.Close()
		if said, err := os.ReadFile(log.Name()); t.Failed() && err == nil {
			t.Logf("%s said:\n%s", args[0], said)
		}
	})
	return cmd
}

// link joins a new guest to a new server machine: a bridge there has a tap for the server and a veth to the guest's eth0.
// The bridge neither learns nor filters multicast, as one in production.
func link(t *testing.T, mac net.HardwareAddr) (guest *machine, port *os.File) {
	t.Helper()
	guest, server := newMachine(t), newMachine(t)
	server.run(t, "sh", "-c", "echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6") // its links have nothing to say
	port = openTap(t, server)
	const join = `set -e
ip link add br0 type bridge mcast_snooping 0
ip link set br0 up
ip link add guest type veth peer name eth0 address "$1" netns "$2"
for p in guest tap0; do ip link set $p master br0 up; bridge link set dev $p learning off; done`
	// without -p: the guest's process has its number here
	if out, err := exec.Command("nsenter", "-t", server.pid, "-n", "sh", "-c", join, "sh", mac.String(), guest.pid).CombinedOutput(); err != nil {
		t.Fatalf("cannot join the machines: %v: %s", err, out)
	}
	return guest, port
}

// openTap opens a tap in another network namespace.
func openTap(t *testing.T, m *machine) *os.File {
	t.Helper()
	type result struct {
		file *os.File
		err  error
	}
	opened := make(chan result)
	go func() {
		runtime.LockOSThread() // for good: a thread in another namespace is of no more use, and ends with the goroutine
		file, err := tapIn("/proc/" + m.pid + "/ns/net")
		opened <- result{file, err}
	}()
	r := <-opened
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { r.file.Close() })
	return r.file
}

func tapIn(namespace string) (*os.File, error) {
	ns, err := os.Open(namespace)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("setns %s: %w", namespace, err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/net/tun: %w", err)
	}
	ifr, err := unix.NewIfreq("tap0")
	if err != nil {
		return nil, err
	}
	ifr.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, ifr); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("ioctl TUNSETIFF tap0: %w", err)
	}
	return os.NewFile(uintptr(fd), "tap0"), nil
}

// capture is a port that keeps all frames.
type capture struct {
	*os.File
	mu     sync.Mutex
	frames [][]byte
}

func (c *capture) Read(b []byte) (int, error) {
	n, err := c.File.Read(b)
	if n > 0 {
		c.keep(b[:n])
	}
	return n, err
}

func (c *capture) Write(b []byte) (int, error) {
	c.keep(b)
	return c.File.Write(b)
}

func (c *capture) keep(b []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.frames = append(c.frames, bytes.Clone(b))
}

// tcpdump is what tcpdump says about the frames: a second opinion on every header and checksum.
func (c *capture) tcpdump(t *testing.T, filter string) string {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	return tcpdump(t, c.frames, filter)
}

func tcpdump(t *testing.T, frames [][]byte, filter string) string {
	t.Helper()
	const ethernet = 1
	var file bytes.Buffer
	for _, v := range []any{uint32(0xa1b2c3d4), uint16(2), uint16(4), uint32(0), uint32(0), uint32(1 << 18), uint32(ethernet)} {
		_ = binary.Write(&file, binary.BigEndian, v)
	}
	for _, f := range frames {
		_ = binary.Write(&file, binary.BigEndian, []uint32{0, 0, uint32(len(f)), uint32(len(f))})
		file.Write(f)
	}
	cmd := exec.Command("tcpdump", "-r", "-", "-n", "-e", "-t", "-vvv", filter)
	cmd.Stdin = &file
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("tcpdump: %v: %s", err, &errs)
	}
	return out.String()
}

// checkSent fails if tcpdump finds fault with anything that was sent: a wrong checksum, a length, an option it cannot read.
func (c *capture) checkSent(t *testing.T) {
	t.Helper()
	checkFrames(t, c.tcpdump(t, "ether src "+serverMAC.String()))
}

func checkFrames(t *testing.T, text string) {
	t.Helper()
	for _, bad := range []string{"bad ", "incorrect", "wrong", "trunc", "invalid", "malformed", "[|", "unreachable"} {
		if strings.Contains(text, bad) {
			t.Errorf("tcpdump says %q of what the server sent:\n%s", bad, text)
		}
	}
	checked := strings.Count(text, "udp sum ok") + strings.Count(text, "icmp6 sum ok") + strings.Count(text, "ethertype ARP")
	if packets := strings.Count(text, serverMAC.String()+" > "); packets != checked {
		t.Errorf("tcpdump has checked %d of %d packets:\n%s", checked, packets, text)
	}
}

// serve runs a server on the port until the function that it returns is called, or the test ends.
func serve(t *testing.T, cfg Config, port *capture) (stop func()) {
	t.Helper()
	s, err := New(cfg, slog.New(slog.NewTextHandler(t.Output(), nil)))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() { done <- s.Serve(ctx, port) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		stop()
		if t.Failed() {
			t.Logf("frames:\n%s", port.tcpdump(t, ""))
		}
	})
	return stop
}

// guestOn starts a server and a guest that is told cfg.
func guestOn(t *testing.T, cfg Config) (*machine, *capture) {
	t.Helper()
	guest, tap := link(t, guestMAC)
	port := &capture{File: tap}
	serve(t, cfg, port)
	return guest, port
}

// state is what a guest has made of what it was told.
type state struct {
	Addresses []string // all but link-local ones, with their prefixes; "for a time" after those that do not stay forever
	Routes    []string // "10.0.0.0/8 via 10.0.0.1", without "via" on-link ones
	MTU       int
	Resolv    []string // lines of resolv.conf
	HostName  string
}

// look reads the guest's state from the guest's kernel and files.
func (m *machine) look() (state, error) {
	var s state
	var links []struct {
		MTU       int `json:"mtu"`
		Addresses []struct {
			Local    netip.Addr `json:"local"`
			Bits     int        `json:"prefixlen"`
			Valid    uint32     `json:"valid_life_time"`
			DADFails bool       `json:"dadfailed"`
		} `json:"addr_info"`
	}
	if err := m.json(&links, "ip", "-j", "addr", "show", "dev", "eth0"); err != nil {
		return s, err
	}
	for _, a := range links[0].Addresses {
		if a.Local.IsLinkLocalUnicast() {
			continue
		}
		text := netip.PrefixFrom(a.Local, a.Bits).String()
		if a.Valid != 0xffffffff {
			text += " for a time"
		}
		if a.DADFails {
			text += " twice on the link"
		}
		s.Addresses = append(s.Addresses, text)
	}
	s.MTU = links[0].MTU
	for _, family := range []string{"-4", "-6"} {
		routes, err := m.routes(family)
		if err != nil {
			return s, err
		}
		s.Routes = append(s.Routes, routes...)
	}
	slices.Sort(s.Addresses)
	slices.Sort(s.Routes)
	s.Routes = slices.Compact(s.Routes)
	resolv, err := os.ReadFile(filepath.Join(m.dir, "etc/resolv.conf"))
	for line := range strings.Lines(string(resolv)) {
		if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
			s.Resolv = append(s.Resolv, line)
		}
	}
	if err != nil {
		return s, err
	}
	name, err := m.try("hostname")
	s.HostName = strings.TrimSpace(name)
	return s, err
}

// routes are those of the main table, without those that every address brings with it.
func (m *machine) routes(family string) ([]string, error) {
	var routes []struct{ Dst, Gateway string }
	if err := m.json(&routes, "ip", "-j", family, "route", "show", "table", "main"); err != nil {
		return nil, err
	}
	var list []string
	for _, r := range routes {
		a, err := netip.ParseAddr(r.Dst)
		own := err == nil && a.Is6() && r.Gateway == ""
		switch {
		case r.Dst == "fe80::/64" || r.Dst == "ff00::/8" || own:
		case r.Gateway == "":
			list = append(list, r.Dst)
		default:
			list = append(list, r.Dst+" via "+r.Gateway)
		}
	}
	return list, nil
}

func (m *machine) json(into any, args ...string) error {
	out, err := m.command(args...).Output()
	if err != nil {
		return fmt.Errorf("%s: %w", strings.Join(args, " "), err)
	}
	return json.Unmarshal(out, into)
}

// await looks at the guest until it is as wanted.
func (m *machine) await(t *testing.T, want state) {
	t.Helper()
	slices.Sort(want.Addresses)
	slices.Sort(want.Routes)
	awaitEqual(t, want, m.look)
}

// awaitEqual gets something again and again until it is as wanted.
func awaitEqual[T any](t *testing.T, want T, get func() (T, error)) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		got, err := get()
		if err == nil && cmp.Equal(want, got) {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("still not as wanted (-want, +got), error %v:\n%s", err, cmp.Diff(want, got))
		}
		time.Sleep(100 * time.Millisecond)
	}
}
