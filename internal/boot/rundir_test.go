package boot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/status"
)

// TestRunDirIsCleared: nothing is left of a start that was killed, whatever QEMU has made of its directory, and no link leads out of it.
func TestRunDirIsCleared(t *testing.T) {
	dir, outside := t.TempDir(), filepath.Join(t.TempDir(), "outside")
	p := Plan{Config: config.Config{RunDir: dir}}
	if err := errors.Join(os.WriteFile(outside, []byte("precious"), 0o644), os.MkdirAll(p.file("qemu/a/b"), 0o755), os.Chmod(p.file("qemu"), 0o755)); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{".ignition.json-123", ".seed.iso-4", ".vm.json-5", "seed.iso", "volume7.sock", "qemu/qmp.sock", "qemu/a/b/of-qemus-making"} {
		if err := os.WriteFile(p.file(name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for name, to := range map[string]string{"vm.json": outside, "held": outside, "console.sock": outside, "qemu/file": outside, "qemu/directory": filepath.Dir(outside)} {
		if err := os.Symlink(to, p.file(name)); err != nil {
			t.Fatal(err)
		}
	}
	f, err := p.makeRunDir(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, d := range []string{dir, p.file("qemu")} {
		left, err := os.ReadDir(d)
		if err != nil || d == dir && len(left) != 1 || d != dir && len(left) != 0 {
			t.Errorf("in %s: %v, %v", d, left, err)
		}
	}
	// somebody else was quicker
	for _, name := range status.Files {
		if err := os.Symlink(outside, p.file(name)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(status.Facts{}.Write(dir), status.Full{}.Write(dir), status.Hold(dir)); err != nil {
		t.Fatal(err)
	}
	for _, name := range status.Files {
		if info, err := os.Lstat(p.file(name)); err != nil || info.Mode() != 0o600 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if text, err := os.ReadFile(outside); string(text) != "precious" {
		t.Errorf("a link was followed: %q, %v", text, err)
	}
}

// TestNarrow: others keep the way through a directory that is vmentry's alone, and everything where it is not.
func TestNarrow(t *testing.T) {
	for _, tt := range []struct {
		name  string
		mode  fs.FileMode
		holds string
		elses bool
		want  fs.FileMode
	}{
		{"an emptyDir", 0o777, "", false, 0o771},
		{"a new volume of the image", 0o777 | fs.ModeSticky, "lock", false, 0o771 | fs.ModeSticky},
		{"one of a group", 0o775 | fs.ModeSetgid, "", false, 0o771 | fs.ModeSetgid},
		{"one of its owner", 0o700, "", false, 0o700},
		{"one that is shared", 0o777 | fs.ModeSticky, "somebody's", false, 0o777 | fs.ModeSticky},
		{"somebody else's", 0o777, "", true, 0o777},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, err := os.Open(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			defer dir.Close()
			if tt.holds != "" {
				err = os.WriteFile(filepath.Join(dir.Name(), tt.holds), nil, 0o600)
			}
			if err := errors.Join(err, dir.Chmod(tt.mode)); err != nil {
				t.Fatal(err)
			}
			if tt.elses {
				if err := dir.Chown(65534, -1); err != nil {
					t.Skip("this user cannot give directories away")
				}
			}
			narrow(dir, "lock")
			if info, err := dir.Stat(); err != nil || info.Mode() != fs.ModeDir|tt.want {
				t.Errorf("its mode is %v, %v", info.Mode(), err)
			}
		})
	}
}
