package test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
)

// guestDisk is a disk as the guest sees it.
type guestDisk struct {
	device   string // vda
	size     string // bytes
	readOnly bool
}

var diskLine = regexp.MustCompile(`(?m)^vmtest: disk (\S+) (\d+) ro=([01]) serial=(\S*) label=(\S*)`)

// disks are the guest's, by their serials: where udev takes them from for /dev/disk/by-id, the tiny guest does (see its init). Those without
// are left out if they have a label (CDs, the seed); the main disk has neither.
func (m *typing) disks() map[string]guestDisk {
	m.t.Helper()
	m.stdout.Await(m.t, tinyReady)
	disks := map[string]guestDisk{}
	for _, f := range diskLine.FindAllStringSubmatch(m.stdout.String(), -1) {
		if f[4] == "" && f[5] != "" {
			continue
		}
		if _, twice := disks[f[4]]; twice {
			m.t.Errorf("two disks have the serial %q", f[4])
		}
		disks[f[4]] = guestDisk{f[1], f[2], f[3] == "1"}
	}
	return disks
}

// loopDevice is a block device of so many MiB; empty where there is none to be had.
func loopDevice(t *testing.T, size int64) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "device")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size<<20); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		t.Logf("no loop device is to be had here: %v", err)
		return ""
	}
	loop := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "--detach", loop).Run() })
	return loop
}

// TestMoreDisks: disks of every kind on every bus are found by their serials, can be written or cannot, as was said, and keep what was written.
// The next start has more of them and larger ones, and none of the old has another place.
func TestMoreDisks(t *testing.T) {
	t.Parallel()
	raw, only, iso := image(t, "raw"), image(t, "qcow2"), filepath.Join(t.TempDir(), "tools.iso")
	content := make([]byte, 1<<20)
	copy(content[16*2048:], "\x01CD001\x01")
	copy(content[16*2048+40:], "TOOLS                           ")
	if err := os.WriteFile(iso, content, 0o600); err != nil {
		t.Fatal(err)
	}
	entries := []string{"v=16M", "s=16M:bus=scsi", "sat.a_1=16M:bus=sata", "n=16M:bus=nvme", "r=" + raw,
		"ro-v=" + only + ":ro", "ro-s=" + only + ":ro:bus=scsi",
		"cd-s=" + iso + ":ro:bus=scsi", "cd-sata=" + iso + ":ro:bus=sata", "cd-v=" + iso + ":ro"}
	written := []string{"", "v", "s", "sat.a_1", "n", "r"}
	if loop := loopDevice(t, 16); loop != "" {
		entries, written = append(entries, "b="+loop), append(written, "b")
	}
	data, run := dirs(t)
	base := "VM_IMAGE=" + image(t, "qcow2")
	settings := func(size string, disks []string) []string {
		return tiny(t, "vmtest.disks vmtest.commands", base, "VM_DISK_SIZE="+size, "VM_DISKS="+strings.Join(disks, ","))
	}
	m := startTyping(t, data, run, settings("64M", entries))
	before := m.disks()
	if n := strings.Count(m.stdout.String(), "label=TOOLS"); n != 3 || !strings.Contains(m.stdout.String(), "vmtest: disk sr1 1048576 ro=1 ") {
		t.Errorf("%d disks with the ISO image, want two CDs and a disk", n)
	}
	for _, e := range entries {
		name, _, _ := strings.Cut(e, "=")
		if name == "cd-s" || name == "cd-sata" { // Linux does not show the serial of a CD where the others' are
			continue
		}
		d, ok := before[name]
		if ro := strings.HasPrefix(name, "ro-") || strings.HasPrefix(name, "cd-"); !ok || d.readOnly != ro {
			t.Errorf("%s is %+v in the guest (%v)", e, d, ok)
		}
	}
	if t.Failed() {
		t.FailNow()
	}
	for name, want := range map[string]string{"": "vd", "v": "vd", "s": "sd", "sat.a_1": "sd", "n": "nvme", "ro-s": "sd", "cd-v": "vd"} {
		if got := before[name].device; !strings.HasPrefix(got, want) {
			t.Errorf("%s is %s", name, got)
		}
	}
	var write, read []string
	for _, name := range written {
		write = append(write, fmt.Sprintf("printf 'this is %s' >/tmp/m && dd if=/tmp/m of=/dev/%s bs=4096 seek=300 conv=sync,fsync 2>/dev/null", name, before[name].device))
	}
	m.tell(strings.Join(write, " && "))
	for _, name := range []string{"ro-v", "ro-s", "cd-v"} {
		m.tell(fmt.Sprintf("! dd if=/tmp/m of=/dev/%s bs=4096 seek=300 conv=sync,fsync", before[name].device))
	}
	m.signal(syscall.SIGTERM)
	m.wants(0)

	entries[0], entries[2] = "v=32M", "sat.a_1=8M:bus=sata"
	entries = append(entries, "more-v=1M", "more-s=1M:bus=scsi", "more-sata=1M:bus=sata", "more-n=1M:bus=nvme")
	m = startTyping(t, data, run, settings("128M", entries))
	after := m.disks()
	m.stderr.Await(t, "never made smaller")
	for name, d := range before {
		want := d
		switch name {
		case "":
			want.size = "134217728"
		case "v":
			want.size = "33554432"
		}
		got := after[name]
		if !strings.HasPrefix(d.device, "vd") { // Linux asks several controllers of other kinds at once, and names what they have as they answer
			want.device = got.device
		}
		if got != want {
			t.Errorf("the disk %q was %+v and is %+v, want %+v", name, d, got, want)
		}
	}
	if len(after) != len(before)+4 {
		t.Errorf("%d disks, want four more than %d", len(after), len(before))
	}
	for _, name := range written {
		read = append(read, fmt.Sprintf("dd if=/dev/%s bs=4096 skip=300 count=1 2>/dev/null | tr -d '\\0'; echo .", after[name].device))
	}
	got := m.tell(strings.Join(read, "; "))
	for _, name := range written {
		if !strings.Contains(got, "this is "+name+".") {
			t.Errorf("what was written to the disk %q is gone: %s", name, got)
		}
	}
	m.signal(syscall.SIGTERM)
	m.wants(0)
}

