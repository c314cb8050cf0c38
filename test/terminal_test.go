package test

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/terminal"
	"github.com/vmentry/vmentry/test/transcript"
	"golang.org/x/sys/unix"
)

// TestTerminal: with a terminal the serial console is on it; keys go to the guest, Ctrl-C too.
func TestTerminal(t *testing.T) {
	master, slave := terminal.Open(t)
	data, run := dirs(t)
	cmd := exec.Command(binaries.VMEntry)
	cmd.Env = environment(data, run, tiny(t, "vmtest.shell")...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	before := termios(t, slave)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	screen := transcript.New()
	go io.Copy(screen, master)
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		cmd.Process.Kill()
		if t.Failed() {
			t.Logf("the screen:\n%s", screen)
		}
	})
	screen.Await(t, tinyReady)
	fmt.Fprint(master, "echo it is $((6*7))\r")
	screen.Await(t, "it is 42")
	// Only what the guest computed tells that the command runs: the text itself is echoed as it is typed, also before the
	// shell reads it, and a Ctrl-C that came then would be part of the line and not a signal.
	fmt.Fprint(master, "echo sleep $((2*4)); sleep 100000\r")
	screen.Await(t, "sleep 8")
	awake := make(chan struct{})
	go func() { // again and again: the guest's shell misses one that comes while it starts the sleep
		for {
			fmt.Fprint(master, "\x03") // must end the guest's sleep, and not vmentry
			fmt.Fprint(master, "echo still $((40+2)) here\r")
			select {
			case <-awake:
				return
			case <-time.After(3 * time.Second):
			}
		}
	}()
	screen.Await(t, "still 42 here")
	close(awake)
	fmt.Fprint(master, "poweroff -f\r")
	if err := <-ended; err != nil {
		t.Errorf("vmentry ended with %v", err)
	}
	if after := termios(t, slave); *after != *before {
		t.Error("the terminal was not made what it was")
	}
}

func termios(t *testing.T, f *os.File) *unix.Termios {
	t.Helper()
	tio, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return tio
}
