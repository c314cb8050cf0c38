package provision

import (
	"encoding/base64"
	"encoding/json"
	"slices"

	compact "github.com/clarketm/json"
	"github.com/vincent-petithory/dataurl"
)

// hostNameFile is what a guest's host name is set by: hostname(5).
const hostNameFile = "/etc/hostname"

// mergeAll merges keys, host name and mounts, then the sources in order, by ignition's own merge: the later wins.
//
// A source with ignition.config.replace would, at run time, throw away all that it was merged with. It is then referenced
// from a config of ours instead (ignition.config.merge with a data URL): ignition resolves the replacement inside that
// reference and merges the outcome.
func mergeAll(in Input, sources []*ignitionSource, version int, r *sourceReporter) spec3Config {
	texts := make([][]byte, len(sources))
	for i, s := range sources {
		texts[i] = raise(spec3Config{s.json, s.spec}, version, s.sourceReporter).json
	}

	extras := extrasConfig{keys: in.SSHAuthorizedKeys, user: in.SSHUser, hostName: in.HostName, units: mountUnits(in.Mounts)}
	if slices.ContainsFunc(texts, setsHostName) {
		extras.hostName = ""
	}
	replaces := slices.ContainsFunc(texts, replacesItself)
	if replaces && (len(texts) > 1 || !extras.empty()) {
		extras.merge, texts = texts, nil
		r.info("ignition.config.replace would take the rest of the configuration away: the sources are handed over " +
			"as ignition.config.merge, each as a data URL")
	}
	if extras.empty() && len(texts) == 1 {
		return spec3Config{texts[0], version}
	}

	merged, _, err := specs[version].strict(extras.spec3(specs[version].version))
	if err != nil {
		r.mistake("cannot merge %s: %v", describeExtras(in), err)
		return spec3Config{}
	}
	for _, text := range texts {
		cfg, _, err := specs[version].strict(text)
		if err != nil {
			r.mistake("cannot merge: %v", err)
			return spec3Config{}
		}
		merged = specs[version].merge(merged, cfg)
	}
	out, err := compact.Marshal(merged)
	if err != nil {
		r.mistake("cannot write the merged config: %v", err)
	}
	// What is valid alone need not be so together.
	_, rep, err := specs[version].strict(out)
	if err != nil {
		r.vcontext(withoutMarkers(rep))
		if !r.failed {
			r.mistake("cannot merge: %v", err)
		}
	}
	return spec3Config{out, version}
}

// extrasConfig is the config that vmentry adds of its own.
type extrasConfig struct {
	keys     []string
	user     string
	hostName string
	units    []mountUnit
	// merge are configs to reference.
	merge [][]byte
}

func (e extrasConfig) empty() bool {
	return len(e.keys) == 0 && e.hostName == "" && len(e.units) == 0 && len(e.merge) == 0
}

// spec3 uses nothing that spec 3.0 does not have.
func (e extrasConfig) spec3(version string) []byte {
	type object = map[string]any
	ign := object{"version": version}
	top := object{"ignition": ign}
	if len(e.keys) > 0 {
		top["passwd"] = object{"users": []any{object{"name": e.user, "sshAuthorizedKeys": unique(e.keys)}}}
	}
	if e.hostName != "" {
		top["storage"] = object{"files": []any{object{
			"path": hostNameFile, "mode": 0o644, "overwrite": true,
			"contents": object{"source": hostNameURL(e.hostName)},
		}}}
	}
	if len(e.units) > 0 {
		var units []any
		for _, u := range e.units {
			units = append(units, object{"name": u.name, "enabled": true, "contents": u.contents})
		}
		top["systemd"] = object{"units": units}
	}
	if len(e.merge) > 0 {
		var refs []any
		for _, m := range e.merge {
			refs = append(refs, object{"source": dataURL(m)})
		}
		ign["config"] = object{"merge": refs}
	}
	b, err := json.Marshal(top)
	if err != nil {
		panic(err) // strings and numbers always marshal
	}
	return b
}

func dataURL(b []byte) string { return "data:;base64," + base64.StdEncoding.EncodeToString(b) }

func hostNameURL(name string) string { return "data:," + dataurl.EscapeString(name+"\n") }

// unique drops repetitions: ignition refuses a key that is there twice.
func unique(keys []string) []string {
	var out []string
	for _, k := range keys {
		if !slices.Contains(out, k) {
			out = append(out, k)
		}
	}
	return out
}

// stub3 is what has to be known of a config of any version of spec 3.
type stub3 struct {
	Ignition struct {
		Config struct {
			Replace struct {
				Source *string `json:"source"`
			} `json:"replace"`
		} `json:"config"`
	} `json:"ignition"`
	Storage struct {
		Files, Directories, Links []struct {
			Path string `json:"path"`
		}
	} `json:"storage"`
}

func setsHostName(config []byte) bool {
	var s stub3
	if json.Unmarshal(config, &s) != nil {
		return false
	}
	for _, nodes := range [][]struct {
		Path string `json:"path"`
	}{s.Storage.Files, s.Storage.Directories, s.Storage.Links} {
		for _, n := range nodes {
			if n.Path == hostNameFile {
				return true
			}
		}
	}
	return false
}

func replacesItself(config []byte) bool {
	var s stub3
	return json.Unmarshal(config, &s) == nil && s.Ignition.Config.Replace.Source != nil
}
