package boot

import (
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

// TestPipeThatIsAnother: QEMU's user may put something else where a pipe was made for it; no mode is changed through a link.
func TestPipeThatIsAnother(t *testing.T) {
	dir := t.TempDir()
	file, pipe := filepath.Join(dir, "file"), filepath.Join(dir, "pipe")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for name, target := range map[string]string{"link to a file": file, "link to the pipe": pipe} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
		if f, err := openPipe(filepath.Join(dir, name)); err == nil {
			f.Close()
			t.Errorf("a %s was opened", name)
		}
	}
	if f, err := openPipe(file); err == nil {
		f.Close()
		t.Error("a file was opened")
	}
	f, err := openPipe(pipe)
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	for path, want := range map[string]os.FileMode{file: 0o600, pipe: 0o622} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != want {
			t.Errorf("%s: %v, %v", path, info.Mode(), err)
		}
	}
}
