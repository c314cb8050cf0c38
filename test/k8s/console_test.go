package k8s

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/vmentry/vmentry/test/terminal"
	"github.com/vmentry/vmentry/test/transcript"
)

// TestConsoleOnTerminals: kubectl attach and kubectl exec with vmentry console lead to the guest's console, both at once, and leaving it leaves the guest alone.
func TestConsoleOnTerminals(t *testing.T) {
	c := newCluster(t)
	c.apply("appliance.yaml", "vmentry/cirros:latest", tiny, "    env:\n", "    env:\n    - {name: VM_CMDLINE, value: console=ttyS0 quiet no_timer_check panic=0 vmtest.listen=22 vmtest.commands}\n")
	c.ready("appliance")

	attached := c.onTerminal("attach", "--stdin", "--tty", "appliance")
	attached.types("1 echo attached-$((40+2))\r")
	attached.shows.Await(t, "vmtest: 1| attached-42")

	console := c.onTerminal("exec", "--stdin", "--tty", "appliance", "--", "vmentry", "console")
	console.shows.Await(t, "vmtest: 1| attached-42") // what was there before
	console.types("2 echo console-$((40+2))\r")
	console.shows.Await(t, "vmtest: 2| console-42")
	attached.shows.Await(t, "vmtest: 2| console-42")
	console.types("\x1d\x1d")
	if err := console.Wait(); err != nil {
		t.Errorf("the console was left with %v:\n%s", err, console.shows)
	}

	attached.Process.Kill()
	again := c.onTerminal("attach", "--stdin", "--tty", "appliance")
	again.types("3 echo again-$((40+2))\r")
	again.shows.Await(t, "vmtest: 3| again-42")
	if n := c.field("pod/appliance", ".status.containerStatuses[0].restartCount"); n != "0" {
		t.Errorf("the container was started again: %s times", n)
	}
}

// onTerminal is a command of kubectl's on a terminal.
type onTerminal struct {
	*exec.Cmd
	t        *testing.T
	keyboard *os.File
	shows    *transcript.Transcript
}

func (c *cluster) onTerminal(args ...string) *onTerminal {
	c.t.Helper()
	keyboard, screen := terminal.Open(c.t)
	o := &onTerminal{c.command(args...), c.t, keyboard, transcript.New()}
	o.Stdin, o.Stdout, o.Stderr = screen, screen, screen
	o.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := o.Start(); err != nil {
		c.t.Fatal(err)
	}
	screen.Close()
	go io.Copy(o.shows, keyboard)
	c.t.Cleanup(func() {
		o.Process.Kill()
		if c.t.Failed() {
			c.t.Logf("kubectl %q showed\n%s", args, o.shows)
		}
	})
	return o
}

// types types when the terminal is the program's: before that it would echo what is typed, and keep it from the guest.
func (o *onTerminal) types(keys string) {
	o.t.Helper()
	o.shows.Await(o.t, "\n")
	if _, err := fmt.Fprint(o.keyboard, keys); err != nil {
		o.t.Fatal(err)
	}
}
