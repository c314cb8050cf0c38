package provision

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWrite(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "new")
	both := translate(t, extras(Input{}))
	for range 2 { // it may run again
		if err := both.Write(dir); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{IgnitionFile, FWCfgFile, SeedFile} {
		fi, err := os.Stat(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if fi.Mode() != 0o600 || fi.Size() == 0 {
			t.Errorf("%s: mode %v, %d bytes", name, fi.Mode(), fi.Size())
		}
	}

	if err := translate(t, extras(Input{IgnitionOff: true})).Write(dir); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) != 1 || left[0].Name() != SeedFile {
		t.Errorf("there are %v, want %s alone", left, SeedFile)
	}
}
