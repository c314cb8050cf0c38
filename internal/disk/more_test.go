package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

func applyMore(ctx context.Context, in MoreInput, step func(string)) (MorePlan, error) {
	lock, err := TakeLock(ctx, in.DataDir, Holder{Host: "test"}, LockWait)
	if err != nil {
		return MorePlan{}, err
	}
	defer lock.Close()
	p, err := morePlanOf(in)
	if err != nil {
		return MorePlan{}, err
	}
	return p, moreApplier{applier{step: step, note: func(string) {}}}.apply(ctx, p, lock)
}

func morePlanOf(in MoreInput) (MorePlan, error) {
	in.Recognise = looksLike
	facts, err := InspectMore(in)
	if err != nil {
		return MorePlan{}, err
	}
	return MakeMorePlan(in, facts)
}

// mustApplyMore gives the plan and the names of its steps.
func mustApplyMore(t *testing.T, in MoreInput) (MorePlan, string) {
	t.Helper()
	p, err := applyMore(t.Context(), in, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, s := range p.Steps {
		names = append(names, string(s.Action))
	}
	return p, strings.Join(names, " ")
}

func TestMadeDisks(t *testing.T) {
	dir := t.TempDir()
	in := MoreInput{DataDir: filepath.Join(dir, "data"), Disks: []More{{Name: "a", Size: 16 << 20}, {Name: "b.c", Size: 1<<20 + 1}}}
	p, steps := mustApplyMore(t, in)
	if steps != "create create" {
		t.Errorf("first start: %s", steps)
	}
	a := p.Disks[0]
	if want := filepath.Join(dir, "data", "disks", "a.qcow2"); a.Path != want || !a.Made || a.Format != FormatQCOW2 || a.Size != 16<<20 {
		t.Errorf("disk a: %+v", a)
	}
	if i := imgInfo(t, p.Disks[1].Path); i.VirtualSize != 1<<20+512 || i.Format != "qcow2" {
		t.Errorf("disk b.c: %+v", i)
	}
	if st, err := os.Stat(a.Path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	if _, steps = mustApplyMore(t, in); steps != "" {
		t.Errorf("second start: %s", steps)
	}
	guestWrites(t, a.Path, 0xaa, 4<<20, 1<<20)
	in.Disks[0].Size = 1 << 40
	if p, steps = mustApplyMore(t, in); steps != "grow" || p.Disks[0].Size != 1<<40 {
		t.Errorf("raised: %s, %+v", steps, p.Disks[0])
	}
	if i := imgInfo(t, a.Path); i.VirtualSize != 1<<40 {
		t.Errorf("grown to %d", i.VirtualSize)
	}
	in.Disks = []More{{Name: "a", Size: 1 << 20}}
	p, steps = mustApplyMore(t, in)
	warnings := strings.Join(p.Warnings, "\n")
	if steps != "" || p.Disks[0].Size != 1<<40 || !strings.Contains(warnings, "never made smaller") || !strings.Contains(warnings, "b.c.qcow2: made by an earlier start") {
		t.Errorf("lowered, and one left out: %s, %+v, %s", steps, p.Disks[0], warnings)
	}
	guestReads(t, a.Path, 0xaa, 4<<20, 1<<20)
	run(t, "qemu-img", "check", "-q", a.Path)
}

// TestMoreAfterAnUncleanEnd: what a killed QEMU leaves in a disk is given back, and damage is left to people. Raw disks, and those that are only
// read, have nothing of the kind.
func TestMoreAfterAnUncleanEnd(t *testing.T) {
	dir := t.TempDir()
	given, only := filepath.Join(dir, "given"), filepath.Join(dir, "only")
	for _, path := range []string{given, only} {
		run(t, "qemu-img", "create", "-q", "-f", "qcow2", path, "4M")
	}
	in := MoreInput{DataDir: filepath.Join(dir, "data"), Disks: []More{{Name: "a", Size: 16 << 20, Entry: "a=16M"}, {Name: "g", Path: given, Entry: "g=given"},
		{Name: "o", Path: only, ReadOnly: true}, {Name: "r", Path: write(t, filepath.Join(dir, "raw"), pattern(1<<20, 1))}}}
	p, _ := mustApplyMore(t, in)
	made := p.Disks[0].Path
	damaged := func(damage func(*testing.T, string)) {
		for _, path := range []string{made, given} {
			guestWrites(t, path, 0xaa, 1<<20, 1<<20)
			damage(t, path)
		}
	}
	damaged(leak)
	if _, steps := mustApplyMore(t, in); steps != "" {
		t.Errorf("after a clean end: %s", steps)
	}
	leftUnclean(t, in.DataDir)
	in.Beside = true // of a VM that runs
	if p, err := morePlanOf(in); err != nil || len(p.Steps) > 0 {
		t.Errorf("beside a running VM: %v, %v", p.Steps, err)
	}
	in.Beside, in.Disks[0].Size = false, 600<<30
	if _, steps := mustApplyMore(t, in); steps != "check grow check" {
		t.Errorf("after an end that was not clean: %s", steps)
	}
	for _, path := range []string{made, given} {
		run(t, "qemu-img", "check", "-q", path)
		guestReads(t, path, 0xaa, 1<<20, 1<<20)
	}
	damaged(func(t *testing.T, path string) { setRefcount(t, path, 0, 0) })
	_, err := applyMore(t.Context(), in, func(string) {})
	checkError(t, err, KindIO, "cannot use the guest's disk "+made+": its last end was not clean, and qemu-img check finds 1 corruptions")
	run(t, "qemu-img", "check", "-q", "-r", "all", made)
	_, err = applyMore(t.Context(), in, func(string) {})
	checkError(t, err, KindIO, "cannot use the guest's disk "+given)
}

// TestMadeDiskThatIsNone: what stands where a made disk should be is read as qcow2, and nothing else.
func TestMadeDiskThatIsNone(t *testing.T) {
	dir := t.TempDir()
	in := MoreInput{DataDir: dir, Disks: []More{{Name: "a", Size: 1 << 20, Entry: "a=1M"}}}
	path := write(t, filepath.Join(dir, "disks", "a.qcow2"), pattern(1<<20, 1))
	_, err := morePlanOf(in)
	checkError(t, err, KindIO, `VM_DISKS="a=1M": cannot use the disk `+path)
	os.Remove(path)
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", path, "1M")
	_, err = morePlanOf(in)
	checkError(t, err, KindIO, `it has a backing file, "/etc/shadow"`)
}

func TestGivenDisksThatAreRefused(t *testing.T) {
	dir := t.TempDir()
	path := func(name string) string { return filepath.Join(dir, name) }
	raw := baseImage(t, path("raw"), 2<<20, 1)
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", path("qcow2"), "1M")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", raw, "-F", "raw", path("backed"), "4M")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+path("secret"), path("outside"), "4M")
	run(t, "qemu-img", "create", "-q", "-f", "vmdk", path("vmdk"), "4M")
	write(t, path("packed"), []byte("\x1f\x8b and more"))
	write(t, path("empty"), nil)
	for name, err := range map[string]error{
		"link": os.Symlink(raw, path("link")), "twin": os.Link(raw, path("twin")),
		"fifo": unix.Mkfifo(path("fifo"), 0o600), "nothing": os.Symlink(path("gone"), path("nothing")),
	} {
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
	}
	for _, tt := range []struct {
		name  string
		disks []string // paths; "ro:" before one that is only read
		kind  Kind
		want  string
	}{
		{"OK", []string{"raw", "qcow2"}, 0, ""},
		{"OK one twice to read", []string{"ro:raw", "ro:link", "ro:twin"}, 0, ""},
		{"bad missing", []string{"gone"}, KindConfig, "there is no such file"},
		{"bad dangling link", []string{"nothing"}, KindConfig, "there is no such file"},
		{"bad directory", []string{"."}, KindConfig, "it is a directory"},
		{"bad FIFO", []string{"fifo"}, KindConfig, "it is neither"},
		{"bad character device", []string{"../../../../../../../dev/null"}, KindConfig, "it is neither"},
		{"bad empty", []string{"empty"}, KindConfig, "it is empty"},
		{"bad format", []string{"vmdk"}, KindConfig, "it is vmdk"},
		{"bad packed", []string{"ro:packed"}, KindConfig, "it is gzip"},
		{"bad backing file", []string{"backed"}, KindIO, "it has a backing file"},
		{"bad data file", []string{"ro:outside"}, KindIO, "external data file"},
		{"bad twice by a link", []string{"raw", "link"}, KindConfig, "it is the same as " + raw + ", which is the disk d0"},
		{"bad twice by a hard link, one only read", []string{"ro:raw", "twin"}, KindConfig, "it is the same as " + raw},
		{"bad base image", []string{"base-link"}, KindConfig, "which is the base image"},
		{"OK base image to read", []string{"ro:base-link"}, 0, ""},
		{"bad main disk", []string{"ro:overlay"}, KindConfig, "which is the main disk"},
		{"bad all of them", []string{"backed", "gone", "fifo"}, KindConfig, "there is no such file"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			write(t, path("base"), pattern(1<<20, 1))
			write(t, path("overlay"), pattern(1<<20, 1))
			os.Symlink(path("base"), path("base-link"))
			in := MoreInput{DataDir: path("data"), Taken: []Taken{{path("base"), "the base image", false}, {path("overlay"), "the main disk", true}, {path("not there"), "", true}}}
			for i, name := range tt.disks {
				name, ro := strings.CutPrefix(name, "ro:")
				in.Disks = append(in.Disks, More{Name: fmt.Sprintf("d%d", i), Path: path(name), ReadOnly: ro, Entry: name})
			}
			_, err := morePlanOf(in)
			checkError(t, err, tt.kind, tt.want)
			if err == nil {
				return
			}
			lines := strings.Split(err.Error(), "\n")
			if bad := len(tt.disks); tt.name == "bad all of them" && len(lines) != bad {
				t.Errorf("%d of %d mistakes are told", len(lines), bad)
			}
			for _, l := range lines {
				if !strings.HasPrefix(l, `VM_DISKS="`) {
					t.Errorf("no entry before %q", l)
				}
			}
			if _, err := os.Stat(in.DataDir); err == nil {
				t.Error("something was made")
			}
		})
	}
}

