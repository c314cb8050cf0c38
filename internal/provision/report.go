package provision

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"sync"

	clcreport "github.com/flatcar/ignition/config/validate/report"

	"github.com/coreos/ignition/config/validate/report"
	vjson "github.com/coreos/vcontext/json"
	"github.com/coreos/vcontext/path"
	vreport "github.com/coreos/vcontext/report"
	"github.com/coreos/vcontext/tree"
)

// vcontext takes over a report of Butane's or of Ignition's for spec 3.
func (r *sourceReporter) vcontext(rep vreport.Report) {
	for _, e := range rep.Entries {
		line, column := position(e.Marker)
		text := e.Message
		if p := jsonPath(e.Context); p != "" {
			text = p + ": " + text
		}
		r.report(severityOf(e.Kind), line, column, text)
	}
}

func severityOf(k vreport.EntryKind) Severity {
	switch {
	case k == vreport.Info:
		return Info
	case k.IsFatal():
		return Mistake
	}
	return Warning
}

func position(m tree.Marker) (line, column int) {
	if m.StartP == nil {
		return 0, 0
	}
	return int(m.StartP.Line), int(m.StartP.Column)
}

// jsonPath prints storage.files[0].mode.
func jsonPath(c path.ContextPath) string {
	var b strings.Builder
	for _, e := range c.Path {
		switch e := e.(type) {
		case int:
			fmt.Fprintf(&b, "[%d]", e)
		case tree.Key:
			writeKey(&b, string(e))
		default:
			writeKey(&b, fmt.Sprint(e))
		}
	}
	return b.String()
}

func writeKey(b *strings.Builder, key string) {
	if b.Len() > 0 {
		b.WriteByte('.')
	}
	b.WriteString(key)
}

// markers finds lines and columns in a JSON text by path.
type markers struct{ root tree.Node }

// markersOf gives nothing where raw is not what the user wrote, or cannot be read.
func markersOf(raw []byte) markers {
	root, err := vjson.UnmarshalToContext(raw)
	if err != nil {
		return markers{}
	}
	return markers{root}
}

func (m markers) find(c path.ContextPath) (line, column int) {
	if m.root == nil {
		return 0, 0
	}
	for {
		if n, err := m.root.Get(c); err == nil {
			return position(n.GetMarker())
		}
		if c.Len() == 0 {
			return 0, 0
		}
		c = c.Pop()
	}
}

// spec2 takes over a report of Ignition's for spec 2. What is deprecated there is what these guests read.
func (r *sourceReporter) spec2(rep report.Report) {
	for _, e := range rep.Entries {
		severity := Info
		switch e.Kind {
		case report.EntryError:
			severity = Mistake
		case report.EntryWarning:
			severity = warningOf(e.Message)
		}
		r.report(severity, e.Line, e.Column, e.Message)
	}
}

// warningOf: a field that was deprecated in favour of another one means what it meant, and nothing is lost.
func warningOf(text string) Severity {
	if strings.Contains(text, "has been deprecated") {
		return Info
	}
	return Warning
}

// clc takes over a report of the Container Linux Config transpiler.
func (r *sourceReporter) clc(rep clcreport.Report) {
	for _, e := range rep.Entries {
		severity := Info
		switch e.Kind {
		case clcreport.EntryError:
			severity = Mistake
		case clcreport.EntryWarning:
			severity = warningOf(e.Message)
		}
		if e.Line == 0 {
			r.yamlError(severity, e.Message)
			continue
		}
		r.report(severity, e.Line, e.Column, e.Message)
	}
}

var yamlLine = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^(?:yaml: )?\s*line (\d+): (.*)$`) })

// yamlError takes a YAML library's error apart: it holds one line of text for each mistake, with the line number in it.
func (r *sourceReporter) yamlError(s Severity, text string) {
	for l := range strings.Lines(text) {
		l = strings.TrimSpace(l)
		if l == "" || strings.HasSuffix(l, "unmarshal errors:") {
			continue
		}
		line := 0
		if m := yamlLine().FindStringSubmatch(l); m != nil {
			line, _ = strconv.Atoi(m[1])
			l = m[2]
		}
		r.report(s, line, 0, l)
	}
}
