// Package test holds the tests of the whole: the built binary against a QEMU that only pretends, against a real one with
// a guest that boots in seconds, and in a container with the Debian image. `make test` builds what they need.
package test

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vmentry/vmentry/test/process"
	"github.com/vmentry/vmentry/test/transcript"
)

// binaries are what the tests run.
var binaries process.Binaries

func TestMain(m *testing.M) { os.Exit(process.Main(m, &binaries)) }

// machine is one start of vmentry.
type machine struct {
	t       testing.TB
	cmd     *exec.Cmd
	process *process.Process
	data    string // its data directory
	run     string // its run directory
	stdout  *transcript.Transcript
	stderr  *transcript.Transcript
}

// dirs are directories for one VM. They are short, because the path of a Unix socket must be.
func dirs(t testing.TB) (data, run string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "vm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // QEMU may have a user of its own
		t.Fatal(err)
	}
	data, run = filepath.Join(dir, "data"), filepath.Join(dir, "run")
	for _, d := range []string{data, run} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return data, run
}

// environment is what a test's vmentry sees: nothing of the developer's own settings, what the test says, and, where it
// says nothing else, directories of its own.
func environment(data, run string, settings ...string) []string {
	env := []string{
		"PATH=" + os.Getenv("PATH"), "HOME=/", "TMPDIR=" + os.TempDir(),
		"VM_DATA_DIR=" + data, "VM_RUN_DIR=" + run,
	}
	return append(env, settings...)
}

// pretend puts the QEMU that only pretends first in the path, with its script. Ports are not forwarded, because vmentry does that itself
// where this machine has IPv6, and tests run beside each other.
func pretend(script string) []string {
	return []string{"PATH=" + binaries.FakeQEMU + ":" + os.Getenv("PATH"), "FAKE_QEMU=" + script, "HOSTFWD=none"}
}

// start starts vmentry in directories of its own.
func start(t testing.TB, settings []string, args ...string) *machine {
	t.Helper()
	data, run := dirs(t)
	return startIn(t, data, run, settings, args...)
}

// startIn starts vmentry in the given directories.
func startIn(t testing.TB, data, run string, settings []string, args ...string) *machine {
	t.Helper()
	cmd := exec.Command(binaries.VMEntry, args...)
	cmd.Env = environment(data, run, settings...)
	p := process.Start(t, cmd)
	return &machine{t: t, cmd: cmd, process: p, data: data, run: run, stdout: p.Stdout, stderr: p.Stderr}
}

// signal sends vmentry a signal.
func (m *machine) signal(s syscall.Signal) {
	m.t.Helper()
	m.process.Signal(m.t, s)
}

// exit waits for vmentry's end and returns its exit code, 128+n if a signal ended it.
func (m *machine) exit() int {
	m.t.Helper()
	return m.process.Exit(m.t)
}

// wants checks the exit code, and that the log says each of the given things.
func (m *machine) wants(code int, says ...string) {
	m.t.Helper()
	m.process.Wants(m.t, code, says...)
}

// call runs another vmentry command against the same VM.
func (m *machine) call(args ...string) (output string, code int) {
	m.t.Helper()
	return command(m.t, environment(m.data, m.run), args...)
}

// command runs a vmentry command to its end and returns what it printed, on either stream.
func command(t testing.TB, env []string, args ...string) (output string, code int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), transcript.Patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, binaries.VMEntry, args...)
	cmd.Env = env
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}

// lines are the lines of a file, none if it is not there.
func lines(t testing.TB, file string) []string {
	t.Helper()
	data, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(strings.Split(string(data), "\n"), func(s string) bool { return s == "" })
}

// image makes a small disk image with a partition table's signature and returns its path.
func image(t testing.TB, format string) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "disk")
	f, err := os.Create(raw)
	if err != nil {
		t.Fatal(err)
	}
	f.WriteAt([]byte{0xfa, 0x33, 0xc0}, 0)
	f.WriteAt([]byte{0x55, 0xaa}, 510)
	if err := f.Truncate(8 << 20); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if format == "raw" {
		return raw
	}
	out := raw + "." + format
	if text, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", format, raw, out).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img: %v\n%s", err, text)
	}
	return out
}
