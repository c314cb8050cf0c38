package disk

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"golang.org/x/sys/unix"
)

func TestWantedSize(t *testing.T) {
	const gib = 1 << 30
	for _, tt := range []struct {
		name  string
		size  int64
		set   bool
		image int64
		want  int64
		err   string
	}{
		{"OK default above the image", 12 * gib, false, 2 * gib, 12 * gib, ""},
		{"OK default below the image", 12 * gib, false, 20 * gib, 20 * gib, ""},
		{"OK set", 20 * gib, true, 2 * gib, 20 * gib, ""},
		{"OK set to the image's", 2 * gib, true, 2 * gib, 2 * gib, ""},
		{"OK rounded", 2*gib + 1, true, 2 * gib, 2*gib + 512, ""},
		{"OK none", 0, false, 2 * gib, 2 * gib, ""},
		{"OK largest", maxDiskSize, true, gib, maxDiskSize, ""},
		{"bad smaller", gib, true, 2 * gib, 0, "VM_DISK_SIZE is 1GiB and the image's disk has 2GiB"},
		{"bad too large", maxDiskSize + 1, true, gib, 0, "at most 2PiB"},
		{"bad far too large", 1<<63 - 1, true, gib, 0, "at most 2PiB"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := wantedSize(Input{Size: tt.size, SizeSet: tt.set}, tt.image)
			checkError(t, err, KindConfig, tt.err)
			if got != tt.want {
				t.Errorf("got %d, want %d", got, tt.want)
			}
		})
	}
}

func TestCompareIdentities(t *testing.T) {
	known := Identity{Format: FormatRaw, Bytes: 1000, VirtualSize: 1024, ModTime: 7, Inode: 3, ChangeTime: 12345, Sampled: "aa"}
	with := func(edit func(*Identity)) Identity {
		i := known
		edit(&i)
		return i
	}
	digest := with(func(i *Identity) { i.SHA256 = "bb" })
	for _, tt := range []struct {
		name          string
		recorded, now Identity
		want          verdict
	}{
		{"same file", known, known, verdictSame},
		{"same file, digest", digest, known, verdictSame},
		{"copied, date kept", known, with(func(i *Identity) { i.Inode, i.ChangeTime = 4, 5 }), verdictSame},
		{"copied, date kept, digest", digest, with(func(i *Identity) { i.Inode, i.ChangeTime = 4, 5 }), verdictCompare},
		{"copied", known, with(func(i *Identity) { i.ModTime, i.ChangeTime = 8, 5 }), verdictUnproven},
		{"copied, digest", digest, with(func(i *Identity) { i.ModTime, i.ChangeTime = 8, 5 }), verdictCompare},
		{"a built file system proves nothing", with(func(i *Identity) { i.SHA256, i.ChangeTime = "bb", 1e9 }), with(func(i *Identity) { i.ChangeTime = 1e9 }), verdictCompare},
		{"other content", digest, with(func(i *Identity) { i.Sampled = "cc" }), verdictDifferent},
		{"other size", digest, with(func(i *Identity) { i.Bytes = 999 }), verdictDifferent},
		{"other disk", digest, with(func(i *Identity) { i.VirtualSize = 2048 }), verdictDifferent},
		{"other format", digest, with(func(i *Identity) { i.Format = FormatQCOW2 }), verdictDifferent},
	} {
		if got := tt.recorded.compare(tt.now); got != tt.want {
			t.Errorf("%s: %d, want %d", tt.name, got, tt.want)
		}
	}
}

// facts of a first start with everything at hand.
func firstFacts() Facts {
	return Facts{
		Base: &Image{
			Path: "/image/disk.qcow2", Direct: true,
			Identity: Identity{Format: FormatQCOW2, Bytes: 145 << 20, VirtualSize: 2 << 30, ModTime: 1e9, Sampled: "0123456789abcdef0123", ChangeTime: 1},
		},
		DataDir: "/var/lib/vmentry", Place: Place{Type: "ext4", Direct: true}, NVRAM: -1, NVRAMTemplate: 540672, QEMUImg: "/usr/bin/qemu-img",
	}
}

