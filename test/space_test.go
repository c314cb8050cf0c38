package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/vmentry/vmentry/test/process"
)

// volume is a small file system in a mount namespace of its own, which goes with the test however that ends.
type volume struct {
	enter []string // the command line that puts a command into the namespace
	root  string   // its path from outside
}

// newVolume mounts a tmpfs of so many MiB at dir, for those inside.
func newVolume(t *testing.T, dir string, size int) volume {
	t.Helper()
	script := fmt.Sprintf("mount -t tmpfs -o size=%dm tmpfs %s && echo mounted && exec sleep infinity", size, dir)
	p := process.Start(t, exec.Command("unshare", "--mount", "--propagation", "private", "sh", "-ec", script))
	p.Stdout.Await(t, "mounted")
	return volume{
		enter: []string{"nsenter", "--mount", "--wd=/", "--target", fmt.Sprint(p.PID)},
		root:  filepath.Join(fmt.Sprintf("/proc/%d/root", p.PID), dir),
	}
}

// fill takes away so many MiB of the volume, until the function that it returns is called.
func (v volume) fill(t *testing.T, size int) (free func()) {
	t.Helper()
	filler := filepath.Join(v.root, "filler")
	if err := os.WriteFile(filler, make([]byte, size<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return func() {
		if err := os.Remove(filler); err != nil {
			t.Fatal(err)
		}
	}
}

const paused = "the guest is paused: no space left for what it writes to its disk"

const readMore = "dd if=/dev/vdb bs=1M count=8 iflag=direct 2>/dev/null | sha256sum"

// TestFullDisk fills the volume below the guest's disks while it writes. It is paused and told of nothing, goes on by itself when
// there is space again, and what it wrote is there. Stopped while it is paused, it ends in time and says why it did not shut down.
func TestFullDisk(t *testing.T) {
	t.Parallel()
	data, run := dirs(t)
	v := newVolume(t, data, 48)
	settings := tiny(t, "vmtest.commands", "VM_IMAGE="+image(t, "qcow2"), "VM_DISK_SIZE=64M", "VM_DISKS=more=32M", "VM_SHUTDOWN_TIMEOUT=4s")
	free := v.fill(t, 30)
	m := startTyping(t, data, run, settings, v.enter...)
	m.stdout.Await(t, tinyReady)
	m.tell("dd if=/dev/urandom of=/tmp/a bs=1M count=30 && cp /tmp/a /tmp/b")
	write := m.begin("dd if=/tmp/a of=/dev/vda bs=1M oflag=direct conv=fsync 2>/dev/null && sha256sum </tmp/a && dd if=/dev/vda bs=1M count=30 iflag=direct 2>/dev/null | sha256sum")
	m.stderr.Await(t, paused)
	m.tellsOfFull("disk", filepath.Join(data, "disk", "overlay.qcow2"), "tmpfs on "+data)
	free()
	m.stderr.Await(t, "there is space again: the guest goes on")
	sums := strings.Fields(m.await(write))
	if len(sums) != 4 || sums[0] != sums[2] {
		t.Errorf("what was written is not what is read: %q", sums)
	}
	if n := strings.Count(m.stderr.String(), paused); n != 1 {
		t.Errorf("the log says %d times that the guest is paused", n)
	}
	if out := m.tell("dmesg"); strings.Contains(out, "I/O error") {
		t.Errorf("the guest was told of an error:\n%s", out)
	}

	// the same with a disk of VM_DISKS
	free = v.fill(t, 12)
	write = m.begin("dd if=/tmp/a of=/dev/vdb bs=1M count=8 oflag=direct conv=fsync 2>/dev/null && dd if=/tmp/a bs=1M count=8 2>/dev/null | sha256sum && " + readMore)
	m.stderr.Await(t, paused+` "more"`)
	m.tellsOfFull("more", filepath.Join(data, "disks", "more.qcow2"), "tmpfs on "+data)
	free()
	m.stderr.AwaitTimes(t, "there is space again: the guest goes on", 2)
	more := strings.Fields(m.await(write))
	if len(more) != 4 || more[0] != more[2] {
		t.Errorf("what was written to the disk more is not what is read: %q", more)
	}

	free = v.fill(t, 4)
	m.begin("dd if=/tmp/b of=/dev/vda bs=1M seek=32; sync")
	m.stderr.AwaitTimes(t, paused, 3)
	m.signal(syscall.SIGTERM)
	m.wants(75, "did not shut down within 4s", "; the guest is paused since")
	free()

	m = startTyping(t, data, run, settings, v.enter...)
	m.stdout.Await(t, tinyReady)
	if again := m.tell("dd if=/dev/vda bs=1M count=30 iflag=direct | sha256sum"); !strings.Contains(again, sums[0]) {
		t.Errorf("after the restart: %s, want %s", again, sums)
	}
	if again := m.tell(readMore); !strings.Contains(again, more[0]) {
		t.Errorf("after the restart the disk more has %s, want %s", again, more)
	}
	m.signal(syscall.SIGTERM)
	m.wants(0)
}

// tellsOfFull checks that the log and whoever is asked say which disk has no space left.
func (m *machine) tellsOfFull(disk, file, fileSystem string) {
	m.t.Helper()
	if log := fmt.Sprintf("disk=%s file=%s", disk, file); !strings.Contains(m.stderr.String(), log) {
		m.t.Errorf("the log does not say %q", log)
	}
	for _, ask := range []struct {
		args []string
		code int
		says []string
	}{
		{[]string{"probe", "ready"}, 1, []string{"no space left", strconv.Quote(disk), fileSystem}},
		{[]string{"status"}, 0, []string{"no space left", strconv.Quote(disk), fileSystem}},
		{[]string{"status", "-o", "json"}, 0, []string{"disk_full", file, fileSystem}},
	} {
		out, code := m.call(ask.args...)
		for _, want := range ask.says {
			if code != ask.code || !strings.Contains(out, want) {
				m.t.Errorf("%q: %d, %s; want %q", ask.args, code, out, want)
			}
		}
	}
}
