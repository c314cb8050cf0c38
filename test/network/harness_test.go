// Package network holds the tests of the network modes that give a guest an address by which others reach it: the built binary
// with a real guest, in pods of every kind, looked at from outside. `make tinyguest` builds the guest. Needs root.
package network

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/vmentry/vmentry/test/cache"
	"github.com/vmentry/vmentry/test/pod"
	"github.com/vmentry/vmentry/test/process"
)

// binaries are what the tests run.
var binaries process.Binaries

func TestMain(m *testing.M) { os.Exit(process.Main(m, &binaries)) }

// mode is a network mode.
type mode string

const bridge mode = "bridge"

// Ports of the guest.
const (
	servicePort = 7  // the guest sends back what it gets there (see tinyguest/netd)
	readyPort   = 22 // nobody listens there before the test says so
)

// container is the container of a VM: a pod, and directories that outlive a restart.
type container struct {
	pod       *pod.Pod
	data, run string
	settings  []string
	words     string // for the guest
}

// newContainer is a container in p whose guest is given words and vmentry settings.
func newContainer(t testing.TB, p *pod.Pod, m mode, words string, settings ...string) *container {
	t.Helper()
	dir, err := os.MkdirTemp("", "vm-") // short, because the path of a Unix socket must be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil { // QEMU may have a user of its own
		t.Fatal(err)
	}
	c := &container{pod: p, data: filepath.Join(dir, "data"), run: filepath.Join(dir, "run"), words: words}
	c.settings = append([]string{"VM_NETWORK=" + string(m)}, settings...)
	c.makeDirs(t)
	return c
}

func (c *container) makeDirs(t testing.TB) {
	t.Helper()
	for _, d := range []string{c.data, c.run} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// forgetRun empties the run directory, as a restart of the container in a real pod does.
func (c *container) forgetRun(t testing.TB) {
	t.Helper()
	if err := os.RemoveAll(c.run); err != nil {
		t.Fatal(err)
	}
	c.makeDirs(t)
}

// environment is what vmentry sees: nothing of the developer's own settings.
func (c *container) environment(t testing.TB) []string {
	t.Helper()
	kernel, initrd := tinyGuest(t)
	return append([]string{
		"PATH=" + cache.Dir(t, "passt", "passt") + ":" + os.Getenv("PATH"), "HOME=/", "TMPDIR=" + os.TempDir(), "VM_DATA_DIR=" + c.data, "VM_RUN_DIR=" + c.run,
		"VM_KERNEL=" + kernel, "VM_INITRD=" + initrd, "VM_CMDLINE=console=ttyS0 quiet no_timer_check panic=0 vmtest.commands " + c.words,
		"VM_IMAGE=none", "VM_MEMORY=192M", "VM_CPUS=1", "VM_ACCEL=tcg", "VM_READY=none",
	}, c.settings...)
}

// tinyGuest are the files of the guest that boots in seconds, with its tools for networks.
func tinyGuest(t testing.TB) (kernel, initrd string) {
	t.Helper()
	dir := cache.Dir(t, "tinyguest", "initrd-net")
	return filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd-net")
}

// vm is one start of vmentry in a container.
type vm struct {
	*process.Process
	container *container
	commands  int // that the guest was given
}

// start starts vmentry as process 1 of the container.
func (c *container) start(t testing.TB, args ...string) *vm {
	t.Helper()
	return c.startAs(t, c.pod.Shape.Container, args...)
}

// startAs is start in a container with other rights than its shape has.
func (c *container) startAs(t testing.TB, rights pod.Container, args ...string) *vm {
	t.Helper()
	cmd := c.pod.Command(rights, append([]string{binaries.VMEntry}, args...)...)
	cmd.Env = c.environment(t)
	return &vm{Process: process.StartTyping(t, cmd), container: c}
}

// call runs another vmentry command in the container, as `kubectl exec` does, and returns what it printed on either stream.
func (v *vm) call(t testing.TB, args ...string) (out string, code int) {
	t.Helper()
	cmd := pod.Exec(v.PID, append([]string{binaries.VMEntry}, args...)...)
	cmd.Env = v.container.environment(t)
	text, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(text), cmd.ProcessState.ExitCode()
}
