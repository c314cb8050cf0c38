package qemu

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

const greeting = `{"QMP": {"version": {"qemu": {"micro": 2, "minor": 1, "major": 10}, "package": "x"}, "capabilities": ["oob"]}}` + "\n"

// server is the other end of a QMP connection: it greets and then hands each line to answer, which returns what to say.
func server(t *testing.T, answer func(line string) string) (context.Context, net.Conn) {
	t.Helper()
	near, far := net.Pipe()
	t.Cleanup(func() { far.Close() })
	go func() {
		fmt.Fprint(far, greeting)
		for s := bufio.NewScanner(far); s.Scan(); {
			fmt.Fprint(far, answer(s.Text()))
		}
	}()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	t.Cleanup(cancel)
	return ctx, near
}

func id(line string) string {
	_, after, _ := strings.Cut(line, `"id":`)
	return strings.TrimRight(after, "}")
}

func TestMonitor(t *testing.T) {
	var events []string
	ctx, conn := server(t, func(line string) string {
		switch {
		case strings.Contains(line, "bad"):
			return `{"id": ` + id(line) + `, "error": {"class": "CommandNotFound", "desc": "no such thing"}}` + "\n"
		case strings.Contains(line, "query-status"):
			// noise, a foreign answer and an event come first; the answer is longer than a default scanner takes
			return "not json\r\n" + `{"id": 99999, "return": {}}` + "\n" + `{"event": "STOP", "timestamp": {"seconds": 1, "microseconds": 5}}` + "\n" +
				`{"id": ` + id(line) + `, "return": {"status": "paused", "x": "` + strings.Repeat("y", 200<<10) + `"}}` + "\n"
		}
		return `{"id": ` + id(line) + `, "return": {}}` + "\n"
	})
	m, err := NewMonitor(ctx, conn, func(e Event) { events = append(events, fmt.Sprint(e.Name, " ", e.Time.UnixMicro())) })
	if err != nil {
		t.Fatal(err)
	}
	if m.Version.String() != "10.1.2" {
		t.Errorf("version %s", m.Version)
	}
	if s, err := m.RunState(ctx); s != "paused" || err != nil {
		t.Errorf("state %q, %v", s, err)
	}
	var refused *CommandError
	if err := m.Execute(ctx, "bad", nil, nil); !errors.As(err, &refused) || refused.Error() != "QMP bad: no such thing" {
		t.Errorf("refused command: %v", err)
	}
	m.Close()
	<-m.Done()
	if err := m.Powerdown(ctx); !errors.Is(err, ErrGone) && err == nil {
		t.Errorf("after the end: %v", err)
	}
	if diff := cmp.Diff([]string{"STOP 1000005"}, events); diff != "" {
		t.Error(diff)
	}
}

func TestMonitorThatHangs(t *testing.T) {
	ctx, conn := server(t, func(line string) string {
		if strings.Contains(line, "qmp_capabilities") {
			return `{"id": ` + id(line) + `, "return": {}}` + "\n"
		}
		return ""
	})
	m, err := NewMonitor(ctx, conn, nil)
	if err != nil {
		t.Fatal(err)
	}
	short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancel()
	if err := m.Powerdown(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a deadline", err)
	}
}

func TestMonitorWithoutGreeting(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Millisecond)
	defer cancel()
	if _, err := NewMonitor(ctx, near, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, want a deadline", err)
	}
}