// TestManyDisks: thirty and more, with an old guest's among them.
func TestManyDisks(t *testing.T) {
	t.Parallel()
	entries := []string{"old=1M:bus=ide", "older=1M:bus=ide"}
	for i := range 30 {
		entries = append(entries, fmt.Sprintf("disk-%d=1M", i))
	}
	data, run := dirs(t)
	m := startTyping(t, data, run, tiny(t, "vmtest.disks vmtest.poweroff=0", "VM_IMAGE="+image(t, "qcow2"), "VM_DISKS="+strings.Join(entries, ",")))
	disks := m.disks()
	for _, e := range entries {
		name, _, _ := strings.Cut(e, "=")
		if d, ok := disks[name]; !ok || d.size != "1048576" || d.readOnly {
			t.Errorf("%s is %+v in the guest", e, d)
		}
	}
	m.wants(0)
}

// TestDisksThatAreRefused: all mistakes come at once, and nothing is touched.
func TestDisksThatAreRefused(t *testing.T) {
	t.Parallel()
	img := image(t, "qcow2")
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(img, link); err != nil {
		t.Fatal(err)
	}
	vmdk := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(vmdk, append([]byte("KDMV"), make([]byte, 1<<20)...), 0o600); err != nil {
		t.Fatal(err)
	}
	base := []string{"VM_IMAGE=" + img, "VM_READY=none", "HOSTFWD=none"}
	for _, tt := range []struct {
		disks string
		says  []string
	}{
		{"/nowhere/disk," + filepath.Dir(img) + "/.,a=" + link + "," + vmdk, []string{"no such file", "is a directory", "a=" + link, "which is the base image", "it is vmdk, which cannot be a disk"}},
		{"a=" + link + ":ro:bus=sata,b=" + img + ":ro:bus=nvme", []string{"no read-only hard disks on sata", "no read-only disks on nvme"}},
		{strings.Repeat("1M:bus=ide,", 4) + "1M:bus=ide", []string{"places for 4 disks on ide, and 5"}},
		{strings.Repeat("1M,", 80) + "1M:bus=nvme", []string{"VM_DISKS: the machine has places for 65 disks on virtio and nvme together, and 83"}},
	} {
		m := start(t, append(slices.Clone(base), "VM_DISKS="+tt.disks))
		m.wants(78, tt.says...)
		if left := append(contents(t, m.data), contents(t, m.run)...); len(left) > 0 {
			t.Errorf("%s: left behind: %v", tt.disks, left)
		}
	}
}
