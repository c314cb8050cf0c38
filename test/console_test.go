package test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/terminal"
	"github.com/vmentry/vmentry/test/transcript"
)

// TestConsoleFlood: a guest writes 100 MB, nobody reads standard output, and most of fifty clients do not read either. The guest does not
// wait for any of them, those who read see the end, and vmentry stays small.
func TestConsoleFlood(t *testing.T) {
	data, run := dirs(t)
	cmd := exec.Command(binaries.VMEntry)
	cmd.Env = environment(data, run, append(pretend("flood=100000000,poweroff=1s"), "VM_IMAGE="+image(t, "raw"), "VM_READY=none")...)
	unread, stdout, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	stderr := transcript.New()
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	path := filepath.Join(run, "console.sock")
	seen := make(chan error, 50)
	for i := range 50 {
		conn := attach(t, path)
		if i%5 == 0 {
			go func() { seen <- readTo(conn, "the flood is over\r\n") }()
		}
	}
	for range 10 {
		if err := <-seen; err != nil {
			t.Error(err)
		}
	}
	peak := peakMemory(t, cmd.Process.Pid)
	if err := cmd.Wait(); err != nil {
		t.Errorf("%v\n%s", err, stderr)
	}
	if !strings.Contains(stderr.String(), "part of the console was dropped") {
		t.Error("it is not said that standard output was not read")
	}
	if peak > 80<<10 {
		t.Errorf("vmentry took %d KiB", peak)
	}
}

// attach connects to the console, as soon as there is one.
func attach(t *testing.T, path string) net.Conn {
	t.Helper()
	for deadline := time.Now().Add(transcript.Patience); ; time.Sleep(5 * time.Millisecond) {
		conn, err := net.Dial("unix", path)
		if err == nil {
			t.Cleanup(func() { conn.Close() })
			return conn
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

// readTo reads until text is the last that has come.
func readTo(r io.Reader, text string) error {
	var end []byte
	for b := make([]byte, 64<<10); ; {
		n, err := r.Read(b)
		end = append(end, b[:n]...)
		end = end[max(0, len(end)-256):]
		if bytes.Contains(end, []byte(text)) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w after %q", err, end)
		}
	}
}

// peakMemory is the most that a process has taken so far, in KiB (proc(5), VmHWM).
func peakMemory(t *testing.T, pid int) (kib int) {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmHWM:")
	fmt.Sscan(rest, &kib)
	return kib
}

// person is somebody at a terminal with `vmentry console`.
type person struct {
	keyboard *os.File
	screen   *transcript.Transcript
	left     chan error
}

func (m *machine) person(t *testing.T) person {
	t.Helper()
	keyboard, screen := terminal.Open(t)
	cmd := exec.Command(binaries.VMEntry, "console")
	cmd.Env = environment(m.data, m.run)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = screen, screen, screen
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	before := termios(t, screen)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p := person{keyboard, transcript.New(), make(chan error, 1)}
	go io.Copy(p.screen, keyboard)
	go func() {
		err := cmd.Wait()
		if after := termios(t, screen); *after != *before {
			t.Error("the terminal was not made what it was")
		}
		p.left <- err
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		if t.Failed() {
			t.Logf("a screen:\n%s", p.screen)
		}
	})
	return p
}

func (p person) types(keys string) { io.WriteString(p.keyboard, keys) }

// TestConsole: several people and a script are at the console of a guest, each sees what it says, and all can type.
func TestConsole(t *testing.T) {
	t.Parallel()
	m := start(t, tiny(t, "vmtest.shell"))
	m.stdout.Await(t, tinyReady)
	first, second := m.person(t), m.person(t)
	first.screen.Await(t, tinyReady) // the history
	second.screen.Await(t, "Ctrl-] twice")
	first.types("echo it is $((6*7))\r")
	for _, where := range []*transcript.Transcript{first.screen, second.screen, m.stdout} {
		where.Await(t, "it is 42")
	}
	first.types("\x1d\x1d")
	if err := <-first.left; err != nil {
		t.Errorf("leaving ends with %v", err)
	}
	if out, code := m.script("echo and $((2*4)) too\n", "--idle", "1s"); code != 0 || !strings.Contains(out, "and 8 too") {
		t.Errorf("a script's console: %d, %q", code, out)
	}
	second.screen.Await(t, "and 8 too")
	if out, code := m.script("poweroff -f\n"); code != 0 {
		t.Errorf("a script that powers off: %d, %q", code, out)
	}
	if err := <-second.left; err != nil {
		t.Errorf("the end of the console ends with %v", err)
	}
	m.wants(0)
	if out, code := m.call("console"); code == 0 || !strings.Contains(out, "no VM runs here") {
		t.Errorf("after the end: %d, %q", code, out)
	}
}

// script runs `vmentry console` with an input that is no terminal.
func (m *machine) script(input string, args ...string) (output string, code int) {
	m.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), transcript.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binaries.VMEntry, append([]string{"console"}, args...)...)
	cmd.Env = environment(m.data, m.run)
	cmd.Stdin = strings.NewReader(input)
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		m.t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}