// TestRealQEMU holds the client against the QEMU that is installed.
func TestRealQEMU(t *testing.T) {
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatalf("%v: `make test` installs it", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	caps, err := Probe(ctx, path, os.Environ())
	if err != nil {
		t.Fatal(err)
	}
	m := demo()
	for _, bus := range []Bus{VirtIO, SCSI, SATA, NVMe} {
		m.Disks[0].Bus, m.Disks[1].Bus = bus, bus
		if missing := caps.Check(m); len(missing) > 0 {
			t.Errorf("%s: %q", bus, missing)
		}
	}

	socket := filepath.Join(t.TempDir(), "qmp.sock")
	cmd := exec.Command(path, "-machine", "q35", "-accel", "tcg", "-nodefaults", "-display", "none", "-S",
		"-netdev", "user,id=net0", "-device", "virtio-net-pci,netdev=net0",
		"-chardev", "socket,id=qmp,path="+socket+",server=on,wait=off", "-mon", "chardev=qmp,mode=control")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() { cmd.Wait(); close(gone) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-gone })
	reasons := make(chan string, 10)
	mon, err := DialWait(ctx, socket, gone, func(e Event) { reasons <- e.Name + string(e.Data) })
	if err != nil {
		t.Fatal(err)
	}
	if s, err := mon.RunState(ctx); s != "prelaunch" || err != nil {
		t.Errorf("state %q, %v", s, err)
	}
	f := Forward{Proto: "tcp", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: freePort(t), GuestPort: 22}
	if err := mon.AddForward(ctx, "net0", f); err != nil {
		t.Error(err)
	}
	if err := mon.AddForward(ctx, "net0", f); err == nil {
		t.Error("the same forward twice was accepted")
	}
	table, err := mon.UserNet(ctx)
	want := Connection{"TCP", "HOST_FORWARD", netip.AddrPortFrom(f.HostIP, f.HostPort), netip.MustParseAddrPort("10.0.2.15:22")}
	if err != nil || len(table) != 1 {
		t.Fatalf("table %v, %v", table, err)
	}
	if diff := cmp.Diff(want, table[0], cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Error(diff)
	}
	if err := mon.RemoveForward(ctx, "net0", f); err != nil {
		t.Error(err)
	}
	if table, err := mon.UserNet(ctx); len(table) != 0 || err != nil {
		t.Errorf("after the removal: %v, %v", table, err)
	}
	if err := mon.Quit(ctx); err != nil {
		t.Error(err)
	}
	<-mon.Done()
	<-gone
	close(reasons)
	var all []string
	for r := range reasons {
		all = append(all, r)
	}
	if s := strings.Join(all, "\n"); !strings.Contains(s, "SHUTDOWN") || !strings.Contains(s, "host-qmp-quit") {
		t.Errorf("events: %s", s)
	}
}

func freePort(t *testing.T) uint16 {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port()
}

func TestParseUserNet(t *testing.T) {
	text := "Hub -1 (net0):\n" +
		"  Protocol[State]    FD  Source Address  Port   Dest. Address  Port RecvQ SendQ\n" +
		"  TCP[ESTABLISHED]   26       127.0.0.1 33770       10.0.2.15    22     0     0\n" +
		"  TCP[HOST_FORWARD]  12               *  2222       10.0.2.15    22     0     0\n" +
		"  UDP[236 sec]       27       10.0.2.15 40000         1.1.1.1    53     0     0\n" +
		"  TCP[X] 1 nonsense 1 2 3\n"
	want := []Connection{
		{"TCP", "ESTABLISHED", netip.MustParseAddrPort("127.0.0.1:33770"), netip.MustParseAddrPort("10.0.2.15:22")},
		{"TCP", "HOST_FORWARD", netip.MustParseAddrPort("0.0.0.0:2222"), netip.MustParseAddrPort("10.0.2.15:22")},
	}
	if diff := cmp.Diff(want, parseUserNet(text), cmpopts.EquateComparable(netip.AddrPort{})); diff != "" {
		t.Error(diff)
	}
}

func FuzzParseUserNet(f *testing.F) {
	f.Add("  TCP[ESTABLISHED]   26       127.0.0.1 33770       10.0.2.15    22     0     0\n")
	f.Fuzz(func(t *testing.T, s string) {
		for _, c := range parseUserNet(s) {
			if !c.Source.IsValid() || !c.Destination.IsValid() {
				t.Errorf("half a connection: %+v", c)
			}
		}
	})
}

func FuzzMonitor(f *testing.F) {
	f.Add([]byte(`{"event": "SHUTDOWN", "data": {"guest": true, "reason": "guest-shutdown"}, "timestamp": {"seconds": 1}}` + "\n"))
	f.Add([]byte(`{"id": 1, "error": {"desc": 5}}` + "\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		near, far := net.Pipe()
		go func() {
			fmt.Fprint(far, greeting)
			far.Write(b)
			far.Close()
		}()
		go func() {
			for s := bufio.NewScanner(far); s.Scan(); {
			}
		}()
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		if m, err := NewMonitor(ctx, near, func(Event) {}); err == nil {
			m.Execute(ctx, "query-status", nil, nil)
			m.Close()
		} else if errors.Is(err, context.DeadlineExceeded) {
			t.Error("a closed connection was not noticed")
		}
	})
}
