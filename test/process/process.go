// Package process builds the binary under test and runs it as a container runtime would: from outside, with pipes at its streams.
package process

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/transcript"
)

// Binaries are what the tests run.
type Binaries struct {
	VMEntry  string // the binary under test
	FakeQEMU string // the directory of a qemu-system-x86_64 that only pretends
}

// Main is the TestMain of a package of tests: it builds the binaries and runs the tests. VMENTRY_TEST_BINARIES names a directory that has
// the binaries already: so tests also run in the container image, where there is another QEMU and no Go.
func Main(m *testing.M, binaries *Binaries) (code int) {
	dir := os.Getenv("VMENTRY_TEST_BINARIES")
	*binaries = in(dir)
	if dir != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "vmentry-test-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	*binaries = in(dir)
	if err := binaries.build(dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return m.Run()
}

func in(dir string) Binaries {
	return Binaries{VMEntry: filepath.Join(dir, "vmentry"), FakeQEMU: filepath.Join(dir, "fake")}
}

func (b Binaries) build(dir string) error {
	if err := os.Chmod(dir, 0o755); err != nil { // QEMU may have a user of its own
		return err
	}
	const module = "github.com/vmentry/vmentry/"
	if err := Build(b.VMEntry, module+"cmd/vmentry"); err != nil {
		return err
	}
	return Build(filepath.Join(b.FakeQEMU, "qemu-system-x86_64"), module+"test/fakeqemu")
}

// Build builds the command in the folder pkg, static as it is released, to the file out.
func Build(out, pkg string) error {
	cmd := exec.Command("go", "build", "-o", out, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w\n%s", pkg, err, text)
	}
	return nil
}

// Process is a command that has been started, and what it has written so far.
type Process struct {
	PID    int
	Stdin  io.Writer // nil, unless it was started by [StartTyping]
	Stdout *transcript.Transcript
	Stderr *transcript.Transcript

	cmd  *exec.Cmd
	done chan struct{}
}

// Start starts cmd. At the end of the test it is killed, and if the test has failed, its output is shown.
func Start(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{Stdout: transcript.New(), Stderr: transcript.New(), cmd: cmd, done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = p.Stdout, p.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	p.PID = cmd.Process.Pid
	go func() {
		cmd.Wait()
		p.Stdout.Close()
		p.Stderr.Close()
		close(p.done)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("the log of %s:\n%s\nits output, the guest's console:\n%s", cmd.Path, p.Stderr, p.Stdout)
		}
	})
	return p
}

// StartTyping is [Start] with a pipe at the standard input.
func StartTyping(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	p := Start(t, cmd)
	p.Stdin = in
	return p
}

// Signal sends it a signal.
func (p *Process) Signal(t testing.TB, s syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}

// Exit waits for its end and returns the exit code, 128+n if signal n ended it.
func (p *Process) Exit(t testing.TB) int {
	t.Helper()
	select {
	case <-p.done:
	case <-time.After(transcript.Patience):
		t.Fatalf("%s does not end", p.cmd.Path)
	}
	if s := p.cmd.ProcessState.Sys().(syscall.WaitStatus); s.Signaled() {
		return 128 + int(s.Signal())
	}
	return p.cmd.ProcessState.ExitCode()
}

// Wants waits for its end, and checks the exit code and that the log says each of the given things.
func (p *Process) Wants(t testing.TB, code int, says ...string) {
	t.Helper()
	if got := p.Exit(t); got != code {
		t.Errorf("exit code %d, want %d", got, code)
	}
	for _, s := range says {
		if !strings.Contains(p.Stderr.String(), s) {
			t.Errorf("the log does not say %q", s)
		}
	}
}
