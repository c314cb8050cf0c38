package provision

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"

	"github.com/coreos/go-semver/semver"
	v2types "github.com/coreos/ignition/config/v2_4/types"
)

// The versions that Input.IgnitionVersion may name, beside "auto".
const legalVersions = "auto, 2.3, 3.0, 3.1, 3.2, 3.3, 3.4, 3.5, 3.6"

// ignitionSource is one source as Ignition, of one of the two families of the spec.
type ignitionSource struct {
	*sourceReporter
	// spec2 is the config of a source of spec 2 or of a Container Linux Config; nil for spec 3.
	spec2 *v2types.Config
	// For spec 3: the canonical JSON, its version, and places in what the user wrote.
	json    []byte
	spec    int
	markers markers
}

// makeIgnition is the whole way from the sources to what fw_cfg holds.
func makeIgnition(in Input, r *reporter) *Ignition {
	target, ok := parseTarget(in.IgnitionVersion)
	if !ok {
		r.general().mistake("VM_IGNITION_VERSION is %q; it can be %s", in.IgnitionVersion, legalVersions)
	}

	var sources []*ignitionSource
	failed := !ok
	// The base first: what comes later wins.
	if in.Ignition != nil {
		s := fromIgnition(r.on(in.Ignition))
		sources, failed = append(sources, s), failed || s == nil
	}
	if in.Config != nil {
		s := fromConfig(r.on(in.Config))
		sources, failed = append(sources, s), failed || s == nil
	}
	if failed {
		return nil
	}

	if target == spec2Target {
		return makeSpec2(in, sources, r)
	}
	return makeSpec3(in, sources, target, r)
}

// Values of parseTarget that are no index into specs.
const (
	autoTarget  = -1
	spec2Target = -2
)

func parseTarget(v string) (int, bool) {
	switch v {
	case "", "auto":
		return autoTarget, true
	case "2.3", "2.3.0":
		return spec2Target, true
	}
	for i, s := range specs {
		if !s.experimental() && (v == s.short() || v == s.version) {
			return i, true
		}
	}
	return 0, false
}

func fromConfig(r *sourceReporter) *ignitionSource {
	switch configKindOf(r) {
	case butaneConfig:
		return fromButane(r)
	case containerLinuxConfig:
		return fromContainerLinux(r)
	}
	return nil
}

// fromIgnition reads an Ignition config that the user wrote, with ignition's own parser and checks.
func fromIgnition(r *sourceReporter) *ignitionSource {
	data := r.source.Data
	if k := cloudKindOf(data); k != noCloud {
		r.mistake("this is cloud-init user data (%s): it belongs in CLOUD_CONFIG_FILE", k)
		return nil
	}
	if len(bytes.TrimSpace(data)) == 0 {
		r.mistake("there is nothing in it; an Ignition config in JSON was expected")
		return nil
	}
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		r.mistake("an Ignition config is JSON and begins with {: if this is YAML, as Butane and Container Linux Configs " +
			"are, it belongs in CONFIG_FILE")
		return nil
	}

	version, ok := ignitionVersion(r)
	if !ok {
		return nil
	}
	switch version.Major {
	case 2:
		return fromSpec2JSON(r)
	case 3:
		return newSpec3(r, data, data)
	}
	r.mistake("Ignition %s is not known; versions 2.0 to 2.4 and 3.0 to 3.6 are", version)
	return nil
}

func ignitionVersion(r *sourceReporter) (semver.Version, bool) {
	var stub struct {
		Ignition struct {
			Version any `json:"version"`
		} `json:"ignition"`
		IgnitionVersion any `json:"ignitionVersion"`
	}
	if err := json.Unmarshal(r.source.Data, &stub); err != nil {
		line, column := jsonErrorPosition(r.source.Data, err)
		r.report(Mistake, line, column, jsonErrorText(err))
		return semver.Version{}, false
	}
	if stub.IgnitionVersion != nil {
		r.mistake("this is an Ignition config of spec 1, from before 2016, which nothing translates; versions 2.0 to 2.4 " +
			"and 3.0 to 3.6 are known")
		return semver.Version{}, false
	}
	s, _ := stub.Ignition.Version.(string)
	v, err := semver.NewVersion(s)
	if err != nil {
		r.mistake("ignition.version is missing or is none; it is a string such as \"3.4.0\"")
		return semver.Version{}, false
	}
	return *v, true
}

// jsonErrorPosition turns the offset that encoding/json gives into a place.
func jsonErrorPosition(data []byte, err error) (line, column int) {
	var offset int64
	var syntax *json.SyntaxError
	var mismatch *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		offset = syntax.Offset
	case errors.As(err, &mismatch):
		offset = mismatch.Offset
	default:
		return 0, 0
	}
	before := data[:min(max(offset, 0), int64(len(data)))]
	line = 1 + bytes.Count(before, []byte("\n"))
	column = len(before) - (bytes.LastIndexByte(before, '\n') + 1)
	return line, max(column, 1)
}

// jsonErrorText drops the names of Go types, which say nothing to a user.
func jsonErrorText(err error) string {
	var mismatch *json.UnmarshalTypeError
	if errors.As(err, &mismatch) {
		kind, _, _ := strings.Cut(mismatch.Value, " ") // "number 12" holds the value
		return mismatch.Field + ": a " + kind + " cannot stand here"
	}
	return "not valid JSON: " + strings.TrimPrefix(err.Error(), "json: ")
}
