// Package cache finds what the scripts have made for tests: guests, and programs of another Debian.
package cache

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// Dir is a folder of the cache, which must have the given files. What its name begins with, up to a hyphen, is the make target that makes it.
func Dir(t testing.TB, name string, files ...string) string {
	t.Helper()
	root := os.Getenv("VMENTRY_CACHE")
	if root == "" {
		_, here, _, _ := runtime.Caller(0)
		root = filepath.Join(filepath.Dir(here), "..", "..", ".cache")
	}
	dir, err := filepath.Abs(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if _, err := os.Stat(filepath.Join(dir, f)); err != nil {
			target, _, _ := strings.Cut(name, "-")
			t.Fatalf("%v: `make %s` makes it", err, target)
		}
	}
	return dir
}
