package disk

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

func actions(p Plan) string {
	var names []string
	for _, s := range p.Steps {
		names = append(names, string(s.Action))
	}
	return strings.Join(names, " ")
}

func TestApplyMakesAndKeeps(t *testing.T) {
	f := newFixture(t)
	f.in.NVRAMTemplate = write(t, filepath.Join(t.TempDir(), "vars"), pattern(540<<10, 4))
	if p := f.apply(t); actions(p) != "create nvram" {
		t.Errorf("first start: %s", actions(p))
	}
	p := f.plan(t)
	if p.Steps != nil || p.Size != 16<<20 {
		t.Errorf("second start would do:\n%v", p)
	}
	i := imgInfo(t, p.Path)
	base := f.in.Image
	if i.VirtualSize != 16<<20 || i.Backing != base || i.BackingFormat != "raw" {
		t.Errorf("overlay: %+v", i)
	}
	guestWrites(t, p.Path, 0xaa, 4<<20, 1<<20)
	write(t, p.NVRAM, pattern(540<<10, 5))
	f.in.Size = 32 << 20
	if p := f.apply(t); actions(p) != "grow" {
		t.Errorf("grown: %s", actions(p))
	}
	if p := f.apply(t); p.Steps != nil {
		t.Errorf("after growing: %s", actions(p))
	}
	f.in.Size, f.in.SizeSet = 20<<20, true
	p = f.apply(t)
	if p.Size != 32<<20 || !strings.Contains(strings.Join(p.Warnings, "\n"), "never made smaller") {
		t.Errorf("asked for less: %v", p)
	}
	guestReads(t, p.Path, 0xaa, 4<<20, 1<<20)
	run(t, "qemu-img", "check", "-q", p.Path)
	if b, _ := os.ReadFile(p.NVRAM); string(b) != string(pattern(540<<10, 5)) {
		t.Error("the variable store was made anew")
	}
	if st, err := os.Stat(p.Path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("overlay's mode: %v %v", st.Mode(), err)
	}
}

func TestApplyOverAQCOW2WithAnOddName(t *testing.T) {
	f := newFixture(t)
	name := f.in.Image
	odd := filepath.Join(filepath.Dir(name), `nbd:od,d,=na"me %s.raw`)
	f.in.Image = odd
	run(t, "qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2", name, odd)
	os.Remove(name)
	f.apply(t)
	p := f.plan(t)
	if i := imgInfo(t, p.Path); i.Backing != odd || i.BackingFormat != "qcow2" || p.Steps != nil {
		t.Errorf("overlay %+v, left to do %v", i, p.Steps)
	}
	run(t, "qemu-img", "compare", "-F", "qcow2", odd, p.Path)
}

func TestApplyAfterTheImageMoved(t *testing.T) {
	f := newFixture(t)
	p := f.apply(t)
	guestWrites(t, p.Path, 0xbb, 0, 1<<20)
	dir := filepath.Dir(f.in.Image)
	if err := os.Rename(dir, dir+"2"); err != nil {
		t.Fatal(err)
	}
	f.in.Image = filepath.Join(dir+"2", filepath.Base(f.in.Image))
	if p := f.apply(t); actions(p) != "rebase" {
		t.Errorf("moved: %v", p)
	}
	if p := f.apply(t); p.Steps != nil {
		t.Errorf("after the move: %v", p)
	}
	guestReads(t, p.Path, 0xbb, 0, 1<<20)
	run(t, "qemu-img", "check", "-q", p.Path)
}

