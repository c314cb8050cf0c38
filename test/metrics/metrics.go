// Package metrics reads what vmentry serves to Prometheus, with Prometheus' own parser and by its own rules.
package metrics

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// Scrape is what was served at one moment: the value of each sample by its name and labels, as in name{label="value"}.
type Scrape map[string]float64

// Parse reads what was served, and checks it as `promtool check metrics` does.
func Parse(t testing.TB, text string) Scrape {
	t.Helper()
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		if strings.HasPrefix(p.Metric, "vmentry_") {
			t.Errorf("%s: %s", p.Metric, p.Text)
		}
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	families, err := parser.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("not what Prometheus reads: %v\n%s", err, text)
	}
	s := Scrape{}
	for _, f := range families {
		samples, err := expfmt.ExtractSamples(&expfmt.DecodeOptions{}, f)
		if err != nil {
			t.Fatal(err)
		}
		for _, sample := range samples {
			s[sample.Metric.String()] = float64(sample.Value)
		}
	}
	return s
}

// Names are the names of vmentry's own metrics among the samples, sorted.
func (s Scrape) Names() []string {
	names := map[string]bool{}
	for sample := range s {
		name, _, _ := strings.Cut(sample, "{")
		if strings.HasPrefix(name, "vmentry_") {
			names[name] = true
		}
	}
	return slices.Sorted(maps.Keys(names))
}

// Documented are the names in the table of docs/operations.md, sorted.
func Documented(t testing.TB) []string {
	t.Helper()
	_, here, _, _ := runtime.Caller(0)
	text, err := os.ReadFile(filepath.Join(filepath.Dir(here), "..", "..", "docs", "operations.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, table, _ := strings.Cut(string(text), "\n| metric |")
	table, _, _ = strings.Cut(table, "\n\n")
	var names []string
	for _, quoted := range regexp.MustCompile("`(vmentry_[^`]*)`").FindAllStringSubmatch(table, -1) {
		names = append(names, spread(quoted[1])...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var (
	labels = regexp.MustCompile(`\{[^{}]*\}$`)
	choice = regexp.MustCompile(`\{([^{}]*)\}`)
)

// spread is what a name stands for: labels at its end do not count, and a_{b,c}_d is a_b_d and a_c_d.
func spread(name string) []string {
	name = labels.ReplaceAllString(name, "")
	at := choice.FindStringSubmatchIndex(name)
	if at == nil {
		return []string{name}
	}
	var all []string
	for part := range strings.SplitSeq(name[at[2]:at[3]], ",") {
		all = append(all, spread(name[:at[0]]+part+name[at[1]:])...)
	}
	return all
}
