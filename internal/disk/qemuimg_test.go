package disk

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestHelperThatDoesNotStop: of what qemu-img prints the end is kept, however much it is.
func TestHelperThatDoesNotStop(t *testing.T) {
	f := newFixture(t)
	lock := lockOf(t, f.in)
	defer lock.Close()
	program := filepath.Join(t.TempDir(), "qemu-img")
	script := "#!/bin/sh\nhead -c 10000000 /dev/zero | tr '\\0' x | tee /dev/stderr\necho 'and No space left on device' >&2\nexit 1\n"
	if err := os.WriteFile(program, []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	var out tail
	err := qemuImg{path: program}.run(t.Context(), lock, reach{}, &out, nil)
	if err == nil || len(err.Error()) > maxOutput || !strings.HasSuffix(err.Error(), "xand No space left on device") {
		t.Errorf("%.200v", err)
	}
	if len(out) != maxOutput {
		t.Errorf("%d bytes of its output are kept", len(out))
	}
}
