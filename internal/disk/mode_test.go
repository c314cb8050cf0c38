package disk

import (
	"encoding/binary"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestModesOfDiskThatIsThere goes through every pair of the mode that a disk was made in and the mode that is asked for.
func TestModesOfDiskThatIsThere(t *testing.T) {
	for _, tt := range []struct {
		from, to Mode
		steps    string
		err      string
	}{
		{ModeOverlay, ModeOverlay, "", ""},
		{ModeOverlay, ModeCopy, "merge", ""},
		{ModeOverlay, ModeDirect, "", "is in the overlay"},
		{ModeCopy, ModeOverlay, "", "is in a full copy"},
		{ModeCopy, ModeCopy, "", ""},
		{ModeCopy, ModeDirect, "", "is in a full copy"},
		{ModeDirect, ModeOverlay, "create", ""},
		{ModeDirect, ModeCopy, "copy", ""},
		{ModeDirect, ModeDirect, "", ""},
	} {
		t.Run(string(tt.from)+" to "+string(tt.to), func(t *testing.T) {
			f := newFixture(t)
			f.in.Mode = tt.from
			p := f.apply(t)
			run(t, "qemu-io", "-f", string(p.Format), "-c", "write -P 170 1M 1M", "-c", "flush", p.Path)
			f.in.Mode = tt.to
			p, err := applyInput(t.Context(), f.in, func(string) {})
			checkError(t, err, KindConfig, tt.err)
			if tt.err != "" {
				f.in.Mode = tt.from
				p = f.apply(t)
			}
			if actions(p) != tt.steps {
				t.Errorf("steps %q, want %q", actions(p), tt.steps)
			}
			run(t, "qemu-io", "-r", "-f", string(p.Format), "-c", "read -P 170 1M 1M", p.Path)
			if again := f.plan(t); again.Steps != nil {
				t.Errorf("the start after would do\n%v", again)
			}
		})
	}
}

func TestCopyNeedsNoImage(t *testing.T) {
	f := newFixture(t)
	f.in.Mode = ModeCopy
	image := f.in.Image
	p := f.apply(t)
	if actions(p) != "copy" || p.Format != FormatQCOW2 {
		t.Errorf("plan %v", p)
	}
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", image, p.Path)
	if i := imgInfo(t, p.Path); i.VirtualSize != 16<<20 || i.Backing != "" || i.Specific.Data.LazyRefcounts {
		t.Errorf("copy: %+v", i)
	}
	if !HasCopy(f.in.DataDir) {
		t.Error("the copy is not seen")
	}
	guestWrites(t, p.Path, 0xaa, 4<<20, 1<<20)
	baseImage(t, image, 5<<20, 9) // another one
	if p := f.apply(t); p.Steps != nil || p.Base != nil {
		t.Errorf("with another image: %v", p)
	}
	if err := os.RemoveAll(filepath.Dir(f.in.Image)); err != nil {
		t.Fatal(err)
	}
	f.in.Size = 32 << 20
	if p := f.apply(t); actions(p) != "grow" || p.Size != 32<<20 {
		t.Errorf("without an image, larger: %v", p)
	}
	f.in.Size, f.in.SizeSet, f.in.Recreate = 8<<20, true, true
	p = f.apply(t)
	if w := strings.Join(p.Warnings, "\n"); p.Steps != nil || !strings.Contains(w, "never made smaller") || !strings.Contains(w, "recreate does nothing here") {
		t.Errorf("smaller: %v", p)
	}
	guestReads(t, p.Path, 0xaa, 4<<20, 1<<20)
	facts, err := Inspect(f.in)
	if err != nil {
		t.Fatal(err)
	}
	if boot, known := facts.Boot(); !known || !boot.MBR {
		t.Errorf("what the image told about its firmware is forgotten: %+v, %v", boot, known)
	}
}

// TestCopyIsSparse: holes and zeros are not written.
func TestCopyIsSparse(t *testing.T) {
	f := newFixture(t)
	f.in.Mode = ModeCopy
	if err := os.Truncate(f.in.Image, 8<<30); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(f.apply(t).Path, &st); err != nil || st.Blocks*512 > 6<<20 {
		t.Errorf("it takes %d bytes: %v", st.Blocks*512, err)
	}
}

func TestMergeRefusesSnapshots(t *testing.T) {
	f := newFixture(t)
	p := f.apply(t)
	run(t, "qemu-img", "snapshot", "-c", "before", p.Path)
	f.in.Mode = ModeCopy
	_, err := planOf(f.in)
	checkError(t, err, KindConfig, "has 1 snapshots")
}

// TestMergeOfAnImageThatMoved: the overlay's own note of its base image is not what is followed.
func TestMergeOfAnImageThatMoved(t *testing.T) {
	f := newFixture(t)
	p := f.apply(t)
	guestWrites(t, p.Path, 0xaa, 1<<20, 1<<20)
	before := filepath.Join(t.TempDir(), "flat")
	run(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", p.Path, before)
	run(t, "qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", p.Path)
	f.in.Mode = ModeCopy
	p = f.apply(t)
	run(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", before, p.Path)
	kept, _ := filepath.Glob(filepath.Join(f.in.DataDir, keptPrefix+"*"))
	if len(kept) != 1 {
		t.Fatalf("kept: %v", kept)
	}
	// The way back.
	if err := os.RemoveAll(filepath.Join(f.in.DataDir, "disk")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(kept[0], filepath.Join(f.in.DataDir, "disk")); err != nil {
		t.Fatal(err)
	}
	f.in.Mode = ModeOverlay
	guestReads(t, f.apply(t).Path, 0xaa, 1<<20, 1<<20)
}

func TestRecreate(t *testing.T) {
	for _, mode := range []Mode{ModeOverlay, ModeCopy} {
		f := newFixture(t)
		p := f.apply(t)
		guestWrites(t, p.Path, 0xaa, 1<<20, 1<<20)
		old, err := os.ReadFile(p.Path)
		if err != nil {
			t.Fatal(err)
		}
		image := baseImage(t, p.Base.Path, 4<<20, 7)
		_, err = planOf(f.in)
		checkError(t, err, KindIO, "VM_DISK_ON_NEW_IMAGE=recreate to start afresh")
		f.in.Recreate, f.in.Mode = true, mode
		p = f.apply(t)
		if actions(p) != "renew" {
			t.Errorf("steps %q", actions(p))
		}
		run(t, "qemu-img", "compare", "-f", "raw", "-F", "qcow2", image, p.Path)
		if p := f.plan(t); p.Steps != nil {
			t.Errorf("the start after would do\n%v", p)
		}
		kept, _ := filepath.Glob(filepath.Join(f.in.DataDir, keptPrefix+"*", overlayName))
		if len(kept) != 1 {
			t.Fatalf("kept: %v", kept)
		}
		if now, err := os.ReadFile(kept[0]); err != nil || string(now) != string(old) {
			t.Errorf("the overlay was changed on its way: %v", err)
		}
	}
}

// TestRecreateOnlyForAnotherImage: a new copy of the same image is the same image, and one that differs where no sample is is not.
func TestRecreateOnlyForAnotherImage(t *testing.T) {
	for name, change := range map[string]struct {
		steps string
		edit  []byte
	}{"a new copy": {"verify", nil}, "another, by a few bytes": {"renew", []byte("edited")}} {
		f := newFixture(t)
		image := baseImage(t, f.in.Image, 40<<20, 1)
		f.in.Size, f.in.Recreate = 64<<20, true
		if err := f.apply(t).RecordDigest(t.Context()); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(image)
		if err != nil {
			t.Fatal(err)
		}
		copy(b[1<<20+200<<10:], change.edit)
		os.Remove(image)
		write(t, image, b)
		f.apply(t)
		kept, _ := filepath.Glob(filepath.Join(f.in.DataDir, keptPrefix+"*"))
		if want := map[string]int{"verify": 0, "renew": 1}[change.steps]; len(kept) != want {
			t.Errorf("%s: %d disks were kept aside, want %d", name, len(kept), want)
		}
		if p := f.plan(t); p.Steps != nil {
			t.Errorf("%s: the start after would do\n%v", name, p)
		}
	}
}

func TestDirect(t *testing.T) {
	f := newFixture(t)
	f.in.Mode = ModeDirect
	image := f.in.Image
	p := f.plan(t)
	lock, err := LockImage(t.Context(), p.Path, Exclusive, someHolder, 0) // as a start has it by then
	if err != nil {
		t.Fatal(err)
	}
	data, err := TakeLock(t.Context(), f.in.DataDir, someHolder, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.Apply(t.Context(), data, Reports{}); err != nil {
		t.Fatal(err)
	}
	lock.Close()
	data.Close()
	if actions(p) != "format" || p.Path != image || p.Format != FormatRaw || p.Size != 3<<20 {
		t.Errorf("first start: %v", p) // a default size does not change a file of the user's
	}
	f.in.Size, f.in.SizeSet = 8<<20, true
	if p := f.apply(t); actions(p) != "grow" {
		t.Errorf("grown: %v", p)
	}
	if st, err := os.Stat(image); err != nil || st.Size() != 8<<20 {
		t.Errorf("size %v %v", st.Size(), err)
	}
	f.in.Size = 4 << 20
	if p := f.apply(t); p.Steps != nil || !strings.Contains(strings.Join(p.Warnings, "\n"), "never made smaller") {
		t.Errorf("smaller: %v", p)
	}
	if err := os.Chmod(image, 0o444); err != nil {
		t.Fatal(err)
	}
	_, err = planOf(f.in)
	checkError(t, err, KindIO, "it is read-only: nobody may write it")
}

// TestDirectStaysRaw: a guest that writes the header of another format to its raw disk has a raw disk still.
func TestDirectStaysRaw(t *testing.T) {
	for _, header := range []string{"alone", "with a backing file"} {
		f := newFixture(t)
		f.in.Mode = ModeDirect
		p := f.apply(t)
		fake := filepath.Join(t.TempDir(), "fake")
		args := []string{"create", "-q", "-f", "qcow2", fake, "1M"}
		if header != "alone" {
			args = []string{"create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", fake, "1M"}
		}
		run(t, "qemu-img", args...)
		run(t, "dd", "if="+fake, "of="+p.Path, "conv=notrunc", "status=none")
		p = f.apply(t)
		if p.Format != FormatRaw || p.Size != 3<<20 || !strings.Contains(strings.Join(p.Warnings, "\n"), "looks like qcow2 and is used as raw") {
			t.Errorf("%s: %v", header, p)
		}
	}
}

func TestDirectQCOW2(t *testing.T) {
	f := newFixture(t)
	f.in.Mode = ModeDirect
	raw := f.in.Image
	f.in.Image += ".qcow2"
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, f.in.Image)
	os.Remove(raw)
	f.in.Size, f.in.SizeSet = 16<<20, true
	p := f.apply(t)
	if actions(p) != "format grow" || p.Format != FormatQCOW2 {
		t.Errorf("plan %v", p)
	}
	guestWrites(t, p.Path, 0xaa, 8<<20, 1<<20)
	leak(t, p.Path)
	leftUnclean(t, f.in.DataDir)
	if p := f.apply(t); actions(p) != "check" {
		t.Errorf("after an end that was not clean: %v", p)
	}
	run(t, "qemu-img", "check", "-q", p.Path)
	guestReads(t, p.Path, 0xaa, 8<<20, 1<<20)
	run(t, "qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", p.Path)
	_, err := planOf(f.in)
	checkError(t, err, KindIO, `it has a backing file, "/etc/passwd"`)
}

func TestDirectBlockDevice(t *testing.T) {
	f := newFixture(t)
	f.in.Mode = ModeDirect
	file := f.in.Image
	device := strings.TrimSpace(run(t, "losetup", "--find", "--show", file))
	t.Cleanup(func() { run(t, "losetup", "-d", device) })
	f.in.Image = device
	p := f.apply(t)
	if actions(p) != "format" || !p.Device || p.Format != FormatRaw || p.Size != 3<<20 {
		t.Errorf("plan %v", p)
	}
	f.in.Size, f.in.SizeSet = 8<<20, true
	_, err := planOf(f.in)
	checkError(t, err, KindConfig, "VM_DISK_SIZE is 8MiB and the block device "+device+" has 3MiB")
	f.in.Size = 1 << 20
	if p := f.plan(t); p.Steps != nil || p.Size != 3<<20 {
		t.Errorf("smaller: %v", p)
	}
}

// childReadOnly plans to write an image on a file system that is read-only.
func childReadOnly() {
	var in Input
	if err := json.Unmarshal([]byte(os.Getenv("INPUT")), &in); err != nil {
		panic(err)
	}
	for _, flags := range []uintptr{unix.MS_REC | unix.MS_PRIVATE, unix.MS_REMOUNT | unix.MS_BIND | unix.MS_RDONLY} {
		if err := unix.Mount("", "/", "", flags, ""); err != nil {
			panic(err)
		}
	}
	_, err := planOf(in)
	fmt.Println(err)
}

func TestDirectOnAReadOnlyMount(t *testing.T) {
	f := newFixture(t)
	f.in.Mode = ModeDirect
	b, err := json.Marshal(f.in)
	if err != nil {
		t.Fatal(err)
	}
	cmd := childCommand(t, "read-only", "INPUT="+string(b))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	out, err := cmd.Output()
	if err != nil || !strings.Contains(string(out), "it is read-only: read-only file system; give the container a writable file") {
		t.Errorf("%v: %s", err, out)
	}
}

// leftUnclean is what a start leaves that was killed while its QEMU ran.
func leftUnclean(t *testing.T, dir string) {
	t.Helper()
	lock, err := TakeLock(t.Context(), dir, Holder{Host: "test"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	if err := lock.SetRunning(true); err != nil {
		t.Fatal(err)
	}
}

// setRefcount changes the reference count of one cluster of a qcow2 file made by qemu-img with its defaults.
func setRefcount(t *testing.T, path string, cluster int64, count uint16) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	number := func(at int64) int64 {
		b := make([]byte, 8)
		if _, err := f.ReadAt(b, at); err != nil {
			t.Fatal(err)
		}
		return int64(binary.BigEndian.Uint64(b))
	}
	block := number(number(48)) // the first block of the table
	if _, err := f.WriteAt(binary.BigEndian.AppendUint16(nil, count), block+2*cluster); err != nil {
		t.Fatal(err)
	}
}

// leak takes a cluster that nobody uses.
func leak(t *testing.T, path string) {
	t.Helper()
	st, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	cluster := (st.Size() + 65535) / 65536
	if err := os.Truncate(path, (cluster+1)*65536); err != nil {
		t.Fatal(err)
	}
	setRefcount(t, path, cluster, 1)
}

func TestCheckAfterAnUncleanEnd(t *testing.T) {
	for _, tt := range []struct {
		name    string
		unclean bool
		damage  func(t *testing.T, overlay string)
		steps   string
		err     string
	}{
		{"clean end, leak", false, leak, "", ""}, // costs nothing, so it is not seen
		{"whole", true, func(*testing.T, string) {}, "check", ""},
		{"leak", true, leak, "check", ""},
		{"corrupt", true, func(t *testing.T, o string) { setRefcount(t, o, 0, 0) }, "", "finds 1 corruptions"},
		{"corrupt and leak", true, func(t *testing.T, o string) { leak(t, o); setRefcount(t, o, 0, 0) }, "", "qemu-img check -r all"},
		{"lazy reference counts", false, func(t *testing.T, o string) {
			run(t, "qemu-img", "amend", "-f", "qcow2", "-o", "lazy_refcounts=on", o)
			patch(t, o, 79, incompatDirty)
			setRefcount(t, o, 0, 0)
		}, "check", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			p := f.apply(t)
			guestWrites(t, p.Path, 0xaa, 1<<20, 1<<20)
			tt.damage(t, p.Path)
			if tt.unclean {
				leftUnclean(t, f.in.DataDir)
			}
			before, err := os.ReadFile(p.Path)
			if err != nil {
				t.Fatal(err)
			}
			p, err = applyInput(t.Context(), f.in, func(string) {})
			checkError(t, err, KindIO, tt.err)
			if tt.err != "" {
				if after, _ := os.ReadFile(paths{f.in.DataDir}.overlay()); string(after) != string(before) {
					t.Error("a disk with corruptions was changed")
				}
				_, err = applyInput(t.Context(), f.in, func(string) {})
				checkError(t, err, KindIO, tt.err) // and again
				run(t, "qemu-img", "check", "-q", "-r", "all", paths{f.in.DataDir}.overlay())
				f.apply(t)
				return
			}
			if actions(p) != tt.steps {
				t.Errorf("steps %q, want %q", actions(p), tt.steps)
			}
			if tt.steps != "" {
				run(t, "qemu-img", "check", "-q", p.Path)
			}
			guestReads(t, p.Path, 0xaa, 1<<20, 1<<20)
		})
	}
}

// TestLeakBehindTheEnd: a growth that is killed before it has written the new table has taken its cluster and not made the file longer.
func TestLeakBehindTheEnd(t *testing.T) {
	f := newFixture(t)
	p := f.apply(t)
	guestWrites(t, p.Path, 0xaa, 1<<20, 1<<20)
	st, err := os.Stat(p.Path)
	if err != nil {
		t.Fatal(err)
	}
	setRefcount(t, p.Path, (st.Size()+65535)/65536, 1)
	run(t, "qemu-img", "check", "-q", p.Path) // which says that all is well
	leftUnclean(t, f.in.DataDir)
	f.in.Size = 600 << 30
	if p := f.apply(t); actions(p) != "check grow" {
		t.Errorf("plan %v", p)
	}
	run(t, "qemu-img", "check", "-q", p.Path)
	guestReads(t, p.Path, 0xaa, 1<<20, 1<<20)
}

// TestRunningIsRemembered: whoever takes the lock next finds what the last one left, also if that one only looked.
func TestRunningIsRemembered(t *testing.T) {
	dir := t.TempDir()
	look := func() bool {
		t.Helper()
		unclean, err := inspectRunning(dir)
		if err != nil {
			t.Fatal(err)
		}
		return unclean
	}
	if look() {
		t.Error("a directory that was never used has not been left clean")
	}
	leftUnclean(t, dir)
	for range 2 {
		lock, err := TakeLock(t.Context(), dir, Holder{Host: "next"}, 0)
		if err != nil {
			t.Fatal(err)
		}
		if !look() {
			t.Error("it was forgotten")
		}
		lock.Close()
	}
	lock, err := TakeLock(t.Context(), dir, Holder{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := lock.SetRunning(false); err != nil {
		t.Fatal(err)
	}
	lock.Close()
	if look() {
		t.Error("a clean end was not noted")
	}
	write(t, filepath.Join(dir, "lock"), []byte(`{"host": "x", "run`))
	if !look() {
		t.Error("a note that was cut off counts as clean")
	}
}

func TestProgress(t *testing.T) {
	var got []float64
	p := &progress{report: func(f float64) { got = append(got, f) }}
	for _, part := range []string{"    (0.00/10", "0%)\r    (33.50/100%)\r", "rubbish\r", "    (100.00/100%)\r\n"} {
		if n, err := p.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatal(n, err)
		}
	}
	if fmt.Sprint(got) != "[0 0.335 1]" {
		t.Errorf("got %v", got)
	}
}

// TestSnapshotOfACopy is restored without the image, which is gone, and keeps the disk of before.
func TestSnapshotOfACopy(t *testing.T) {
	f := newFixture(t)
	f.in.Mode = ModeCopy
	p := f.apply(t)
	guestWrites(t, p.Path, 0xaa, 2<<20, 1<<20)
	lock := lockOf(t, f.in)
	snapshot(t, lock, "first")
	guestWrites(t, p.Path, 0xbb, 2<<20, 1<<20)
	r, err := RequestRestore(lock, "first", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	lock.Close()
	if err := os.RemoveAll(filepath.Dir(f.in.Image)); err != nil {
		t.Fatal(err)
	}
	if !HasCopy(f.in.DataDir) {
		t.Error("the copy is not seen")
	}
	if p := f.apply(t); actions(p) != "restore" {
		t.Errorf("plan %v", p)
	}
	guestReads(t, p.Path, 0xaa, 2<<20, 1<<20)
	guestReads(t, filepath.Join(f.in.DataDir, "snapshots", r.Keep, copyName), 0xbb, 2<<20, 1<<20)
}
