package qemu

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRealQEMURecord: a record is that of one binary, and says what this one says itself.
func TestRealQEMURecord(t *testing.T) {
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatalf("%v: `make test` installs it", err)
	}
	file := filepath.Join(t.TempDir(), "record.json")
	if err := WriteRecord(t.Context(), file, path, os.Environ()); err != nil {
		t.Fatal(err)
	}
	can, ok := ReadRecord(file, path)
	if asked, err := Probe(t.Context(), path, os.Environ()); !ok || err != nil || !cmp.Equal(can, asked) {
		t.Errorf("read: %v, asked: %v\n%s", ok, err, cmp.Diff(asked, can))
	}

	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	script := filepath.Join(t.TempDir(), "script")
	if err := os.WriteFile(script, []byte("#!/bin/sh\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, other := range []string{self, script, filepath.Join(t.TempDir(), "none")} {
		if _, ok := ReadRecord(file, other); ok {
			t.Errorf("it is taken for that of %s", other)
		}
	}
	if _, ok := ReadRecord(filepath.Join(t.TempDir(), "none"), path); ok {
		t.Error("a file that is not there was read")
	}
	for _, bad := range []string{"", "{", `{"BuildID": ""}`} {
		if err := os.WriteFile(file, []byte(bad), 0o644); err != nil {
			t.Fatal(err)
		}
		if _, ok := ReadRecord(file, script); ok {
			t.Errorf("%q was taken for a record", bad)
		}
	}
}
