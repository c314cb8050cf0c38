package provision

import (
	"bytes"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/diskfs/go-diskfs/backend/file"
	"github.com/diskfs/go-diskfs/filesystem/iso9660"
	"github.com/google/go-cmp/cmp"
	plain "github.com/kdomanski/iso9660"
)

func testFiles() []File {
	return []File{
		{"meta-data", []byte("instance-id: i\n")},
		{"user-data", bytes.Repeat([]byte("0123456789"), 1000)},
		{"user-data-2", nil},
		{"exactly", bytes.Repeat([]byte{'x'}, 2*sectorSize)},
		{"openstack/latest/meta_data.json", []byte("{}")},
		{"openstack/latest/user_data", []byte("#!/bin/sh\n")},
		{"openstack/content/0000", []byte("a")},
	}
}

func testISO(t *testing.T, label string) (image []byte, path string) {
	t.Helper()
	image, err := writeISO(label, testFiles())
	if err != nil {
		t.Fatal(err)
	}
	path = filepath.Join(t.TempDir(), "seed.iso")
	if err := os.WriteFile(path, image, 0o600); err != nil {
		t.Fatal(err)
	}
	return image, path
}

// go-diskfs reads the Rock Ridge names.
func TestISORockRidge(t *testing.T) {
	image, path := testISO(t, "cidata")
	b, err := file.OpenFromPath(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	fs, err := iso9660.Read(b, int64(len(image)), 0, sectorSize)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(fs.Label()); got != "cidata" {
		t.Errorf("label %q", got)
	}
	for _, f := range testFiles() {
		r, err := fs.OpenFile(f.Path, os.O_RDONLY)
		if err != nil {
			t.Errorf("%s: %v", f.Path, err)
			continue
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, f.Data) {
			t.Errorf("%s: %d bytes, %v", f.Path, len(got), err)
		}
	}
}

// kdomanski/iso9660 walks the tree as the standard has it.
func TestISOPlain(t *testing.T) {
	image, _ := testISO(t, "cidata")
	img, err := plain.OpenImage(bytes.NewReader(image))
	if err != nil {
		t.Fatal(err)
	}
	root, err := img.RootDir()
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	var walk func(prefix string, f *plain.File)
	walk = func(prefix string, f *plain.File) {
		if !f.IsDir() {
			b, err := io.ReadAll(f.Reader())
			if err != nil {
				t.Error(err)
			}
			got[prefix] = string(b)
			return
		}
		children, err := f.GetChildren()
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range children {
			walk(strings.TrimPrefix(prefix+"/"+c.Name(), "/"), c)
		}
	}
	walk("", root)
	want := map[string]string{}
	for _, f := range testFiles() {
		want[f.Path] = string(f.Data)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
}

// libisofs checks checksums, path tables and both trees.
func TestISOXorriso(t *testing.T) {
	if _, err := exec.LookPath("xorriso"); err != nil {
		t.Skip("no xorriso here")
	}
	for _, mode := range []string{"any", "norock"} { // norock leaves Joliet
		_, path := testISO(t, "config-2")
		to := filepath.Join(t.TempDir(), "out")
		out, err := exec.Command("xorriso", "-read_fs", mode, "-osirrox", "on", "-indev", path, "-extract", "/", to).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Volume id    : 'config-2'") {
			t.Fatalf("%v\n%s", err, out)
		}
		for _, f := range testFiles() {
			got, err := os.ReadFile(filepath.Join(to, f.Path))
			if err != nil || !bytes.Equal(got, f.Data) {
				t.Errorf("%s: %d bytes, %v", f.Path, len(got), err)
			}
		}
	}
}

func TestISOIsReproducible(t *testing.T) {
	a, _ := testISO(t, "cidata")
	b, _ := testISO(t, "cidata")
	if !bytes.Equal(a, b) {
		t.Error("the same files give other bytes")
	}
}

func TestISORefuses(t *testing.T) {
	for _, f := range []string{"/a", "../a", "a/../b", ".", "", "a//b"} {
		if _, err := writeISO("x", []File{{f, nil}}); err == nil {
			t.Errorf("path %q is taken", f)
		}
	}
	if _, err := writeISO("seventeen letters", nil); err == nil {
		t.Error("a label that Joliet would cut is taken")
	}
	many := make([]File, 100)
	for i := range many {
		many[i].Path = "file-" + strings.Repeat("x", i)
	}
	if _, err := writeISO("x", many); err == nil {
		t.Error("a directory larger than its sector is taken")
	}
}
