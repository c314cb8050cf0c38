package console

import (
	"bytes"
	"context"
	"io"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/terminal"
	"golang.org/x/sys/unix"
)

// source is a guest that writes what the test says, and remembers what is typed.
type source struct {
	io.Reader
	mu    sync.Mutex
	typed bytes.Buffer
}

func (s *source) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.typed.Write(b)
}

func (s *source) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.typed.String()
}

func TestCarry(t *testing.T) {
	guest, far := io.Pipe()
	go func() {
		for _, s := range []string{"\x1bc\x1b[?7", "l\x1b[2J\x1b[0mSeaBIOS\r\n", "\x1bc\x1b", "[31m[  OK  ] Fin", "ished cloud-final.service - x\r\r\n", strings.Repeat("x", 3000), "\ntiny login: ", "root\r\nend", "\x1b"} {
			io.WriteString(far, s)
		}
		far.Close()
	}()
	var out bytes.Buffer
	var lines []string
	firsts := 0
	hub := NewHub(Watcher{First: func() { firsts++ }, Line: func(l string) { lines = append(lines, l) }})
	output := hub.Follow(&out)
	hub.Carry(&source{Reader: guest})
	if lost := output.Finish(time.Minute); lost != 0 {
		t.Errorf("%d bytes were lost", lost)
	}
	// but for the terminal's reset
	want := "\x1b[0mSeaBIOS\r\n\x1bc\x1b[31m[  OK  ] Finished cloud-final.service - x\r\r\n" + strings.Repeat("x", 3000) + "\ntiny login: root\r\nend\x1b"
	if out.String() != want {
		t.Errorf("copied %q", out.String())
	}
	if hub.Bytes() != int64(len(want)) || string(hub.Last(4)) != "end\x1b" {
		t.Errorf("%d bytes, the last of them %q", hub.Bytes(), hub.Last(3))
	}
	if firsts != 1 {
		t.Errorf("the first byte came %d times", firsts)
	}
	if want := []string{"\x1b[0mSeaBIOS", "\x1bc\x1b[31m[  OK  ] Finished cloud-final.service - x", strings.Repeat("x", longestLine), "tiny login: ", "tiny login: root"}; !slices.Equal(lines, want) {
		t.Errorf("lines %q", lines)
	}
}

// stuck is a reader of the log that has stopped reading, until released.
type stuck struct {
	release chan struct{}
	mu      sync.Mutex
	got     bytes.Buffer
}

func (s *stuck) Write(b []byte) (int, error) {
	<-s.release
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.got.Write(b)
}

func TestGuestDoesNotWaitForAReader(t *testing.T) {
	guest, far := io.Pipe()
	out := &stuck{release: make(chan struct{})}
	hub := NewHub(Watcher{})
	output := hub.Follow(out)
	done := make(chan struct{})
	go func() {
		hub.Carry(&source{Reader: guest})
		close(done)
	}()
	chunk := bytes.Repeat([]byte("0123456789abcdef"), 4<<10)
	const total = 10 * backlog
	for n := 0; n < total; n += len(chunk) { // would never end if the guest had to wait
		far.Write(chunk)
	}
	io.WriteString(far, "last words")
	far.Close()
	<-done
	close(out.release)
	lost := output.Finish(time.Minute)
	if !bytes.HasSuffix(out.got.Bytes(), []byte("last words")) {
		t.Error("the newest bytes are not the ones that were kept")
	}
	if got := int64(out.got.Len()) + lost; got != total+int64(len("last words")) || lost == 0 {
		t.Errorf("%d written and %d lost do not make what was sent", out.got.Len(), lost)
	}
}

func TestTheEndIsNotWaitedForForever(t *testing.T) {
	out := &stuck{release: make(chan struct{})}
	defer close(out.release)
	hub := NewHub(Watcher{})
	output := hub.Follow(out)
	hub.Carry(&source{Reader: strings.NewReader("hello")})
	hub.ring.write(make([]byte, 3*backlog)) // what comes while it is stuck is lost
	if lost := output.Finish(10 * time.Millisecond); lost < 2*backlog {
		t.Errorf("%d bytes were lost", lost)
	}
}