func TestBaseImageChanged(t *testing.T) {
	touch := func(t *testing.T, path string) {
		t.Helper()
		if err := os.Chtimes(path, time.Now(), time.Unix(1e9, 0)); err != nil {
			t.Fatal(err)
		}
	}
	edit := func(t *testing.T, path string, off int64) {
		t.Helper()
		f, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer f.Close()
		if _, err := f.WriteAt([]byte("edited"), off); err != nil {
			t.Fatal(err)
		}
	}
	// Behind the first MiB and between two samples of this image of 40 MiB.
	const notSampled = 1<<20 + 200<<10
	sameDate := func(t *testing.T, path string, change func()) {
		t.Helper()
		st, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		change()
		if err := os.Chtimes(path, st.ModTime(), st.ModTime()); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name   string
		digest bool // recorded before the change
		change func(t *testing.T, path string)
		steps  string
		refuse string
	}{
		{"untouched", false, func(*testing.T, string) {}, "", ""},
		{"untouched, with digest", true, func(*testing.T, string) {}, "", ""},
		{"larger", false, func(t *testing.T, p string) { baseImage(t, p, 41<<20, 1) }, "", "another base image"},
		{"another content", true, func(t *testing.T, p string) { baseImage(t, p, 40<<20, 2) }, "", "another base image"},
		{"new date, no digest", false, touch, "", "no digest was recorded"},
		{"new date, digest", true, touch, "verify", ""},
		{"new file of the old date, digest", true, func(t *testing.T, p string) {
			sameDate(t, p, func() {
				os.Remove(p)
				baseImage(t, p, 40<<20, 1)
			})
		}, "verify", ""},
		{"edited where no sample is", true, func(t *testing.T, p string) { edit(t, p, notSampled) }, "verify", "it was made from another base image"},
		{"edited where no sample is, old date", true, func(t *testing.T, p string) {
			sameDate(t, p, func() { edit(t, p, notSampled) })
		}, "verify", "it was made from another base image"},
		{"edited where no sample is, no digest", false, func(t *testing.T, p string) { edit(t, p, notSampled); touch(t, p) }, "", "no digest was recorded"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			image := baseImage(t, f.in.Image, 40<<20, 1)
			f.in.Size = 64 << 20
			p := f.apply(t)
			if tt.digest {
				if err := p.RecordDigest(t.Context()); err != nil {
					t.Fatal(err)
				}
			}
			before, err := os.ReadFile(p.Path)
			if err != nil {
				t.Fatal(err)
			}
			tt.change(t, image)
			p, err = applyInput(t.Context(), f.in, func(string) {})
			checkError(t, err, KindIO, tt.refuse)
			if tt.refuse != "" && !strings.Contains(err.Error(), "put the image of then back") {
				t.Errorf("no way out in %q", err)
			}
			if actions(p) != tt.steps {
				t.Errorf("steps %q, want %q", actions(p), tt.steps)
			}
			if after, err := os.ReadFile(paths{f.in.DataDir}.overlay()); err != nil || string(after) != string(before) {
				t.Errorf("the overlay was touched (%v)", err)
			}
			if tt.refuse == "" {
				if p := f.plan(t); p.Steps != nil {
					t.Errorf("the start after would do %s", actions(p))
				}
			}
		})
	}
}

func TestRecordDigestStops(t *testing.T) {
	f := newFixture(t)
	p := f.apply(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := p.RecordDigest(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	r, err := readRecord(paths{f.in.DataDir}.record())
	if err != nil || r.Base.SHA256 != "" {
		t.Errorf("record %+v, %v", r, err)
	}
	for range 2 {
		if err := p.RecordDigest(t.Context()); err != nil {
			t.Error(err)
		}
	}
	sum := strings.Fields(run(t, "sha256sum", p.Base.Path))[0]
	if r, _ := readRecord(paths{f.in.DataDir}.record()); r.Base.SHA256 != sum {
		t.Errorf("recorded %q, sha256sum says %q", r.Base.SHA256, sum)
	}
}

// TestHostileOverlays puts what vmentry never makes in the overlay's place.
func TestHostileOverlays(t *testing.T) {
	for _, tt := range []struct {
		name string
		make func(t *testing.T, overlay, base string)
		want string
	}{
		{"no backing file", func(t *testing.T, o, b string) { run(t, "qemu-img", "create", "-q", "-f", "qcow2", o, "16M") }, "no backing file"},
		{"data file", func(t *testing.T, o, b string) {
			run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+o+".data", o, "16M")
		}, "external data file"},
		{"another format", func(t *testing.T, o, b string) {
			run(t, "qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", b, o)
		}, `reads its base as "qcow2"`},
		{"corrupt bit", func(t *testing.T, o, b string) { patch(t, o, 79, incompatCorrupt) }, "corrupt"},
		{"unknown bit", func(t *testing.T, o, b string) { patch(t, o, 79, 1<<6) }, "bit 6"},
		{"not qcow2", func(t *testing.T, o, b string) { write(t, o, pattern(1000, 1)) }, "bad qcow2"},
		{"no overlay", func(t *testing.T, o, b string) { os.Remove(o) }, "overlay.qcow2 is missing"},
		{"no record", func(t *testing.T, o, b string) { os.Remove(filepath.Join(filepath.Dir(o), recordName)) }, "base.json is missing"},
		{"record cut", func(t *testing.T, o, b string) { write(t, filepath.Join(filepath.Dir(o), recordName), []byte(`{"ver`)) }, "damaged"},
		{"record of the future", func(t *testing.T, o, b string) {
			write(t, filepath.Join(filepath.Dir(o), recordName), []byte(`{"version":9}`))
		}, "version 9"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			p := f.apply(t)
			tt.make(t, p.Path, p.Base.Path)
			_, err := applyInput(t.Context(), f.in, func(string) {})
			checkError(t, err, KindIO, tt.want)
		})
	}
}

