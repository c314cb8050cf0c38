package provision

import (
	"encoding/json"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"

	compact "github.com/clarketm/json"
	"github.com/coreos/vcontext/path"
	"github.com/coreos/vcontext/report"
)

// lower brings a config to a lower version of spec 3: the same JSON under the lower version must be valid there, use no
// key that is unknown there, and mean the same when ignition translates it up again. Whatever breaks one of these is a
// mistake that names the field.
func (s *ignitionSource) lower(c spec3Config, target int) (spec3Config, bool) {
	ok := true
	out := c
	s.guard("this config", func() {
		var problems []lowerProblem
		out, problems = tryLower(c, target)
		for _, p := range problems {
			ok = false
			s.reportLower(c, p, target)
		}
	})
	return out, ok && !s.failed
}

// lowerProblem is a field that the lower version cannot say.
type lowerProblem struct {
	path    path.ContextPath
	message string
}

func tryLower(c spec3Config, target int) (spec3Config, []lowerProblem) {
	raw, err := withVersion(c.json, specs[target].version)
	if err != nil {
		return c, []lowerProblem{{message: err.Error()}}
	}
	cfg, rep, err := specs[target].strict(raw)
	var problems []lowerProblem
	for _, e := range rep.Entries {
		if e.Kind.IsFatal() || isUnusedKey(e) {
			problems = append(problems, lowerProblem{e.Context, e.Message})
		}
	}
	if err != nil && len(problems) == 0 {
		problems = append(problems, lowerProblem{message: err.Error()})
	}
	if len(problems) > 0 {
		return c, problems
	}

	out, err := compact.Marshal(cfg)
	if err != nil {
		return c, []lowerProblem{{message: err.Error()}}
	}
	again, _, err := specs[c.spec].raise(out)
	if err != nil {
		return c, []lowerProblem{{message: err.Error()}}
	}
	back, err := compact.Marshal(again)
	if err != nil {
		return c, []lowerProblem{{message: err.Error()}}
	}
	for _, p := range differencePaths(c.json, back) {
		problems = append(problems, lowerProblem{p, "has another meaning there"})
	}
	return spec3Config{out, target}, problems
}

// isUnusedKey: the parsers warn about keys that their version does not know, and drop them.
func isUnusedKey(e report.Entry) bool {
	return e.Kind == report.Warn && strings.HasPrefix(e.Message, "unused key ")
}

// reportLower names the field and the lowest version that has it.
func (s *ignitionSource) reportLower(c spec3Config, p lowerProblem, target int) {
	name := jsonPath(p.path)
	if name == "" {
		s.mistake("cannot be brought to Ignition %s: %s", specs[target].short(), p.message)
		return
	}
	needs := c.spec
	for v := target + 1; v < c.spec; v++ {
		_, problems := tryLower(c, v)
		if !slices.ContainsFunc(problems, func(q lowerProblem) bool { return jsonPath(q.path) == name }) {
			needs = v
			break
		}
	}
	line, column := s.markers.find(p.path)
	s.report(Mistake, line, column, name+": needs Ignition "+specs[needs].short()+", VM_IGNITION_VERSION is "+specs[target].short())
}

// withVersion writes another version into a config.
func withVersion(raw []byte, version string) ([]byte, error) {
	var top map[string]json.RawMessage
	if err := json.Unmarshal(raw, &top); err != nil {
		return nil, err
	}
	var ign map[string]json.RawMessage
	if err := json.Unmarshal(top["ignition"], &ign); err != nil {
		return nil, err
	}
	ign["version"] = json.RawMessage(strconv.Quote(version))
	b, err := json.Marshal(ign)
	if err != nil {
		return nil, err
	}
	top["ignition"] = b
	return json.Marshal(top)
}

// differences names the fields in which two configs differ, the version aside.
func differences(a, b []byte) []string {
	var names []string
	for _, p := range differencePaths(a, b) {
		names = append(names, jsonPath(p))
	}
	return names
}

func differencePaths(a, b []byte) []path.ContextPath {
	var x, y any
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return []path.ContextPath{path.New("json")}
	}
	var found []path.ContextPath
	compare(path.New("json"), x, y, &found)
	return found
}

func compare(at path.ContextPath, x, y any, found *[]path.ContextPath) {
	// An object that one of them does not have is told by its fields.
	if _, ok := x.(map[string]any); ok && y == nil {
		y = map[string]any{}
	}
	if _, ok := y.(map[string]any); ok && x == nil {
		x = map[string]any{}
	}
	switch x := x.(type) {
	case map[string]any:
		y, ok := y.(map[string]any)
		if !ok {
			break
		}
		keys := maps.Clone(x)
		maps.Copy(keys, y)
		for _, k := range slices.Sorted(maps.Keys(keys)) {
			here := at.Append(k)
			if jsonPath(here) != "ignition.version" {
				compare(here, x[k], y[k], found)
			}
		}
		return
	case []any:
		y, ok := y.([]any)
		if !ok || len(x) != len(y) {
			break
		}
		for i := range x {
			compare(at.Append(i), x[i], y[i], found)
		}
		return
	}
	if !reflect.DeepEqual(x, y) {
		*found = append(*found, at.Copy())
	}
}
