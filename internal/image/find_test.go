package image

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
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
			if tt.err != "" {
				wantError(t, err, KindConfig, tt.err)
			}
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
	wantError(t, err, KindIO, "points to nothing")
}

func TestRecogniseByContent(t *testing.T) {
	raw := write(t, filepath.Join(t.TempDir(), "in"), diskContent(1<<20, 1))
	for _, tt := range []struct {
		name string
		make func(t *testing.T, out string)
		want Format
	}{
		{"vmdk", made("vmdk"), "vmdk"},
		{"vmdk stream", made("vmdk", "-o", "subformat=streamOptimized"), "vmdk"},
		{"vmdk flat", made("vmdk", "-o", "subformat=monolithicFlat"), "vmdk"},
		{"vdi", made("vdi"), "vdi"},
		{"vhd dynamic", made("vpc"), "vhd"},
		{"vhd fixed", made("vpc", "-o", "subformat=fixed"), "vhd"},
		{"vhdx", made("vhdx"), "vhdx"},
		{"qcow", made("qcow"), "qcow (version 1)"},
		{"qed", made("qed"), "qed"},
		{"parallels", made("parallels"), "parallels"},
		{"gzip", packed("gzip"), "gzip"},
		{"bzip2", packed("bzip2"), "bzip2"},
		{"xz", packed("xz"), "xz"},
		{"zstd", content("\x28\xb5\x2f\xfd rest"), "zstd"},
		{"lz4", content("\x04\x22\x4d\x18 rest"), "lz4"},
		{"squashfs", content("hsqs rest"), "squashfs"},
		{"ISO 9660", content(strings.Repeat("\x00", 32769) + "CD001"), ISO},
		{"UDF", content(strings.Repeat("\x00", 32769) + "BEA01"), ISO},
		{"tar", func(t *testing.T, out string) { command(t, "tar", "-cf", out, "-C", filepath.Dir(raw), "in") }, "tar"},
		{"qcow2", made("qcow2"), QCOW2},
		{"raw", made("raw"), Raw},
		{"one byte", content("x"), Raw},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "disk.qcow2") // the name says nothing
			tt.make(t, path)
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			info, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := Recognise(f, info.Size()); got != tt.want || err != nil {
				t.Errorf("it is %q, %v", got, err)
			}
		})
	}
}

// FuzzRecognise: what is taken for an image as it is begins as one, and what comes as a stream is taken for the same.
func FuzzRecognise(f *testing.F) {
	for _, s := range append(signatures, tails...) {
		f.Add(append(make([]byte, s.offset), s.bytes...))
	}
	f.Add([]byte("QFI\xfb\x00\x00\x00\x01"))
	f.Add(append(make([]byte, 16*isoSector), "\x01CD001"...))
	f.Fuzz(func(t *testing.T, b []byte) {
		format, err := Recognise(bytes.NewReader(b), int64(len(b)))
		if err != nil || format == "" {
			t.Fatalf("%q, %v", format, err)
		}
		if format == QCOW2 && !bytes.HasPrefix(b, []byte(qcow2Magic)) {
			t.Errorf("%q is taken for qcow2", b[:min(len(b), 8)])
		}
		if stream := recognise(b[:min(len(b), headBytes)]); stream != format && (stream != Raw || recogniseTail(b[max(0, len(b)-tailBytes):]) != format) {
			t.Errorf("as a stream it is %q, and as a file %q", stream, format)
		}
	})
}

func made(format string, options ...string) func(*testing.T, string) {
	return func(t *testing.T, out string) {
		in := write(t, filepath.Join(t.TempDir(), "in"), diskContent(1<<20, 1))
		command(t, "qemu-img", append(append([]string{"convert", "-f", "raw", "-O", format}, options...), in, out)...)
	}
}

func packed(program string) func(*testing.T, string) {
	return func(t *testing.T, out string) { write(t, out, pack(t, program, []byte("an image"))) }
}

func content(s string) func(*testing.T, string) {
	return func(t *testing.T, out string) { write(t, out, []byte(s)) }
}
