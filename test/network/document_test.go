package network

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	diff "github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write what tests have found into the documents that hold it")

// documented holds what a test has found against a document, in which it stands between two comments with its name; or writes it there.
func documented(t *testing.T, path, name, found string) {
	t.Helper()
	begin, end := fmt.Sprintf("<!-- %s: begin -->\n", name), fmt.Sprintf("<!-- %s: end -->\n", name)
	document, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, foundBegin := strings.Cut(string(document), begin)
	old, after, foundEnd := strings.Cut(rest, end)
	if !foundBegin || !foundEnd {
		t.Fatalf("%s has not the lines %q and %q", path, begin, end)
	}
	if *update {
		if err := os.WriteFile(path, []byte(before+begin+found+end+after), 0o644); err != nil {
			t.Error(err)
		}
	} else if changed := diff.Diff(found, old); changed != "" {
		t.Errorf("%s is not what the test has found; run: go test ./test/network -run %s -update\n(-test +document)\n%s", path, t.Name(), changed)
	}
}
