package disk

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestFindImage(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files []string // a trailing slash makes a directory, "a -> b" a link
		want  string
		err   string
	}{
		{"one", []string{"image/disk.qcow2"}, "image/disk.qcow2", ""},
		{"one in the second place", []string{"base_image/x.img"}, "base_image/x.img", ""},
		{"one with side files", []string{"image/user", "image/README.md", "image/disk", "image/disk.sha256", "image/.hidden", "image/SHA256SUMS", "image/lost+found/"}, "image/disk", ""},
		{"a link", []string{"image/disk -> ../elsewhere/real", "elsewhere/real"}, "image/disk", ""},
		{"a Kubernetes volume", []string{"image/..data -> ..2026", "image/..2026/disk.img", "image/disk.img -> ..data/disk.img"}, "image/disk.img", ""},
		{"one directory is the other", []string{"image/disk", "base_image -> image"}, "image/disk", ""},
		{"none", []string{"image/user"}, "", "no image in "},
		{"no directory", nil, "", "/base_image; put one image there"},
		{"several", []string{"image/b.img", "image/a.img"}, "", "/image/a.img, "},
		{"one in each", []string{"image/a", "base_image/b"}, "", "2 images in "},
		{"a user name is no image", []string{"image/username"}, "image/username", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			for _, file := range tt.files {
				makeEntry(t, dir, file)
			}
			got, err := findImage([]string{dir + "/image", dir + "/base_image"})
			checkError(t, err, KindConfig, tt.err)
			if tt.want != "" && got != filepath.Join(dir, tt.want) {
				t.Errorf("found %q", got)
			}
		})
	}
}

func makeEntry(t *testing.T, dir, entry string) {
	t.Helper()
	name, target, isLink := strings.Cut(entry, " -> ")
	path := filepath.Join(dir, name)
	var err error
	switch {
	case isLink:
		if err = os.MkdirAll(filepath.Dir(path), 0o755); err == nil {
			err = os.Symlink(target, path)
		}
	case strings.HasSuffix(name, "/"):
		err = os.MkdirAll(path, 0o755)
	default:
		write(t, path, []byte(name))
	}
	if err != nil {
		t.Fatal(err)
	}
}

func TestDanglingLink(t *testing.T) {
	dir := t.TempDir()
	makeEntry(t, dir, "image/disk -> nowhere")
	_, err := findImage([]string{dir + "/image"})
	checkError(t, err, KindIO, "points to nothing")
}

func TestRecogniseByContent(t *testing.T) {
	raw := write(t, filepath.Join(t.TempDir(), "in"), sparse())
	for _, tt := range []struct {
		name string
		make func(t *testing.T, out string)
		want string // format, or what it is refused as
	}{
		{"vmdk", convertTo("vmdk"), "vmdk"},
		{"vmdk stream", convertTo("vmdk", "-o", "subformat=streamOptimized"), "vmdk"},
		{"vmdk flat", convertTo("vmdk", "-o", "subformat=monolithicFlat"), "vmdk"},
		{"vdi", convertTo("vdi"), "vdi"},
		{"vhd dynamic", convertTo("vpc"), "vhd"},
		{"vhd fixed", convertTo("vpc", "-o", "subformat=fixed"), "vhd"},
		{"vhdx", convertTo("vhdx"), "vhdx"},
		{"qcow", convertTo("qcow"), "qcow (version 1)"},
		{"qed", convertTo("qed"), "qed"},
		{"parallels", convertTo("parallels"), "parallels"},
		{"gzip", packed("gzip"), "gzip"},
		{"bzip2", packed("bzip2"), "bzip2"},
		{"xz", packed("xz"), "xz"},
		{"zstd", content("\x28\xb5\x2f\xfd rest"), "zstd"},
		{"lz4", content("\x04\x22\x4d\x18 rest"), "lz4"},
		{"squashfs", content("hsqs rest"), "squashfs"},
		{"ISO 9660", content(strings.Repeat("\x00", 32769) + "CD001"), "ISO 9660"},
		{"tar", func(t *testing.T, out string) { run(t, "tar", "-cf", out, "-C", filepath.Dir(raw), "in") }, "tar"},
		{"qcow2", convertTo("qcow2"), ""},
		{"raw", convertTo("raw"), ""},
		{"one byte", content("x"), ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.qcow2") // the name says nothing
			tt.make(t, path)
			_, err := inspectImage(path, "")
			checkError(t, err, KindConfig, tt.want)
		})
	}
}

func convertTo(format string, options ...string) func(*testing.T, string) {
	return func(t *testing.T, out string) {
		in := write(t, filepath.Join(t.TempDir(), "in"), sparse())
		run(t, "qemu-img", append(append([]string{"convert", "-f", "raw", "-O", format}, options...), in, out)...)
	}
}

func packed(program string) func(*testing.T, string) {
	return func(t *testing.T, out string) {
		cmd := exec.Command(program, "-c")
		cmd.Stdin = strings.NewReader("an image")
		b, err := cmd.Output()
		if err != nil {
			t.Fatalf("%s: %v", program, err)
		}
		write(t, out, b)
	}
}

func content(s string) func(*testing.T, string) {
	return func(t *testing.T, out string) { write(t, out, []byte(s)) }
}

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
		_, err := inspectImage(tt.path, "")
		checkError(t, err, tt.kind, tt.want)
	}
}

// TestRawStaysRaw: what a raw disk begins with is its guest's to write.
func TestRawStaysRaw(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/passwd", "-F", "raw", path, "1M")
	_, err := inspectImage(path, "")
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
		if got := findMount(strings.NewReader(mountinfo), path).point; got != want {
			t.Errorf("%s is on %q, want %q", path, got, want)
		}
	}
	for path, want := range map[string]bool{"/nfs/x": false, "/nfs3/x": true, "/nfs4": true, "/": false} {
		if got := findMount(strings.NewReader(mountinfo), path).localLocks(); got != want {
			t.Errorf("the locks of %s are local: %v, want %v", path, got, want)
		}
	}
}
