package provision

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const document = "../../docs/provisioning.md"

var exampleMark = regexp.MustCompile("(?m)^<!-- example: (\\S+) -->\n(?:\n```[a-z]*\n(?s:.*?)\n```\n)?")

// The examples in the document are the files of docs/examples, and every one of them is translated by TestExamples.
func TestDocumentHasTheExamples(t *testing.T) {
	b, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	shown := map[string]bool{}
	want := exampleMark.ReplaceAllStringFunc(string(b), func(mark string) string {
		name := exampleMark.FindStringSubmatch(mark)[1]
		shown[name] = true
		text, err := os.ReadFile(filepath.Join(examples, name))
		if err != nil {
			t.Error(err)
		}
		return "<!-- example: " + name + " -->\n\n```" + languageOf(name) + "\n" + strings.TrimRight(string(text), "\n") + "\n```\n"
	})
	if *update {
		if err := os.WriteFile(document, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if d := cmp.Diff(want, string(b)); d != "" {
		t.Errorf("the examples are other ones than the files (-update writes them):\n%s", d)
	}

	for name := range exampleKinds {
		if !shown[name] {
			t.Errorf("%s is not in the document", name)
		}
	}
	files, err := os.ReadDir(examples)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range files {
		if exampleKinds[f.Name()] == "" {
			t.Errorf("%s is translated by no test", f.Name())
		}
	}
}

func languageOf(name string) string {
	switch filepath.Ext(name) {
	case ".json":
		return "json"
	case ".yaml":
		return "yaml"
	case ".sh":
		return "sh"
	}
	return ""
}
