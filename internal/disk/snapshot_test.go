package disk

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func lockOf(t *testing.T, in Input) *Lock {
	t.Helper()
	lock, err := TakeLock(t.Context(), in.DataDir, Holder{Host: "test", PID: os.Getpid(), Since: time.Now()}, LockWait)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	return lock
}

// snapshot makes one of a disk that no guest writes.
func snapshot(t *testing.T, lock *Lock, name string) {
	t.Helper()
	n, err := BeginSnapshot(lock, name)
	if err == nil {
		err = n.Copy(t.Context(), nil)
	}
	if err == nil {
		err = n.Commit(StateOff)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// withSnapshot is a data directory whose disk has other data than its snapshot "first", which is to be restored.
func withSnapshot(t *testing.T, f *fixture) Restore {
	t.Helper()
	p := f.apply(t)
	guestWrites(t, p.Path, 0xaa, 2<<20, 1<<20)
	lock := lockOf(t, f.in)
	defer lock.Close()
	snapshot(t, lock, "first")
	guestWrites(t, p.Path, 0xbb, 2<<20, 1<<20)
	r, err := RequestRestore(lock, "first", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSnapshots(t *testing.T) {
	f := newFixture(t)
	if all, err := Snapshots(f.in.DataDir); len(all) != 0 || err != nil {
		t.Errorf("without a data directory: %v, %v", all, err)
	}
	lock := lockOf(t, f.in)
	if _, err := BeginSnapshot(lock, "early"); err == nil || !strings.Contains(err.Error(), "no disk") {
		t.Errorf("without a disk: %v", err)
	}
	lock.Close()
	p := f.apply(t)
	guestWrites(t, p.Path, 0xaa, 2<<20, 1<<20)
	lock = lockOf(t, f.in)
	snapshot(t, lock, "first")
	guestWrites(t, p.Path, 0xbb, 2<<20, 1<<20)
	snapshot(t, lock, "second.2")
	all, err := Snapshots(f.in.DataDir)
	if err != nil || len(all) != 2 || all[0].Name != "first" && all[0].Name != "second.2" || all[0].Size != f.in.Size || all[0].Bytes < 1<<20 || all[0].State != StateOff {
		t.Errorf("%+v, %v", all, err)
	}
	guestReads(t, filepath.Join(f.in.DataDir, "snapshots", "first", overlayName), 0xaa, 2<<20, 1<<20)
	if _, err := BeginSnapshot(lock, "first"); err == nil || !strings.Contains(err.Error(), "one of that name") {
		t.Errorf("the same name: %v", err)
	}
	for _, name := range []string{"", ".", "..", ".hidden", "a/b", "a b", "-x", "é", strings.Repeat("x", 65)} {
		if _, err := BeginSnapshot(lock, name); err == nil {
			t.Errorf("%q is taken for a name", name)
		}
		if err := DeleteSnapshot(lock, name); err == nil {
			t.Errorf("%q can be deleted", name)
		}
	}
	if err := DeleteSnapshot(lock, "third"); err == nil || !strings.Contains(err.Error(), "none of that name") {
		t.Errorf("one that is not there: %v", err)
	}
	if _, err := RequestRestore(lock, "third", time.Now()); err == nil {
		t.Error("one that is not there can be restored")
	}
	if _, err := RequestRestore(lock, "first", time.Now()); err != nil {
		t.Error(err)
	}
	if err := DeleteSnapshot(lock, "first"); err == nil || !strings.Contains(err.Error(), "--cancel") {
		t.Errorf("one that is to be restored: %v", err)
	}
	if had, err := CancelRestore(lock); !had || err != nil {
		t.Errorf("cancelled: %v, %v", had, err)
	}
	if had, err := CancelRestore(lock); had || err != nil {
		t.Errorf("cancelled again: %v, %v", had, err)
	}
	if err := DeleteSnapshot(lock, "first"); err != nil {
		t.Error(err)
	}
	checkNames(t, filepath.Join(f.in.DataDir, "snapshots"), "second.2")
	guestReads(t, p.Path, 0xbb, 2<<20, 1<<20)
}

// TestSnapshotGivenUp leaves nothing, and what was left by one that was killed goes with the next.
func TestSnapshotGivenUp(t *testing.T) {
	f := newFixture(t)
	f.apply(t)
	lock := lockOf(t, f.in)
	n, err := BeginSnapshot(lock, "first")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("given up")
	cancel(why)
	if err := n.Copy(ctx, nil); !errors.Is(err, why) {
		t.Error(err)
	}
	n.Discard()
	checkNames(t, filepath.Join(f.in.DataDir, "snapshots"))
	if _, err = BeginSnapshot(lock, "killed"); err != nil {
		t.Fatal(err)
	}
	if all, err := Snapshots(f.in.DataDir); len(all) != 0 || err != nil {
		t.Errorf("half a snapshot is listed: %v, %v", all, err)
	}
	snapshot(t, lock, "next")
	checkNames(t, filepath.Join(f.in.DataDir, "snapshots"), "next")
}

// TestRestore: the disk is that of the snapshot, grown to what is wanted, and the one of before is kept.
func TestRestore(t *testing.T) {
	f := newFixture(t)
	r := withSnapshot(t, &f)
	f.in.Size = 32 << 20
	if s := f.plan(t).String(); !strings.Contains(s, "restore the snapshot first") || !strings.Contains(s, r.Keep) {
		t.Errorf("the plan does not say so:\n%s", s)
	}
	p := f.apply(t)
	guestReads(t, p.Path, 0xaa, 2<<20, 1<<20)
	guestReads(t, filepath.Join(f.in.DataDir, "snapshots", r.Keep, overlayName), 0xbb, 2<<20, 1<<20)
	if i := imgInfo(t, p.Path); i.VirtualSize != 32<<20 {
		t.Errorf("%+v", i)
	}
	if p := f.plan(t); p.Steps != nil {
		t.Errorf("left to do: %v", p)
	}
	// and back
	lock := lockOf(t, f.in)
	if _, err := RequestRestore(lock, r.Keep, time.Now()); err != nil {
		t.Fatal(err)
	}
	lock.Close()
	p = f.apply(t)
	guestReads(t, p.Path, 0xbb, 2<<20, 1<<20)
	if all, err := Snapshots(f.in.DataDir); len(all) != 3 || err != nil {
		t.Errorf("%v, %v", all, err)
	}
}

// TestRestoreShowsProgress, and an export of a VM that is off does. On a file system where copies take time: tmpfs shares no blocks.
func TestRestoreShowsProgress(t *testing.T) {
	f := newFixture(t)
	dir, err := os.MkdirTemp("/dev/shm", "vmentry-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	f.in.DataDir = dir
	withSnapshot(t, &f)
	lock := lockOf(t, f.in)
	defer lock.Close()
	var shown []string
	a := applier{step: func(string) {}, note: func(string) {}, now: time.Now, progress: func(what string, fraction float64) {
		shown = append(shown, fmt.Sprintf("%s %.0f", what, fraction))
	}}
	if err := a.apply(t.Context(), f.plan(t), lock); err != nil {
		t.Fatal(err)
	}
	if n := len(shown); n == 0 || shown[n-1] != "restoring the snapshot first 1" {
		t.Errorf("shown was %q", shown)
	}
	e, err := BeginExport(filepath.Join(dir, "out.qcow2"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Discard()
	var done, total int64
	if err := e.Convert(t.Context(), lock, false, nil, func(d, all int64) { done, total = d, all }); err != nil {
		t.Fatal(err)
	}
	if done != total || total != f.in.Size {
		t.Errorf("the export has shown %d of %d", done, total)
	}
}

// TestExportFollowsNoLink: what somebody puts in the place of an export that is being made is not written, and not taken for the export.
func TestExportFollowsNoLink(t *testing.T) {
	f := newFixture(t)
	f.apply(t)
	lock := lockOf(t, f.in)
	defer lock.Close()
	dir, precious := t.TempDir(), filepath.Join(t.TempDir(), "precious")
	write(t, precious, []byte("precious"))
	e, err := BeginExport(filepath.Join(dir, "out.qcow2"), false)
	if err != nil {
		t.Fatal(err)
	}
	defer e.Discard()
	if err := errors.Join(os.Remove(e.Path), os.Symlink(precious, e.Path)); err != nil {
		t.Fatal(err)
	}
	if err := e.Convert(t.Context(), lock, false, nil, func(int64, int64) {}); err != nil {
		t.Fatal(err)
	}
	checkError(t, e.Commit(), KindIO, "somebody else has taken")
	if b, err := os.ReadFile(precious); string(b) != "precious" {
		t.Errorf("it was written through the link: %q, %v", b, err)
	}
	if info, err := e.File.Stat(); err != nil || info.Size() == 0 {
		t.Errorf("the export: %v, %v", info, err)
	}
}

// TestRestoreOfABrokenDisk: what cannot be used any more is no reason not to restore, and is kept all the same.
func TestRestoreOfABrokenDisk(t *testing.T) {
	f := newFixture(t)
	r := withSnapshot(t, &f)
	overlay := filepath.Join(f.in.DataDir, "disk", overlayName)
	write(t, overlay, []byte("no qcow2"))
	p := f.apply(t)
	guestReads(t, p.Path, 0xaa, 2<<20, 1<<20)
	if b, err := os.ReadFile(filepath.Join(f.in.DataDir, "snapshots", r.Keep, overlayName)); string(b) != "no qcow2" {
		t.Errorf("%q, %v", b, err)
	}
}

// TestRestoreOverAnotherBase is refused, with both, before anything is touched.
func TestRestoreOverAnotherBase(t *testing.T) {
	f := newFixture(t)
	withSnapshot(t, &f)
	baseImage(t, f.in.Image, 3<<20, 99)
	if _, err := planOf(f.in); err == nil || !strings.Contains(err.Error(), "another base image") && !strings.Contains(err.Error(), "another date") {
		t.Error(err)
	}
	checkNames(t, filepath.Join(f.in.DataDir, "snapshots"), "first")
}

// TestRestoreOfNothing says how to go on.
func TestRestoreOfNothing(t *testing.T) {
	f := newFixture(t)
	withSnapshot(t, &f)
	if err := os.RemoveAll(filepath.Join(f.in.DataDir, "snapshots", "first")); err != nil {
		t.Fatal(err)
	}
	if _, err := planOf(f.in); err == nil || !strings.Contains(err.Error(), "--cancel") {
		t.Error(err)
	}
}

// TestRestoreKilledAtEveryStep kills a start at each step of restoring; the next one must bring it about, once, and lose nothing.
func TestRestoreKilledAtEveryStep(t *testing.T) {
	seen := map[string]bool{}
	for kill, ended := 1, false; !ended; kill++ {
		f := newFixture(t)
		r := withSnapshot(t, &f)
		name := applyKilled(t, f.in, kill)
		ended, seen[name] = name == "", true
		applyKilled(t, f.in, 1)
		p := f.apply(t)
		if again := f.plan(t); again.Steps != nil {
			t.Errorf("killed at %q: left to do:\n%v", name, again)
		}
		guestReads(t, p.Path, 0xaa, 2<<20, 1<<20)
		guestReads(t, filepath.Join(f.in.DataDir, "snapshots", r.Keep, overlayName), 0xbb, 2<<20, 1<<20)
		guestReads(t, filepath.Join(f.in.DataDir, "snapshots", "first", overlayName), 0xaa, 2<<20, 1<<20)
		run(t, "qemu-img", "check", "-q", p.Path)
		checkNames(t, f.in.DataDir, "disk", "lock", "snapshots")
		checkNames(t, filepath.Join(f.in.DataDir, "snapshots"), r.Keep, "first")
	}
	if len(seen) < 8 {
		t.Errorf("killed at %d steps only: %v", len(seen)-1, seen)
	}
	t.Logf("killed at %d steps: %v", len(seen)-1, seen)
}