func patch(t *testing.T, path string, off int64, value byte) {
	t.Helper()
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte{value}, off); err != nil {
		t.Fatal(err)
	}
}

func TestOverlayOfAForeignBackingFileIsRewritten(t *testing.T) {
	f := newFixture(t)
	p := f.apply(t)
	run(t, "qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "raw", "-b", "/etc/passwd", p.Path)
	if p := f.apply(t); actions(p) != "rebase" {
		t.Errorf("plan %v", p)
	}
	if i := imgInfo(t, p.Path); i.Backing != p.Base.Path {
		t.Errorf("backed by %s", i.Backing)
	}
}

func TestNVRAMOfAnotherFirmware(t *testing.T) {
	f := newFixture(t)
	f.in.None = true
	f.in.NVRAMTemplate = write(t, filepath.Join(t.TempDir(), "vars"), pattern(1000, 1))
	p := f.apply(t)
	if p.Base != nil || p.Path != "" || p.NVRAM == "" {
		t.Errorf("plan without a disk: %+v", p)
	}
	write(t, f.in.NVRAMTemplate, pattern(2000, 1))
	_, err := planOf(f.in)
	checkError(t, err, KindIO, "do not belong together")
	f.in.NVRAMTemplate += "-gone"
	_, err = planOf(f.in)
	checkError(t, err, KindMissing, "no template")
}

// TestNVRAMOfSecureBoot: the variables with keys and those without are two, and a chip that is larger than the template is filled up.
func TestNVRAMOfSecureBoot(t *testing.T) {
	f := newFixture(t)
	f.in.None = true
	f.in.NVRAMTemplate = write(t, filepath.Join(t.TempDir(), "vars"), pattern(1000, 1))
	plain := f.apply(t).NVRAM
	f.in.NVRAMTemplate, f.in.SecureBoot, f.in.NVRAMSize = write(t, filepath.Join(t.TempDir(), "keys"), pattern(1000, 2)), true, 5000
	p := f.apply(t)
	if p.NVRAM == plain || actions(p) != "nvram" {
		t.Errorf("plan:\n%v", p)
	}
	for path, want := range map[string][]byte{plain: pattern(1000, 1), p.NVRAM: append(pattern(1000, 2), make([]byte, 4000)...)} {
		if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s is another, %v", path, err)
		}
	}
	if p := f.plan(t); p.Steps != nil {
		t.Errorf("left to do:\n%v", p)
	}
}

