package provision

import (
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// Keys whose values messages may show: without them a message could not say what it is about.
var shownKeys = map[string]bool{
	"path": true, "name": true, "device": true, "label": true, "target": true, "version": true, "variant": true,
	"local": true, "filesystem": true, "format": true, "level": true, "type": true, "mode": true, "parent": true,
}

// A shorter value is not a secret worth its name, and hiding it would make holes in ordinary words.
const shortestSecret = 6

// What the libraries quote from a source, and what stands there instead.
var quotations = []struct {
	pattern *regexp.Regexp
	instead string
}{
	// yaml: the value that could not be decoded, cut to ten characters, so that no whole secret is in it.
	{regexp.MustCompile("(!!\\S+) `[^`]*`"), "$1 value"},
	{regexp.MustCompile(`(?s)invalid map key: .*`), "invalid map key"},
	{regexp.MustCompile(`unknown anchor '.*' referenced`), "unknown anchor"},
	// net/url: the URL that could not be parsed, escaped.
	{regexp.MustCompile(`parse "(?:[^"\\]|\\.)*"`), "parse URL"},
}

// redact takes out what a library quoted from a source.
func redact(text string, secrets []string) string {
	for _, s := range secrets {
		text = strings.ReplaceAll(text, s, "…")
	}
	for _, q := range quotations {
		text = q.pattern.ReplaceAllString(text, q.instead)
	}
	return text
}

// secretsOf lists the values in a source that no message may show, longest first. JSON is YAML. What cannot be parsed
// gives none: its parser's error holds no value that redact does not know.
func secretsOf(data []byte) []string {
	var doc yaml.Node
	func() {
		defer func() { _ = recover() }()
		_ = yaml.Unmarshal(data, &doc)
	}()
	found := map[string]bool{}
	collectSecrets(&doc, "", found)
	var list []string
	for s := range found {
		list = append(list, s)
	}
	slices.SortFunc(list, func(a, b string) int {
		if len(a) != len(b) {
			return len(b) - len(a)
		}
		return strings.Compare(a, b)
	})
	return list
}

func collectSecrets(n *yaml.Node, key string, found map[string]bool) {
	switch n.Kind {
	case yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			collectSecrets(n.Content[i+1], n.Content[i].Value, found)
		}
	case yaml.ScalarNode:
		if len(n.Value) >= shortestSecret && !shownKeys[key] {
			found[n.Value] = true
			for line := range strings.Lines(n.Value) {
				if line = strings.TrimSpace(line); len(line) >= shortestSecret {
					found[line] = true
				}
			}
		}
	default: // aliases lead to nodes that are visited where they stand
		for _, c := range n.Content {
			collectSecrets(c, key, found)
		}
	}
}
