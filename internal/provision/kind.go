package provision

import (
	"bytes"
	"encoding/json"
	"strings"

	"github.com/coreos/go-semver/semver"
	"go.yaml.in/yaml/v3"
)

// configKind is what a source in CONFIG_FILE turned out to be.
type configKind int

const (
	unknownConfig configKind = iota
	butaneConfig
	containerLinuxConfig
)

// The top-level keys of a Container Linux Config.
var clcKeys = map[string]bool{
	"ignition": true, "storage": true, "systemd": true, "networkd": true, "passwd": true, "etcd": true, "flannel": true,
	"update": true, "docker": true, "locksmith": true,
}

// Top-level keys that are common in cloud-config and have no meaning in the others.
var cloudKeys = []string{
	"users", "write_files", "runcmd", "bootcmd", "packages", "ssh_authorized_keys", "hostname", "chpasswd", "ssh_pwauth",
	"package_update", "coreos",
}

// configKindOf tells Butane from Container Linux Config, and says where anything else belongs.
func configKindOf(r *sourceReporter) configKind {
	data := r.source.Data
	if k := cloudKindOf(data); k != noCloud {
		r.mistake("this is cloud-init user data (%s): it belongs in CLOUD_CONFIG_FILE", k)
		return unknownConfig
	}
	if isIgnitionJSON(data) {
		r.mistake("this is an Ignition config in JSON: it belongs in IGNITION_CONFIG_FILE")
		return unknownConfig
	}
	top, ok := topLevel(r, "a Butane or Container Linux Config")
	if !ok {
		return unknownConfig
	}

	if _, ok := top["variant"]; ok {
		return butaneConfig
	}
	for key := range top {
		if clcKeys[key] {
			return clcOrMistake(r, top)
		}
	}
	for _, key := range cloudKeys {
		if _, ok := top[key]; ok {
			r.mistake("`variant` is missing, and the key %s is one of cloud-config: if it is one, its first line is "+
				"#cloud-config and it belongs in CLOUD_CONFIG_FILE", key)
			return unknownConfig
		}
	}
	if top["apiVersion"] != "" && top["kind"] != "" {
		r.mistake("this is a Kubernetes object, not a Butane or Container Linux Config")
		return unknownConfig
	}
	return clcOrMistake(r, top)
}

// clcOrMistake: a Container Linux Config has no version, or the number 0; Butane's is a semantic version.
func clcOrMistake(r *sourceReporter, top map[string]string) configKind {
	if _, err := semver.NewVersion(top["version"]); err == nil {
		r.mistake("`variant` is missing: a Butane config with this `version` needs `variant: fcos` or `variant: flatcar` " +
			"(or r4e, fiot, openshift) beside it")
		return unknownConfig
	}
	return containerLinuxConfig
}

// topLevel reads the keys of the outermost mapping, with the values that are scalars.
func topLevel(r *sourceReporter, what string) (map[string]string, bool) {
	var doc yaml.Node
	if err := yaml.Unmarshal(r.source.Data, &doc); err != nil {
		r.yamlError(Mistake, err.Error())
		return nil, false
	}
	if len(doc.Content) == 0 {
		r.mistake("there is nothing in it; %s was expected", what)
		return nil, false
	}
	root := doc.Content[0]
	if root.Kind != yaml.MappingNode {
		r.report(Mistake, root.Line, root.Column, what+" begins with a mapping (`key: value`)")
		return nil, false
	}
	top := map[string]string{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		top[root.Content[i].Value] = root.Content[i+1].Value
	}
	return top, true
}

// isIgnitionJSON looks for what every Ignition config has.
func isIgnitionJSON(data []byte) bool {
	if !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) {
		return false
	}
	var stub map[string]json.RawMessage
	if json.Unmarshal(data, &stub) != nil {
		return false
	}
	for key := range stub {
		if strings.EqualFold(key, "ignition") || strings.EqualFold(key, "ignitionVersion") {
			return true
		}
	}
	return false
}