func TestApplyNeedsItsLock(t *testing.T) {
	f := newFixture(t)
	checkError(t, f.plan(t).Apply(t.Context(), nil, Reports{}), KindIO, "not locked")
	lock, err := TakeLock(t.Context(), t.TempDir(), Holder{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	checkError(t, f.plan(t).Apply(t.Context(), lock, Reports{}), KindIO, "not locked")
}

func TestBaseChangedBetweenPlanAndApply(t *testing.T) {
	f := newFixture(t)
	p := f.plan(t)
	baseImage(t, p.Base.Path, 3<<20, 9)
	lock, err := TakeLock(t.Context(), f.in.DataDir, Holder{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	checkError(t, p.Apply(t.Context(), lock, Reports{}), KindIO, "changed during this start")
}

// TestStopDuringPreparation ends the context while qemu-img runs.
func TestStopDuringPreparation(t *testing.T) {
	f := newFixture(t)
	f.in.Mode = ModeCopy
	dir := t.TempDir()
	f.in.QEMUImg = write(t, filepath.Join(dir, "slow"), []byte("#!/bin/sh\ntouch "+dir+"/started\nexec sleep 60\n"))
	if err := os.Chmod(f.in.QEMUImg, 0o755); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		for {
			if _, err := os.Stat(dir + "/started"); err == nil {
				cancel()
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	begun := time.Now()
	_, err := applyInput(ctx, f.in, func(string) {})
	if !errors.Is(err, context.Canceled) || time.Since(begun) > 10*time.Second {
		t.Errorf("error %v after %v", err, time.Since(begun))
	}
	checkNames(t, f.in.DataDir, "lock")
	f.in.QEMUImg = ""
	f.apply(t)
}

func TestHelperFails(t *testing.T) {
	f := newFixture(t)
	f.in.Mode = ModeCopy
	f.in.QEMUImg = write(t, filepath.Join(t.TempDir(), "bad"), []byte("#!/bin/sh\necho 'qemu-img: the disk is' >&2; echo on fire >&2; exit 1\n"))
	if err := os.Chmod(f.in.QEMUImg, 0o755); err != nil {
		t.Fatal(err)
	}
	_, err := applyInput(t.Context(), f.in, func(string) {})
	checkError(t, err, KindIO, "copy.qcow2: qemu-img: the disk is on fire")
	checkNames(t, f.in.DataDir, "lock")
	f.in.QEMUImg = "/nowhere/qemu-img"
	_, err = planOf(f.in)
	checkError(t, err, KindMissing, `no program "/nowhere/qemu-img"`)
	f.in.Mode = ModeOverlay
	f.apply(t) // which needs none
}

func checkNames(t *testing.T, dir string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		got = append(got, e.Name())
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("in %s, -want +got:\n%s", dir, diff)
	}
}

// childApply applies the input and kills itself, as hard as can be, at the KILL-th step. It prints the names of the steps.
func childApply() {
	var in Input
	if err := json.Unmarshal([]byte(os.Getenv("INPUT")), &in); err != nil {
		panic(err)
	}
	var kill, at int
	fmt.Sscan(os.Getenv("KILL"), &kill)
	_, err := applyInput(context.Background(), in, func(name string) {
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

// applyKilled runs childApply. It gives the name of the step at which it was killed; empty if it came to its end before.
func applyKilled(t *testing.T, in Input, kill int) string {
	t.Helper()
	b, err := json.Marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	out, err := childCommand(t, "apply", "INPUT="+string(b), fmt.Sprintf("KILL=%d", kill)).Output()
	var exit *exec.ExitError
	if err == nil {
		return ""
	}
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Fatalf("child: %v", err)
	}
	names := strings.Split(strings.TrimSpace(string(out)), "\n")
	return names[len(names)-1]
}

// TestKilledAtEveryStep kills a start at each of its steps; the next start must bring about what an undisturbed one does. What more there
// is to be killed at, test/fault does.
func TestKilledAtEveryStep(t *testing.T) {
	for _, phase := range []struct {
		name    string
		prepare func(t *testing.T, f *fixture) // what was done before, and what changes with this start
	}{
		{"first start", func(*testing.T, *fixture) {}},
		{"moved, copied and to be grown", func(t *testing.T, f *fixture) {
			p := f.apply(t)
			if err := p.RecordDigest(t.Context()); err != nil {
				t.Fatal(err)
			}
			guestWrites(t, p.Path, 0xcc, 2<<20, 2<<20)
			dir := filepath.Dir(f.in.Image)
			run(t, "cp", "-r", dir, dir+"2")
			if err := os.RemoveAll(dir); err != nil {
				t.Fatal(err)
			}
			f.in.Image = filepath.Join(dir+"2", filepath.Base(f.in.Image))
			f.in.Size = 2 << 30
		}},
		{"another image", func(t *testing.T, f *fixture) {
			p := f.apply(t)
			guestWrites(t, p.Path, 0xcc, 2<<20, 2<<20)
			write(t, p.NVRAM, []byte("variables of then"))
			if err := os.Mkdir(filepath.Join(f.in.DataDir, TPMName), 0o700); err != nil {
				t.Fatal(err)
			}
			write(t, filepath.Join(f.in.DataDir, TPMName, "state"), []byte("TPM of then"))
			baseImage(t, p.Base.Path, 4<<20, 7)
			f.in.NVRAMTemplate = write(t, filepath.Join(t.TempDir(), "vars"), pattern(1000, 4))
			f.in.Recreate = true
		}},
	} {
		t.Run(phase.name, func(t *testing.T) {
			t.Parallel()
			killAtEveryStep(t, phase.name, phase.prepare)
		})
	}
}

func killAtEveryStep(t *testing.T, phase string, prepare func(*testing.T, *fixture)) {
	seen := map[string]bool{}
	for kill, ended := 1, false; !ended; kill++ {
		f := newFixture(t)
		f.in.NVRAMTemplate = write(t, filepath.Join(t.TempDir(), "vars"), pattern(1000, 4))
		prepare(t, &f)
		name := applyKilled(t, f.in, kill)
		ended, seen[name] = name == "", true
		// Killed again at the first step of the repetition, then left alone.
		applyKilled(t, f.in, 1)
		f.apply(t)
		p := f.plan(t)
		if p.Steps != nil && actions(p) != "check" { // it is checked until a QEMU has ended well
			t.Errorf("%s, killed at %q: left to do:\n%v", phase, name, p)
		}
		run(t, "qemu-img", "check", "-q", p.Path)
		if i := imgInfo(t, p.Path); i.VirtualSize != f.in.Size || p.Mode == ModeOverlay && i.Backing != p.Base.Path {
			t.Errorf("%s, killed at %q: %+v", phase, name, i)
		}
		where := p.Path
		kept, _ := filepath.Glob(filepath.Join(f.in.DataDir, keptPrefix+"*"))
		if phase == "another image" {
			if len(kept) != 1 {
				t.Fatalf("killed at %q: kept are %v", name, kept)
			}
			where = filepath.Join(kept[0], overlayName)
			run(t, "qemu-img", "compare", "-f", "qcow2", "-F", "raw", p.Path, p.Base.Path)
			for file, want := range map[string]string{nvramName: "variables of then", TPMName + "/state": "TPM of then"} {
				if b, _ := os.ReadFile(filepath.Join(kept[0], file)); string(b) != want {
					t.Errorf("killed at %q: %s is lost", name, want)
				}
			}
			// over its own image, which is gone, it cannot be read as a chain
			baseImage(t, p.Base.Path, 3<<20, 1)
		}
		if phase != "first start" {
			guestReads(t, where, 0xcc, 2<<20, 2<<20)
		}
		want := []string{"disk", "lock", "nvram.fd"}
		if len(kept) == 1 {
			want = []string{"disk", filepath.Base(kept[0]), "lock", "nvram.fd"}
		}
		checkNames(t, f.in.DataDir, want...)
		checkNames(t, filepath.Join(f.in.DataDir, "disk"), recordName, filepath.Base(p.Path))
	}
	t.Logf("%s: killed at %d steps: %v", phase, len(seen)-1, seen)
}

// TestResizeKilledAnywhere kills qemu-img itself while it grows an overlay to where a new L1 table is needed.
func TestResizeKilledAnywhere(t *testing.T) {
	f := newFixture(t)
	p := f.apply(t)
	guestWrites(t, p.Path, 0xdd, 2<<20, 2<<20)
	whole, err := os.ReadFile(p.Path)
	if err != nil {
		t.Fatal(err)
	}
	var killed, old, grown, leaks int
	for i := range 30 {
		write(t, p.Path, whole)
		cmd := exec.Command("qemu-img", "resize", "-q", "-f", "qcow2", p.Path, "64T")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 1400 * time.Microsecond)
		_ = cmd.Process.Kill()
		if cmd.Wait() != nil {
			killed++
		}
		switch size := imgInfo(t, p.Path).VirtualSize; size {
		case 16 << 20:
			old++
		case 64 << 40:
			grown++
		default:
			t.Fatalf("a size of %d", size)
		}
		// 3 is leaked clusters: space that is not used again, and no harm.
		check := exec.Command("qemu-img", "check", "-q", p.Path)
		if check.Run(); check.ProcessState.ExitCode() == 3 {
			leaks++
		} else if check.ProcessState.ExitCode() != 0 {
			t.Fatalf("check ends with %d", check.ProcessState.ExitCode())
		}
		guestReads(t, p.Path, 0xdd, 2<<20, 2<<20)
	}
	t.Logf("killed %d times: %d of the old size, %d grown, %d with leaked clusters", killed, old, grown, leaks)
	if killed == 0 {
		t.Error("not killed once")
	}
}

func TestForeignNamesAreLeftAlone(t *testing.T) {
	f := newFixture(t)
	for _, name := range []string{".disk.new-", ".disk.new-12a", "disk.new-12", ".disk.new-1 ", "lost+found"} {
		if err := os.MkdirAll(filepath.Join(f.in.DataDir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{".disk.new-12", ".nvram.fd.new-7"} {
		write(t, filepath.Join(f.in.DataDir, name, "x"), nil)
	}
	if p := f.apply(t); actions(p) != "clean create" {
		t.Errorf("plan %v", p)
	}
	checkNames(t, f.in.DataDir, ".disk.new-", ".disk.new-1 ", ".disk.new-12a", "disk", "disk.new-12", "lock", "lost+found")
}

// childSmallTmpfs applies the input with the data directory on a tmpfs of its own, full or read-only as HOW says, and prints
// the error and what is in the directory.
func childSmallTmpfs() {
	var in Input
	if err := json.Unmarshal([]byte(os.Getenv("INPUT")), &in); err != nil {
		panic(err)
	}
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	must(os.MkdirAll(in.DataDir, 0o755))
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	must(unix.Mount("tmpfs", in.DataDir, "tmpfs", 0, "size=1m"))
	fill := map[string]int{"full": 256, "nearly": 256 - 3}[os.Getenv("HOW")]
	f, err := os.Create(filepath.Join(in.DataDir, "filler"))
	must(err)
	_, err = f.Write(make([]byte, fill*4096))
	must(err)
	f.Close()
	if os.Getenv("HOW") == "read-only" {
		must(unix.Mount("", in.DataDir, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	}
	_, err = applyInput(context.Background(), in, func(string) {})
	fmt.Println(err)
	_ = filepath.WalkDir(in.DataDir, func(path string, d fs.DirEntry, err error) error {
		fmt.Println(" ", strings.TrimPrefix(path, in.DataDir))
		return err
	})
}

func TestVolumeThatCannotBeWritten(t *testing.T) {
	for how, want := range map[string][]string{
		"full":      {"cannot lock the data directory", "no space left on device; free space on that volume"},
		"nearly":    {"cannot make the guest's disk", "no space left on device; free space on that volume"},
		"copy":      {"cannot copy ", "it needs 3.3 MiB and ", " bytes left; free space on that volume"},
		"read-only": {"cannot lock the data directory", "read-only file system; mount a writable volume"},
	} {
		t.Run(how, func(t *testing.T) {
			f := newFixture(t)
			if how == "copy" {
				f.in.Mode = ModeCopy
			}
			b, err := json.Marshal(f.in)
			if err != nil {
				t.Fatal(err)
			}
			cmd := childCommand(t, "small", "INPUT="+string(b), "HOW="+how)
			cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
			if os.Geteuid() != 0 { // as anybody else a namespace of one's own has to do
				cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
				cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
				cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
			}
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("a mount namespace is needed (run as root, or allow user namespaces): %v", err)
			}
			for _, part := range want {
				if !strings.Contains(string(out), part) {
					t.Errorf("no %q in: %s", part, out)
				}
			}
			_, left, _ := strings.Cut(string(out), "\n") // the error's line names what could not be made
			if strings.Contains(left, temporaryMark) {
				t.Errorf("something half made is left: %s", out)
			}
		})
	}
}
