package provision

import (
	"encoding/json"
	"strings"

	compact "github.com/clarketm/json"
	"github.com/coreos/ign-converter/translate/v32tov24"
	"github.com/coreos/ignition/config/v2_4/types"
	v32types "github.com/coreos/ignition/v2/config/v3_2/types"
)

// downToSpec2 merges as spec 3 and takes the result down: to 3.2 as every lower version, to 2.4 by ign-converter. It
// leaves some things out in silence, so the result is translated up again and compared.
func downToSpec2(in Input, sources []*ignitionSource, r *reporter, general *sourceReporter) types.Config {
	merged, ok := mergeSpec3(in, sources, spec32, r)
	if !ok {
		general.failed = true
		return types.Config{}
	}
	var out types.Config
	general.guard("the merged config", func() {
		cfg, err := parse32(merged.json)
		if err != nil {
			general.mistake("cannot read the merged config: %v", err)
			return
		}
		out, err = v32tov24.Translate(cfg)
		if err != nil {
			general.converterError("2.3", err)
			return
		}
		general.compareUp(cfg, out)
	})
	return out
}

// parse32 also fills in what ign-converter takes for granted.
func parse32(raw []byte) (v32types.Config, error) {
	var cfg v32types.Config
	if err := json.Unmarshal(raw, &cfg); err != nil {
		return cfg, err
	}
	no := false
	for i := range cfg.Storage.Disks {
		for j := range cfg.Storage.Disks[i].Partitions {
			if p := &cfg.Storage.Disks[i].Partitions[j]; p.WipePartitionEntry == nil {
				p.WipePartitionEntry = &no
			}
		}
	}
	return cfg, nil
}

// compareUp names what a config of 2.4 does not say any more.
func (r *sourceReporter) compareUp(want v32types.Config, low types.Config) {
	fsMap := map[string]string{}
	for _, fs := range low.Storage.Filesystems {
		if strings.HasPrefix(fs.Name, "/") {
			fsMap[fs.Name] = fs.Name
		} else {
			fsMap[fs.Name] = "" // ign-converter's numbers for those that are not mounted
		}
	}
	again := (&ignitionSource{sourceReporter: &sourceReporter{reporter: &reporter{}, source: r.source}})
	up, ok := again.convert(low, fsMap)
	if !ok {
		r.mistake("cannot be brought to Ignition 2.3: what it became there cannot be read back")
		return
	}
	a, errA := compact.Marshal(want)
	b, errB := compact.Marshal(up)
	if errA != nil || errB != nil {
		r.mistake("cannot write the config")
		return
	}
	for _, p := range differences(withoutZeros(a), withoutZeros(b)) {
		r.mistake("%s: Ignition 2.3 has no such thing, VM_IGNITION_VERSION is 2.3", p)
	}
}

// withoutZeros takes false, 0 and "" for absent: the two specs differ in which of them they write.
func withoutZeros(raw []byte) []byte {
	var v any
	if json.Unmarshal(raw, &v) != nil {
		return raw
	}
	b, err := json.Marshal(prune(dropZeros(v)))
	if err != nil {
		return raw
	}
	return b
}

func dropZeros(v any) any {
	switch v := v.(type) {
	case map[string]any:
		for k, x := range v {
			v[k] = dropZeros(x)
		}
	case []any:
		for i := range v {
			v[i] = dropZeros(v[i])
		}
	case bool:
		if !v {
			return nil
		}
	case float64:
		if v == 0 {
			return nil
		}
	case string:
		if v == "" {
			return nil
		}
	}
	return v
}
