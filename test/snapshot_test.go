package test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// ext4Image makes a disk image that is an ext4 file system.
func ext4Image(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ext4.img")
	if out, err := exec.Command("mkfs.ext4", "-q", "-F", path, "64M").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return path
}

// file reads a file of the ext4 file system that a qcow2 image holds. The file system must be whole; clean: without a journal to replay.
func file(t *testing.T, qcow2, name string, clean bool) string {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	if out, err := exec.Command("qemu-img", "convert", "-f", "qcow2", "-O", "raw", qcow2, raw).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	defer os.Remove(raw)
	features, err := exec.Command("dumpe2fs", "-h", raw).Output()
	if err != nil {
		t.Fatal(err)
	}
	if replay := strings.Contains(string(features), "needs_recovery"); replay && clean {
		t.Errorf("the file system in %s is not at rest", qcow2)
	} else if replay {
		exec.Command("e2fsck", "-E", "journal_only", "-p", raw).Run()
	}
	if out, err := exec.Command("e2fsck", "-f", "-n", raw).CombinedOutput(); err != nil {
		t.Errorf("the file system in %s: %v\n%s", qcow2, err, out)
	}
	out, err := exec.Command("debugfs", "-R", "cat "+name, raw).Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// does runs a vmentry command, which must end with that code and say something.
func (m *machine) does(code int, says string, args ...string) answer {
	m.t.Helper()
	a := m.ask("", args...)
	if a.code != code || !strings.Contains(a.out+a.err, says) {
		m.t.Errorf("%q: %d, want %d and %q\n%s%s", args, a.code, code, says, a.out, a.err)
	}
	return a
}

const writing = "(while :; do dd if=/dev/urandom of=/mnt/load bs=64k count=16 conv=fsync,notrunc; done) >/dev/null 2>&1 </dev/null &"

// TestSnapshots follows a disk through its snapshots: made while the guest writes, restored at a restart, killed at random moments.
func TestSnapshots(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	settings := withAgent(t, "vmtest.mount", "VM_IMAGE="+ext4Image(t), "VM_DISK_SIZE=64M", "VM_READY=agent")
	m := start(t, settings)
	snapshots := filepath.Join(m.data, "snapshots")
	m.stderr.Await(t, "the guest's agent answers")
	m.inGuest("echo first > /mnt/f")
	m.inGuest(writing)
	m.does(0, "at rest", "snapshot", "create", "one", "--freeze", "always")
	m.inGuest("echo second > /mnt/f; sync")
	m.does(64, "one of that name", "snapshot", "create", "one")
	m.does(0, "running guest", "snapshot", "create", "two", "--freeze", "never")

	// who is killed leaves the guest thawed, and nothing half made
	for range 6 {
		cmd := exec.Command(binaries.VMEntry, "snapshot", "create", "killed")
		cmd.Env = environment(m.data, m.run)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
		cmd.Process.Kill()
		cmd.Wait()
		m.inGuest("echo thawed > /mnt/g; sync")
		for {
			a := m.ask("", "snapshot", "delete", "killed") // it may have been made
			if a.code == 0 || strings.Contains(a.err, "none of that name") {
				break
			}
			time.Sleep(100 * time.Millisecond)
		}
	}
	if left := names(t, snapshots); fmt.Sprint(left) != "[one two]" {
		t.Errorf("there are %v", left)
	}

	export := filepath.Join(t.TempDir(), "export.qcow2")
	m.does(0, "at rest", "snapshot", "export", export)
	if got := file(t, export, "/f", true); got != "second" {
		t.Errorf("the export has %q", got)
	}
	m.does(64, "--force", "snapshot", "export", export)
	m.does(0, "at rest", "snapshot", "export", "--force", "--compress", export)
	m.does(64, "a disk of this VM", "snapshot", "export", "--force", filepath.Join(m.data, "disk", "overlay.qcow2"))
	passed := filepath.Join(t.TempDir(), "passed.qcow2")
	if err := os.WriteFile(passed, []byte(m.does(0, "at rest", "snapshot", "export", "-").out), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := file(t, passed, "/f", true); got != "second" {
		t.Errorf("what came on standard output has %q", got)
	}
	if left := names(t, filepath.Dir(export)); len(left) != 1 {
		t.Errorf("beside the export: %v", left)
	}

	m.does(64, "none of that name", "snapshot", "restore", "three")
	m.does(0, "when the VM starts next", "snapshot", "restore", "two")
	m.does(0, "nothing is restored", "snapshot", "restore", "--cancel")
	m.does(0, "when the VM starts next", "snapshot", "restore", "one")
	m.does(0, "restored at the next start", "snapshot", "list")
	m.signal(syscall.SIGTERM)
	m.wants(0, "snapshot create")

	m = startIn(t, m.data, m.run, settings)
	m.stderr.Await(t, "the guest's agent answers")
	if got := m.inGuest("cat /mnt/f"); got != "first\n" {
		t.Errorf("restored: %q", got)
	}
	m.inGuest(writing)
	m.inGuest("echo third > /mnt/f; sync")
	cmd := exec.Command(binaries.VMEntry, "snapshot", "create", "cut-off")
	cmd.Env = environment(m.data, m.run)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
	if random.IntN(2) == 0 {
		m.signal(syscall.SIGKILL)
	} else {
		syscall.Kill(qemuOf(t, m), syscall.SIGKILL)
	}
	m.exit()
	cmd.Wait()

	// what was written is there, off now
	m.does(0, "the guest was off", "snapshot", "create", "off")
	if a := m.does(0, "before-restore", "snapshot", "list", "-o", "json"); !strings.Contains(a.out, `"off"`) {
		t.Errorf("the list: %s", a.out)
	}
	m.does(0, "the guest was off", "snapshot", "export", "--force", export)
	for path, want := range map[string]string{export: "third", filepath.Join(snapshots, "off", "overlay.qcow2"): "third", filepath.Join(snapshots, "two", "overlay.qcow2"): "second", filepath.Join(snapshots, "one", "overlay.qcow2"): "first"} {
		if got := file(t, path, "/f", want == "first"); got != want {
			t.Errorf("%s has %q, want %q", path, got, want)
		}
	}
	m.does(0, "deleted", "snapshot", "delete", "off")
	if left := strings.Join(names(t, snapshots), " "); strings.Contains(left, ".new-") || !strings.Contains(left, "one two") {
		t.Errorf("there are %v", left)
	}
	out, err := exec.Command("qemu-img", "check", "-q", filepath.Join(m.data, "disk", "overlay.qcow2")).CombinedOutput()
	if err != nil && err.(*exec.ExitError).ExitCode() != 3 { // leaked clusters are space, and no loss
		t.Errorf("the disk: %v\n%s", err, out)
	}
}

// TestSnapshotWithoutSpace: it is said before anything is copied, or cleared away after.
func TestSnapshotWithoutSpace(t *testing.T) {
	data, run := dirs(t)
	if err := syscall.Mount("tmpfs", data, "tmpfs", 0, "size=40m"); err != nil {
		t.Skipf("no file system can be mounted here: %v", err)
	}
	t.Cleanup(func() { syscall.Unmount(data, syscall.MNT_DETACH) })
	m := startIn(t, data, run, tiny(t, "vmtest.write=x", "VM_IMAGE="+image(t, "raw")))
	m.stdout.Await(t, tinyReady)
	m.does(74, "needs", "snapshot", "create", "one")
	m.does(74, "no space", "snapshot", "export", filepath.Join(small(t), "x.qcow2"))
	m.signal(syscall.SIGTERM)
	m.wants(0)
}

// small is a directory that nothing fits into.
func small(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=100k"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { syscall.Unmount(dir, syscall.MNT_DETACH) })
	return dir
}

func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
