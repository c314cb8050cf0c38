package disk

import (
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestUnfitFiles(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		path string
		kind Kind
		want string
	}{
		{write(t, filepath.Join(dir, "empty"), nil), KindIO, "it is empty"},
		{filepath.Join(dir, "nowhere"), KindConfig, "no such file"},
		{filepath.Join(dir, "fifo"), KindConfig, "it is neither"},
		{dir, KindConfig, "it is neither"},
		{"/dev/null", KindConfig, "it is neither"},
	} {
		_, err := inspectImage(tt.path, FormatRaw)
		checkError(t, err, tt.kind, tt.want)
	}
}

// TestRawStaysRaw: what a raw disk begins with is its guest's to write.
func TestRawStaysRaw(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", path, "1M")
	_, err := inspectImage(path, FormatQCOW2)
	checkError(t, err, KindIO, `it has a backing file, "/etc/passwd"`)
	image, err := inspectImage(path, FormatRaw)
	if err != nil {
		t.Fatal(err)
	}
	if image.Identity.Format != FormatRaw || image.Identity.VirtualSize != roundUp(image.Identity.Bytes) {
		t.Errorf("taken as %s", image.Identity)
	}
}

func TestMountPoint(t *testing.T) {
	const mountinfo = `22 1 0:20 / / rw,relatime - overlay overlay rw,lowerdir=/l
23 22 0:21 / /proc rw - proc proc rw
24 22 8:1 /vol /var/lib/vmentry rw - ext4 /dev/sda1 rw
25 22 8:1 /vol /with\040space rw - ext4 /dev/sda1 rw
26 22 0:50 / /nfs rw,relatime shared:1 - nfs4 server:/x rw,vers=4.2,hard,local_lock=none,addr=10.0.0.1
27 22 0:51 / /nfs3 rw,relatime - nfs server:/x rw,vers=3,nolock,local_lock=all,addr=10.0.0.1
28 22 0:52 / /nfs4 rw,relatime - nfs4 server:/x rw,vers=4.2,local_lock=flock,addr=10.0.0.1
`
	for path, want := range map[string]string{
		"/var/lib/vmentry": "/var/lib/vmentry", "/var/lib/vmentry/x": "/var/lib/vmentry",
		"/var/lib/vmentry2": "/", "/var/lib": "/", "/": "/", "/with space/x": "/with space",
	} {
		if got := findMount(parseMounts(mountinfo), path).point; got != want {
			t.Errorf("%s is on %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]bool{"/nfs/x": false, "/nfs3/x": true, "/nfs4": true, "/": false} {
		if got := findMount(parseMounts(mountinfo), path).localLocks(); got != want {
			t.Errorf("the locks of %s are local: %v, want %v", path, got, want)
		}
	}
}