// TestGivenRawStaysRaw: from the first start on what a raw file begins with is the guest's.
func TestGivenRawStaysRaw(t *testing.T) {
	dir := t.TempDir()
	path := write(t, filepath.Join(dir, "disk"), pattern(4<<20, 1))
	hostile := filepath.Join(dir, "hostile")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", hostile, "1M")
	header, err := os.ReadFile(hostile)
	if err != nil {
		t.Fatal(err)
	}
	in := MoreInput{DataDir: filepath.Join(dir, "data"), Disks: []More{{Name: "a", Path: path}}}
	if p, steps := mustApplyMore(t, in); steps != "record" || p.Disks[0].Format != FormatRaw {
		t.Fatalf("first start: %s, %+v", steps, p.Disks)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteAt(header, 0); err != nil { // the guest does
		t.Fatal(err)
	}
	f.Close()
	for _, ro := range []bool{false, true} {
		in.Disks[0].ReadOnly = ro
		p, steps := mustApplyMore(t, in)
		if steps != "" || p.Disks[0].Format != FormatRaw || !strings.Contains(strings.Join(p.Warnings, ""), "still taken as raw") {
			t.Errorf("after the guest wrote a header: %s, %+v, %q", steps, p.Disks[0], p.Warnings)
		}
	}
	another := write(t, path+".new", pattern(1<<20, 2)) // before the old one's inode is free
	// Another file of that name.
	if err := os.Rename(hostile, path); err != nil {
		t.Fatal(err)
	}
	_, err = morePlanOf(in)
	checkError(t, err, KindIO, "another file was there")
	if err := os.Rename(another, path); err != nil {
		t.Fatal(err)
	}
	in.Disks[0].ReadOnly = false
	if p, steps := mustApplyMore(t, in); steps != "record" || p.Disks[0].Format != FormatRaw {
		t.Errorf("another raw file: %s, %+v", steps, p.Disks)
	}
	write(t, filepath.Join(dir, "data", "disks", "a.json"), []byte("{"))
	_, err = morePlanOf(in)
	checkError(t, err, KindIO, "it is damaged")
}

// TestISOAsADisk: it is a CD when it is only read, and raw in any case.
func TestISOAsADisk(t *testing.T) {
	dir := t.TempDir()
	content := make([]byte, 64<<10)
	copy(content[16*2048+1:], "CD001")
	path := write(t, filepath.Join(dir, "tools.iso"), content)
	for _, ro := range []bool{true, false} {
		p, err := morePlanOf(MoreInput{DataDir: dir, Disks: []More{{Name: "a", Path: path, ReadOnly: ro}}})
		if err != nil || p.Disks[0].CD != ro || p.Disks[0].Format != FormatRaw {
			t.Errorf("read-only %v: %+v, %v", ro, p.Disks, err)
		}
	}
}

// TestBlockDevice: a device is raw whatever is on it, has the device's size, and is for one VM alone, by whatever node.
func TestBlockDevice(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", file, "1M")
	if err := os.Truncate(file, 8<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		t.Skipf("no loop device is to be had here: %v", err)
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() { run(t, "losetup", "--detach", loop) })
	node := filepath.Join(dir, "xvda")
	st, err := os.Stat(loop)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(node, unix.S_IFBLK|0o600, int(st.Sys().(*syscall.Stat_t).Rdev)); err != nil {
		t.Fatal(err)
	}
	in := MoreInput{DataDir: filepath.Join(dir, "data"), Disks: []More{{Name: "a", Path: node}}}
	p, steps := mustApplyMore(t, in)
	if d := p.Disks[0]; steps != "" || d.Format != FormatRaw || d.Size != 8<<20 || !d.Device || d.Cache != "none" {
		t.Errorf("%s, %+v", steps, d)
	}
	locks, err := p.Lock(t.Context(), Holder{Host: "one"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	in.Disks[0].Path = loop
	other, err := morePlanOf(in)
	if err != nil {
		t.Fatal(err)
	}
	_, err = other.Lock(t.Context(), Holder{Host: "two"}, 0)
	checkError(t, err, KindIO, "in use on this machine")
	for _, l := range locks {
		l.Close()
	}
	in.Disks = append(in.Disks, More{Name: "b", Path: node})
	_, err = morePlanOf(in)
	checkError(t, err, KindConfig, "it is the same as "+loop)
}

// TestMoreLocks: what is written is for one VM, what is read for many.
func TestMoreLocks(t *testing.T) {
	dir := t.TempDir()
	plan := func(ro bool) MorePlan {
		path := write(t, filepath.Join(dir, "disk"), pattern(1<<20, 1))
		p, err := morePlanOf(MoreInput{DataDir: filepath.Join(dir, "data"), Disks: []More{{Name: "made", Size: 1 << 20}, {Name: "a", Path: path, ReadOnly: ro, Entry: "a=disk"}}})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	one, err := plan(true).Lock(t.Context(), Holder{Host: "one"}, 0)
	if err != nil || len(one) != 1 {
		t.Fatalf("%d locks, %v", len(one), err)
	}
	two, err := plan(true).Lock(t.Context(), Holder{Host: "two"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = plan(false).Lock(t.Context(), Holder{Host: "three"}, 0)
	checkError(t, err, KindIO, `VM_DISKS="a=disk": cannot lock`)
	one[0].Close()
	two[0].Close()
	if _, err = plan(false).Lock(t.Context(), Holder{Host: "three"}, 0); err != nil {
		t.Error(err)
	}
}

// childApplyMore is childApply for the disks of VM_DISKS.
func childApplyMore() {
	var in MoreInput
	if err := json.Unmarshal([]byte(os.Getenv("INPUT")), &in); err != nil {
		panic(err)
	}
	var kill, at int
	fmt.Sscan(os.Getenv("KILL"), &kill)
	_, err := applyMore(context.Background(), in, func(name string) {
		at++
		fmt.Println(name)
		if at == kill {
			_ = unix.Kill(os.Getpid(), unix.SIGKILL)
			select {}
		}
	})
	if err != nil {
		panic(err)
	}
}

// TestMoreKilledAtEveryStep kills a start at each of its steps; the next start must bring about what an undisturbed one does.
func TestMoreKilledAtEveryStep(t *testing.T) {
	seen := map[string]bool{}
	for kill, ended := 1, false; !ended; kill++ {
		dir := t.TempDir()
		in := MoreInput{DataDir: filepath.Join(dir, "data"), Disks: []More{{Name: "old", Size: 1 << 20}}}
		p, _ := mustApplyMore(t, in)
		guestWrites(t, p.Disks[0].Path, 0xcc, 0, 1<<20)
		in.Disks[0].Size = 64 << 30
		in.Disks = append(in.Disks, More{Name: "new", Size: 4 << 20}, More{Name: "raw", Path: write(t, filepath.Join(dir, "raw"), pattern(1<<20, 1))})
		for _, at := range []int{kill, 1} { // killed again at the first step of the repetition, then left alone
			b, err := json.Marshal(in)
			if err != nil {
				t.Fatal(err)
			}
			out, err := childCommand(t, "apply-more", "INPUT="+string(b), fmt.Sprintf("KILL=%d", at)).Output()
			if at == kill && err == nil {
				ended = true
			}
			var exit *exec.ExitError
			if err != nil && (!errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL) {
				t.Fatalf("child: %v", err)
			}
			names := strings.Fields(strings.ReplaceAll(string(out), " ", "-"))
			if len(names) > 0 {
				seen[names[len(names)-1]] = true
			}
			if ended {
				break
			}
		}
		mustApplyMore(t, in)
		p, err := morePlanOf(in)
		if err != nil || slices.ContainsFunc(p.Steps, func(s MoreStep) bool { return s.Action != ActionCheck }) { // it is checked until a QEMU has ended well
			t.Errorf("killed at %d: left to do: %v, %v", kill, p.Steps, err)
		}
		checkNames(t, filepath.Join(in.DataDir, "disks"), "new.qcow2", "old.qcow2", "raw.json")
		for i, size := range []int64{64 << 30, 4 << 20} {
			run(t, "qemu-img", "check", "-q", p.Disks[i].Path)
			if got := imgInfo(t, p.Disks[i].Path).VirtualSize; got != size {
				t.Errorf("killed at %d: disk %d has %d bytes", kill, i, got)
			}
		}
		guestReads(t, p.Disks[0].Path, 0xcc, 0, 1<<20)
	}
	t.Logf("killed at %d kinds of step: %v", len(seen), seen)
	if len(seen) < 7 {
		t.Error("not all steps were seen")
	}
}