func TestFeed(t *testing.T) {
	var guest bytes.Buffer
	Feed(context.Background(), strings.NewReader("root\n"), &guest)
	if guest.String() != "root\n" {
		t.Errorf("fed %q", guest.String())
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	never, _ := io.Pipe()
	Feed(ctx, never, io.Discard) // returns
}

func TestProvisioned(t *testing.T) {
	for line, want := range map[string]bool{
		"[   21.5] cloud-init[512]: Cloud-init v. 25.1.4 finished at Sat, 21 Nov 2026":    true,
		"[  OK  ] Finished \x1b[0;1;39mignition-files.service\x1b[0m - Ignition (files).": true,
		"[  OK  ] Finished ignition-files.service - Ignition (files).":                    true,
		"Ignition: ran on 2026/11/21 05:00:00 UTC (this boot)":                            true,
		"[  170.133937] sh[496]: Completed socket interaction for boot stage final":       true,
		"[  149.231546] sh[423]: Completed socket interaction for boot stage config":      false,
		"Ignition finished successfully":                                                  false,
		"         Starting cloud-final.service - Execute cloud user/final scripts...":     false,
		"[  OK  ] Finished ssh.service":                                                   false,
	} {
		if Provisioned(line) != want {
			t.Errorf("%q: %v", line, !want)
		}
	}
}

func TestBooted(t *testing.T) {
	for line, want := range map[string]bool{
		"[  OK  ] Reached target \x1b[0;1;39mmulti-user.target\x1b[0m - Multi-User System.": true,
		"[  OK  ] Reached target Multi-User System.":                                        true,
		"[    5.123456] systemd[1]: Startup finished in 2.1s (kernel) + 3.0s (userspace).":  true,
		"tiny login: ":                           true,
		"localhost login:":                       true,
		"login: ":                                true,
		"Last login: Wed Nov 25":                 false,
		"[  OK  ] Reached target rescue.target.": false,
		"         Starting getty@tty1.service":   false,
		"Password: ":                             false,
	} {
		if Booted(line) != want {
			t.Errorf("%q: %v", line, !want)
		}
	}
}

// TestFirmwareSays: the lines are OVMF's and AAVMF's own.
func TestFirmwareSays(t *testing.T) {
	for line, want := range map[string]Firmware{
		`BdsDxe: loading Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0xA,0x0)`:                                            FirmwareSilent,
		`BdsDxe: starting Boot0001 "UEFI Misc Device" from PciRoot(0x0)/Pci(0xA,0x0)`:                                           FirmwareBegins,
		`BdsDxe: failed to load Boot0001 "UEFI QEMU DVD-ROM QM00005 " from PciRoot(0x0)/Pci(0x1F,0x2)/Sata(0x2): Access Denied`: FirmwareRefuses,
		`BdsDxe: failed to load Boot0002 "UEFI Misc Device" from PciRoot(0x0)/Pci(0xA,0x0): Not Found`:                          FirmwareSilent,
		"Booting from Hard Disk...":    FirmwareBegins,
		"No bootable device.":          BIOSGivesUp,
		"is there No bootable device.": FirmwareSilent,
		"\x1b[2J\x1b[01;01HBdsDxe: No bootable option or device was found.": FirmwareGivesUp,
		`secureboot: Secure boot enabled`:                                   FirmwareSilent,
	} {
		if got := FirmwareSays(line); got != want {
			t.Errorf("%q: %d, want %d", line, got, want)
		}
	}
}

func TestRaw(t *testing.T) {
	master, slave := terminal.Open(t)
	restore := Raw(slave)
	// Ctrl-C must arrive as a byte, and nothing may be echoed
	if _, err := master.Write([]byte{3}); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 1)
	if _, err := slave.Read(b); err != nil || b[0] != 3 {
		t.Errorf("read %v, %v", b, err)
	}
	slave.WriteString("a\n")
	got := make([]byte, 16)
	n, err := master.Read(got)
	if string(got[:n]) != "a\r\n" {
		t.Errorf("output is %q, %v: log lines must still begin at the left", got[:n], err)
	}
	restore()
	if tio, err := unix.IoctlGetTermios(int(slave.Fd()), unix.TCGETS); err != nil || tio.Lflag&unix.ISIG == 0 || tio.Lflag&unix.ECHO == 0 {
		t.Error("the terminal was not made what it was")
	}
	Raw(os.Stdin)() // not a terminal under go test: nothing happens
}

func TestWriterNeverWaits(t *testing.T) {
	out := &stuck{release: make(chan struct{})}
	w := NewWriter(out)
	for range 100 {
		w.Write(bytes.Repeat([]byte("x"), 64<<10)) // would never return if it had to wait
	}
	w.Flush(10 * time.Millisecond) // gives up
	w.Write([]byte("last words"))
	close(out.release)
	lost := w.Flush(time.Minute)
	out.mu.Lock()
	defer out.mu.Unlock()
	if got := int64(out.got.Len()) + lost; got != 100*64<<10+int64(len("last words")) || lost == 0 || !bytes.HasSuffix(out.got.Bytes(), []byte("last words")) {
		t.Errorf("%d bytes written, %d lost", out.got.Len(), lost)
	}
}