func TestPlanPrints(t *testing.T) {
	f := firstFacts()
	f.Place.OwnLayer = true
	f.Leftovers = []string{"/var/lib/vmentry/.disk.new-1"}
	p, err := MakePlan(Input{Size: 12 << 30, DataDir: "/var/lib/vmentry", NVRAMTemplate: "/usr/share/OVMF/OVMF_VARS_4M.fd"}, f)
	if err != nil {
		t.Fatal(err)
	}
	const want = `base    /image/disk.qcow2 (qcow2, 152043520 bytes, disk of 2GiB, of 2001-09-09T01:46:40Z, sample 0123456789abcdef)
disk    /var/lib/vmentry/disk/overlay.qcow2, 12GiB, cache=none, aio=native
vars    /var/lib/vmentry/nvram.fd
clean   remove what a start that was cut off left: /var/lib/vmentry/.disk.new-1
create  make the overlay /var/lib/vmentry/disk/overlay.qcow2 of 12GiB over /image/disk.qcow2
nvram   make the UEFI variable store /var/lib/vmentry/nvram.fd from /usr/share/OVMF/OVMF_VARS_4M.fd
warning /var/lib/vmentry is in the container's own writable layer: the guest's disk ends with the container; mount a volume there to keep it
`
	if diff := cmp.Diff(want, p.String()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	wantCommands := [][]string{
		{"mkdir", "-p", "--", "/var/lib/vmentry/disk"},
		{"qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=1.1,lazy_refcounts=off", "-b", "/image/disk.qcow2", "-F", "qcow2", "/var/lib/vmentry/disk/overlay.qcow2", "12884901888"},
	}
	if diff := cmp.Diff(wantCommands, p.Steps[1].Commands); diff != "" {
		t.Errorf("commands, -want +got:\n%s", diff)
	}
	b, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	var back Plan
	if err := json.Unmarshal(b, &back); err != nil {
		t.Fatal(err)
	}
	back.Input = p.Input
	if diff := cmp.Diff(p, back, cmpopts.IgnoreUnexported(Plan{})); diff != "" {
		t.Errorf("through JSON, -before +after:\n%s", diff)
	}
}

func TestPlanCache(t *testing.T) {
	for _, tt := range []struct {
		place, base bool
		cache, aio  string
	}{{true, true, "none", "native"}, {false, true, "writeback", "threads"}, {true, false, "writeback", "threads"}} {
		f := firstFacts()
		f.Place.Direct, f.Base.Direct = tt.place, tt.base
		p, err := MakePlan(Input{}, f)
		if err != nil || p.Cache != tt.cache || p.AIO != tt.aio {
			t.Errorf("%+v: cache %q, aio %q, %v", tt, p.Cache, p.AIO, err)
		}
	}
}

func TestPlanOfALongPath(t *testing.T) {
	f := firstFacts()
	f.Base.Path = "/" + strings.Repeat("x/", 600)
	_, err := MakePlan(Input{}, f)
	checkError(t, err, KindConfig, "its path has 1201 bytes")
}

// TestInspectChangesNothing looks at a directory that cannot be written and at one that is not there.
func TestInspectChangesNothing(t *testing.T) {
	f := newFixture(t)
	before := time.Now().Add(-time.Hour)
	if err := os.Chtimes(filepath.Dir(f.in.DataDir), before, before); err != nil {
		t.Fatal(err)
	}
	f.plan(t)
	st, err := os.Stat(filepath.Dir(f.in.DataDir))
	if err != nil || !st.ModTime().Equal(before.Truncate(time.Nanosecond)) {
		t.Errorf("something was made: %v %v", st.ModTime(), err)
	}
	if _, err := os.Stat(f.in.DataDir); err == nil {
		t.Error("the data directory was made")
	}
}

// childNobody plans as a user without any privilege, on a file system that is read-only if HOW says so, and then tries to
// take the lock.
func childNobody() {
	var in Input
	if err := json.Unmarshal([]byte(os.Getenv("INPUT")), &in); err != nil {
		panic(err)
	}
	must := func(err error) {
		if err != nil {
			panic(err)
		}
	}
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	if os.Getenv("HOW") == "read-only" {
		must(unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	}
	must(syscall.Setgroups(nil))
	must(syscall.Setgid(65534))
	must(syscall.Setuid(65534))
	p, err := planOf(in)
	fmt.Println(p, err)
	_, err = TakeLock(context.Background(), in.DataDir, Holder{}, 0)
	fmt.Println(err)
}

func TestPlanWithoutPrivilege(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("must run as root, to give the privilege up in a mount namespace")
	}
	for how, want := range map[string]string{
		"read-only": "read-only file system; mount a writable volume",
		"not ours":  "permission denied; give user 65534 of this container access",
	} {
		f := newFixture(t)
		p := f.apply(t)
		f.in.Size = 20 << 20
		// A volume where others can read and not write. The read-only one was never locked: who may not write a file is told
		// that first.
		if err := os.Remove(paths{f.in.DataDir}.lock()); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(filepath.Dir(filepath.Dir(f.in.DataDir)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(p.Path, 0o644); err != nil {
			t.Fatal(err)
		}
		if err := os.Chmod(paths{f.in.DataDir}.record(), 0o644); err != nil {
			t.Fatal(err)
		}
		b, err := json.Marshal(f.in)
		if err != nil {
			t.Fatal(err)
		}
		cmd := childCommand(t, "nobody", "INPUT="+string(b), "HOW="+how)
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(out), "grow    grow "+p.Path) || !strings.Contains(string(out), "<nil>") {
			t.Errorf("%s: no plan: %s", how, out)
		}
		if !strings.Contains(string(out), want) {
			t.Errorf("%s: no %q in: %s", how, want, out)
		}
	}
}

func TestPlace(t *testing.T) {
	dir := t.TempDir()
	got, err := inspectPlace(filepath.Join(dir, "not", "there"))
	if err != nil {
		t.Fatal(err)
	}
	// What the table says of this file system must be so when it says that O_DIRECT works.
	if file := write(t, filepath.Join(dir, "x"), make([]byte, 8192)); got.Direct && !directReadable(file) {
		t.Errorf("%+v, and O_DIRECT does not work", got)
	}
	if shm, err := inspectPlace("/dev/shm"); err != nil || shm.Type != "tmpfs" || shm.Direct || shm.OwnLayer {
		t.Errorf("/dev/shm: %+v, %v", shm, err)
	}
	if root, err := inspectPlace("/"); err != nil || !root.OwnLayer {
		t.Errorf("/: %+v, %v", root, err)
	}
}
