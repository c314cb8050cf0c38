package provision

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	// butane and ign-converter write Ignition with it too: it leaves empty structs out.
	compact "github.com/clarketm/json"
	"github.com/coreos/ignition/v2/config/v3_0"
	"github.com/coreos/ignition/v2/config/v3_1"
	"github.com/coreos/ignition/v2/config/v3_2"
	"github.com/coreos/ignition/v2/config/v3_3"
	"github.com/coreos/ignition/v2/config/v3_4"
	"github.com/coreos/ignition/v2/config/v3_5"
	"github.com/coreos/ignition/v2/config/v3_6"
	"github.com/coreos/ignition/v2/config/v3_7_experimental"
	"github.com/coreos/vcontext/report"
)

// spec is one version of Ignition's spec 3, as ignition's own package for it reads, checks and merges it.
type spec struct {
	version string
	// strict takes this version only; raise takes it and every lower one of spec 3, and translates.
	strict, raise func([]byte) (any, report.Report, error)
	merge         func(parent, child any) any
}

func newSpecVersion[C any](version string, strict, raise func([]byte) (C, report.Report, error), merge func(C, C) C) spec {
	untyped := func(f func([]byte) (C, report.Report, error)) func([]byte) (any, report.Report, error) {
		return func(b []byte) (any, report.Report, error) { return f(b) }
	}
	return spec{
		version: version, strict: untyped(strict), raise: untyped(raise),
		merge: func(parent, child any) any { return merge(parent.(C), child.(C)) },
	}
}

// specs in order; the index is what "higher" means.
var specs = []spec{
	newSpecVersion("3.0.0", v3_0.Parse, v3_0.ParseCompatibleVersion, v3_0.Merge),
	newSpecVersion("3.1.0", v3_1.Parse, v3_1.ParseCompatibleVersion, v3_1.Merge),
	newSpecVersion("3.2.0", v3_2.Parse, v3_2.ParseCompatibleVersion, v3_2.Merge),
	newSpecVersion("3.3.0", v3_3.Parse, v3_3.ParseCompatibleVersion, v3_3.Merge),
	newSpecVersion("3.4.0", v3_4.Parse, v3_4.ParseCompatibleVersion, v3_4.Merge),
	newSpecVersion("3.5.0", v3_5.Parse, v3_5.ParseCompatibleVersion, v3_5.Merge),
	newSpecVersion("3.6.0", v3_6.Parse, v3_6.ParseCompatibleVersion, v3_6.Merge),
	newSpecVersion("3.7.0-experimental", v3_7_experimental.Parse, v3_7_experimental.ParseCompatibleVersion, v3_7_experimental.Merge),
}

// Indices into specs that rules speak of.
const (
	spec30 = 0
	spec31 = 1 // the lowest with compressed resources, and what ign-converter makes of spec 2
	spec32 = 2 // the highest that ign-converter takes down to spec 2
)

func (s spec) short() string      { return strings.TrimSuffix(s.version, ".0") }
func (s spec) experimental() bool { return strings.HasSuffix(s.version, "-experimental") }

func specIndex(version string) int {
	return slices.IndexFunc(specs, func(s spec) bool { return s.version == version })
}

// newSpec3 checks a config of spec 3 at its own version. written is the same bytes where the user wrote them, else nil.
func newSpec3(r *sourceReporter, raw, written []byte) *ignitionSource {
	var stub struct {
		Ignition struct {
			Version string `json:"version"`
		} `json:"ignition"`
	}
	if err := json.Unmarshal(raw, &stub); err != nil {
		r.mistake("cannot read the config's version: %s", jsonErrorText(err))
		return nil
	}
	index := specIndex(stub.Ignition.Version)
	if index < 0 {
		r.mistake("Ignition %s is not known; versions 2.0 to 2.4 and 3.0 to 3.6 are", stub.Ignition.Version)
		return nil
	}
	if specs[index].experimental() {
		r.warn("this is Ignition %s: the guest must have an Ignition that still knows this experimental version", specs[index].version)
	}

	s := &ignitionSource{sourceReporter: r, spec: index}
	r.guard("this Ignition config", func() {
		cfg, rep, err := specs[index].strict(raw)
		if written == nil {
			rep = withoutMarkers(rep)
		}
		r.vcontext(rep)
		if err != nil {
			if !r.failed {
				r.mistake("%v", err)
			}
			return
		}
		if s.json, err = compact.Marshal(cfg); err != nil {
			r.mistake("cannot write the config: %v", err)
		}
	})
	if r.failed {
		return nil
	}
	if written != nil {
		s.markers = markersOf(written)
	}
	return s
}

// withoutMarkers drops places in a text that the user never saw.
func withoutMarkers(rep report.Report) report.Report {
	for i := range rep.Entries {
		rep.Entries[i].Marker.StartP, rep.Entries[i].Marker.EndP = nil, nil
	}
	return rep
}

// makeSpec3 merges the sources at the highest version among them and brings the result to the target.
func makeSpec3(in Input, sources []*ignitionSource, target int, r *reporter) *Ignition {
	merged, ok := mergeSpec3(in, sources, target, r)
	if !ok {
		return nil
	}
	return handOver(merged, r)
}

// spec3Config is a config on its way through the versions.
type spec3Config struct {
	json []byte
	spec int
}

func mergeSpec3(in Input, sources []*ignitionSource, target int, r *reporter) (spec3Config, bool) {
	general := r.together(sources)
	highest := spec30
	failed := false
	for _, s := range sources {
		if s.spec2 != nil && !s.translateUp() {
			failed = true
			continue
		}
		highest = max(highest, s.spec)
	}
	if failed {
		return spec3Config{}, false
	}
	if target == autoTarget {
		target = highest
	}

	// Each source alone first, so that a field that the target does not have is found where the user wrote it.
	for _, s := range sources {
		if s.spec > target {
			if _, ok := s.lower(spec3Config{s.json, s.spec}, target); !ok {
				failed = true
			}
		}
	}
	if failed {
		return spec3Config{}, false
	}

	var merged spec3Config
	general.guard("the merged config", func() {
		merged = mergeAll(in, sources, highest, general)
		switch {
		case general.failed:
		case merged.spec > target:
			merged, _ = (&ignitionSource{sourceReporter: general}).lower(merged, target)
		case merged.spec < target:
			merged = raise(merged, target, general)
		}
	})
	return merged, !general.failed
}

// raise uses ignition's own translators. They drop what the lower version never did: the special mode bits.
func raise(c spec3Config, target int, r *sourceReporter) spec3Config {
	if c.spec == target {
		return c
	}
	cfg, _, err := specs[target].raise(c.json)
	if err != nil {
		r.mistake("cannot translate Ignition %s to %s: %v", specs[c.spec].short(), specs[target].short(), err)
		return c
	}
	out, err := compact.Marshal(cfg)
	if err != nil {
		r.mistake("cannot write the config: %v", err)
		return c
	}
	for _, p := range differences(c.json, out) {
		r.warn("%s is not the same in Ignition %s as in %s, and was changed so that it means what it meant", p,
			specs[target].short(), specs[c.spec].short())
	}
	return spec3Config{out, target}
}

func indented(compacted []byte) []byte {
	var b bytes.Buffer
	if json.Indent(&b, compacted, "", "  ") != nil {
		return compacted
	}
	b.WriteByte('\n')
	return b.Bytes()
}
