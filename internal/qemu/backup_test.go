package qemu

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// withDisk is a QEMU without a guest, and its disk: an overlay of 8 MiB over a base of which the first MiB is 0x11, with the second
// MiB 0x22 of its own.
func withDisk(t *testing.T) (m *Monitor, dir string) {
	t.Helper()
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	dir = t.TempDir()
	base, overlay := filepath.Join(dir, "base.img"), filepath.Join(dir, "overlay.qcow2")
	if err := os.WriteFile(base, bytes.Repeat([]byte{0x11}, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", overlay, "8M")
	tool(t, "qemu-io", "-f", "qcow2", "-c", "write -P 0x22 1M 1M", "-c", "write -z 0 64k", overlay)
	var a args
	Disk{ID: "disk", Path: overlay, Format: "qcow2", Backing: &Backing{Path: base, Format: "raw"}}.blockdev(&a)
	socket := filepath.Join(dir, "qmp.sock")
	cmd := exec.Command(path, append([]string{"-machine", "none", "-nodefaults", "-display", "none",
		"-qmp", "unix:" + socket + ",server=on,wait=off"}, a.list...)...)
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	gone := make(chan struct{})
	go func() { cmd.Wait(); close(gone) }()
	t.Cleanup(func() { cmd.Process.Kill(); <-gone })
	if m, err = DialWait(minute(t), socket, gone, nil); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return m, dir
}

func minute(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func tool(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("verification failed")) {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// write writes as the guest would.
func (m *Monitor) testWrite(t *testing.T, command string) {
	t.Helper()
	text, err := m.human(minute(t), fmt.Sprintf("qemu-io disk %q", command))
	if err != nil || strings.Contains(strings.ToLower(text), "error") {
		t.Fatal(text, err)
	}
}

// TestBackup: the copy is of the moment at which it was begun, whole or as an overlay, and QEMU is left as it was.
func TestBackup(t *testing.T) {
	m, dir := withDisk(t)
	ctx := minute(t)
	for name, b := range map[string]Backup{
		"flat":       {Node: "disk"},
		"compressed": {Node: "disk", Compress: true},
		"overlay":    {Node: "disk", Overlay: true, Backing: &Backing{Path: filepath.Join(dir, "base.img"), Format: "raw"}},
	} {
		t.Run(name, func(t *testing.T) {
			b.Path = filepath.Join(dir, "copy-"+name+".qcow2")
			m.testWrite(t, "write -P 0x22 1M 1M")
			if err := m.PrepareBackup(ctx, b); err != nil {
				t.Fatal(err)
			}
			m.testWrite(t, "write -P 0x33 2M 1M")
			if err := m.StartBackup(ctx, b); err != nil {
				t.Fatal(err)
			}
			m.testWrite(t, "write -P 0x44 1M 1M")
			m.testWrite(t, "write -P 0x44 2M 1M")
			var last BackedUp
			if err := m.AwaitBackup(ctx, func(p BackedUp) { last = p }); err != nil {
				t.Fatal(err)
			}
			if last.Total == 0 || last.Done != last.Total {
				t.Errorf("progress ended at %+v", last)
			}
			if err := m.EndBackup(ctx); err != nil {
				t.Fatal(err)
			}
			tool(t, "qemu-img", "check", "-q", b.Path)
			tool(t, "qemu-io", "-r", "-f", "qcow2", "-c", "read -P 0 0 64k", "-c", "read -P 0x11 64k 960k",
				"-c", "read -P 0x22 1M 1M", "-c", "read -P 0x33 2M 1M", "-c", "read -P 0 3M 5M", b.Path)
			info := tool(t, "qemu-img", "info", b.Path)
			if strings.Contains(info, "backing file:") != b.Overlay {
				t.Errorf("what is below it:\n%s", info)
			}
			if nodes, err := m.nodes(ctx); err != nil || len(nodes) != 4 {
				t.Errorf("QEMU has %d nodes: %+v, %v", len(nodes), nodes, err)
			}
		})
	}
}

// TestBackupGivenUp: one that is cancelled, that finds no space, or that was left behind by somebody who was killed stands in nobody's way.
func TestBackupGivenUp(t *testing.T) {
	m, dir := withDisk(t)
	ctx := minute(t)
	b := Backup{Node: "disk", Path: filepath.Join(dir, "copy.qcow2")}
	begin := func() {
		t.Helper()
		if err := m.PrepareBackup(ctx, b); err != nil {
			t.Fatal(err)
		}
		if err := m.StartBackup(ctx, b); err != nil {
			t.Fatal(err)
		}
	}
	begin()
	given, cancel := context.WithCancelCause(ctx)
	why := errors.New("enough")
	cancel(why)
	if err := m.AwaitBackup(given, func(BackedUp) {}); err != nil && !errors.Is(err, why) { // it may have been that quick
		t.Error(err)
	}
	if err := m.EndBackup(ctx); err != nil {
		t.Error(err)
	}
	begin() // and left behind
	begin()
	if err := m.AwaitBackup(ctx, func(BackedUp) {}); err != nil {
		t.Error(err)
	}
	if err := m.EndBackup(ctx); err != nil {
		t.Error(err)
	}
	b.Path = "/dev/full/x"
	if err := m.PrepareBackup(ctx, b); err == nil {
		t.Error("a file that cannot be made was made")
	}
	if err := m.EndBackup(ctx); err != nil {
		t.Error(err)
	}
	if nodes, err := m.nodes(ctx); err != nil || len(nodes) != 4 {
		t.Errorf("QEMU has %d nodes: %+v, %v", len(nodes), nodes, err)
	}
	m.testWrite(t, "write -P 0x55 1M 1M")
}
