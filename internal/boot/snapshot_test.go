package boot

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/supervise"
)

// TestExportNotToTheGuest: an export is written where the guest cannot come between, by whatever name that is.
func TestExportNotToTheGuest(t *testing.T) {
	dir := t.TempDir()
	share, read, other := filepath.Join(dir, "share"), filepath.Join(dir, "read"), filepath.Join(dir, "shared") // one begins as another does
	for _, d := range []string{share + "/sub", read, other} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	// of the guest's making, and of the user's
	if err := errors.Join(os.Symlink(other, share+"/out"), os.Symlink(share+"/sub", dir+"/in")); err != nil {
		t.Fatal(err)
	}
	volumes := []config.Volume{{Tag: "a", Path: share}, {Tag: "b", Path: read, ReadOnly: true}}
	for to, want := range map[string]string{
		share + "/x": "", share + "/sub/x": "", dir + "/in/x": "",
		read + "/x": read + "/x", other + "/x": other + "/x", share + "/out/x": other + "/x",
	} {
		e, err := beginExport(SnapshotRequest{File: to, Replace: true}, volumes)
		if want == "" {
			if ExitCode(err) != supervise.Usage {
				t.Errorf("to %s: %v", to, err)
			}
			continue
		}
		if err == nil {
			err = e.Commit()
			e.Discard()
		}
		if info, statErr := os.Lstat(want); err != nil || statErr != nil || !info.Mode().IsRegular() {
			t.Errorf("to %s: %v, %v", to, err, statErr)
		}
	}
}
