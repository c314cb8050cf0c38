package config

import (
	"flag"
	"os"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the table of docs/configuration.md anew")

const (
	documentPath = "../../docs/configuration.md"
	tableBegin   = "<!-- variables: begin -->\n"
	tableEnd     = "<!-- variables: end -->\n"
)

func TestDocumentHasTheTable(t *testing.T) {
	document, err := os.ReadFile(documentPath)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, foundBegin := strings.Cut(string(document), tableBegin)
	table, after, foundEnd := strings.Cut(rest, tableEnd)
	if !foundBegin || !foundEnd {
		t.Fatalf("%s has not the lines %q and %q", documentPath, tableBegin, tableEnd)
	}
	want := "\n" + Markdown() + "\n"
	if *update {
		if err := os.WriteFile(documentPath, []byte(before+tableBegin+want+tableEnd+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(want, table); diff != "" {
		t.Errorf("%s is not what the code says; run: go test ./internal/config -update\n(-code +document)\n%s", documentPath, diff)
	}
}

// The document's example is what a user sees.
func TestDocumentHasTheExample(t *testing.T) {
	document, err := os.ReadFile(documentPath)
	if err != nil {
		t.Fatal(err)
	}
	_, _, mistakes := parseEnv(map[string]string{"VM_MEMORY": "4X", "VM_CPUS": "1500m", "HOSTFWD": "2222:22,2222:80", "VM_CMDLINE": "quiet"})
	if !strings.Contains(string(document), "```\n"+mistakes.Error()+"\n```\n") {
		t.Errorf("%s has not this example:\n%v", documentPath, mistakes)
	}
	_, warnings, _ := parseEnv(nil)
	warnings = append(warnings, unknown([]string{"VM_MEMROY=4G"})...)
	if len(warnings) != 1 || !strings.Contains(string(document), "```\n"+warnings[0].String()+"\n```\n") {
		t.Errorf("%s has not this example: %v", documentPath, warnings)
	}
}

func TestEveryVariableIsDescribed(t *testing.T) {
	markdown, text := Markdown(), Text(80)
	seen := make(map[string]bool)
	for _, v := range variables(raw{}) {
		if v.name == "" || v.meaning == "" || v.group == "" {
			t.Errorf("a variable lacks its name, group or meaning: %+v", v)
		}
		if seen[v.name] {
			t.Errorf("%s is there twice", v.name)
		}
		seen[v.name] = true
		if !strings.Contains(markdown, "| `"+v.name+"` | ") {
			t.Errorf("%s is not in Markdown", v.name)
		}
		if !strings.Contains(text, "\n  "+v.name) {
			t.Errorf("%s is not in Text", v.name)
		}
		for _, s := range []string{v.meaning, v.unset, v.preset} {
			if strings.Count(s, "{") != strings.Count(s, "}") || strings.Contains(s, "`") {
				t.Errorf("%s: code is to stand in {braces}: %s", v.name, s)
			}
		}
	}
}

func TestTextKeepsToTheWidth(t *testing.T) {
	for _, width := range []int{0, 40, 80, 132} {
		for line := range strings.Lines(Text(width)) {
			line = strings.TrimSuffix(line, "\n")
			if n := utf8.RuneCountInString(line); n > max(width, minTextWidth) && len(strings.Fields(line)) > 1 {
				t.Errorf("width %d: a line of %d: %s", width, n, line)
			}
			if strings.TrimRight(line, " ") != line || strings.ContainsAny(line, "{}`") {
				t.Errorf("width %d: %q", width, line)
			}
		}
	}
}
