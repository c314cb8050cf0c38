package provision

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMistakes(t *testing.T) {
	const f = "/userdata/config"
	for _, tc := range []struct {
		name, variable, text string
		want                 []string
	}{
		{"cloud-config as Butane", "CONFIG_FILE", "#cloud-config\nusers: []\n",
			[]string{f + ": this is cloud-init user data (#cloud-config): it belongs in CLOUD_CONFIG_FILE"}},
		{"script as Butane", "CONFIG_FILE", "#!/bin/sh\n",
			[]string{f + ": this is cloud-init user data (#!): it belongs in CLOUD_CONFIG_FILE"}},
		{"Ignition as Butane", "CONFIG_FILE", `{"ignition":{"version":"3.0.0"}}`,
			[]string{f + ": this is an Ignition config in JSON: it belongs in IGNITION_CONFIG_FILE"}},
		{"Butane without a variant", "CONFIG_FILE", "version: 1.4.0\nstorage: {}\n",
			[]string{f + ": `variant` is missing: a Butane config with this `version` needs `variant: fcos` or `variant: flatcar` (or r4e, fiot, openshift) beside it"}},
		{"only a version", "CONFIG_FILE", "version: 1.4.0\n",
			[]string{f + ": `variant` is missing: a Butane config with this `version` needs `variant: fcos` or `variant: flatcar` (or r4e, fiot, openshift) beside it"}},
		{"cloud-config without its first line", "CONFIG_FILE", "runcmd: [ls]\n",
			[]string{f + ": `variant` is missing, and the key runcmd is one of cloud-config: if it is one, its first line is #cloud-config and it belongs in CLOUD_CONFIG_FILE"}},
		{"Kubernetes object", "CONFIG_FILE", "apiVersion: v1\nkind: ConfigMap\n",
			[]string{f + ": this is a Kubernetes object, not a Butane or Container Linux Config"}},
		{"empty", "CONFIG_FILE", "\n", []string{f + ": there is nothing in it; a Butane or Container Linux Config was expected"}},
		{"a list", "CONFIG_FILE", "- a\n", []string{f + ":1:1: a Butane or Container Linux Config begins with a mapping (`key: value`)"}},
		{"bad YAML", "CONFIG_FILE", "variant: fcos\nversion: [\n", []string{f + ":2: did not find expected node content"}},
		{"unknown variant version", "CONFIG_FILE", "variant: fcos\nversion: 9.9.9\n",
			[]string{f + ": No translator exists for variant fcos with version 9.9.9"}},
		{"Butane with places", "CONFIG_FILE", "variant: fcos\nversion: 1.4.0\nstorage:\n  files:\n    - path: not-absolute\n      mode: 99999\n",
			[]string{f + ":5:13: storage.files[0].path: path not absolute", f + ":6:13: storage.files[0].mode: illegal file mode"}},
		{"Butane local files without a directory", "CONFIG_FILE",
			"variant: fcos\nversion: 1.4.0\nstorage:\n  files:\n    - path: /a\n      contents:\n        local: x\n",
			[]string{f + ":7:16: storage.files[0].contents.local: local file paths are relative to a files directory that must be specified with -d/--files-dir"}},
		{"dynamic data", "CONFIG_FILE", "etcd:\n  listen_client_urls: http://{PRIVATE_IPV4}:2379\n",
			[]string{f + ": {PRIVATE_IPV4}, {PUBLIC_IPV4}, {HOSTNAME} and the like were filled in by a cloud's metadata service, which this guest does not have: write the value itself, or use systemd's specifiers and an EnvironmentFile in a drop-in"}},
		{"wrong type in Container Linux Config", "CONFIG_FILE", "passwd:\n  users:\n    - name: core\n      uid: hunter2hunter2\n",
			[]string{f + ":4: cannot unmarshal !!str value into int"}},

		{"Butane as Ignition", "IGNITION_CONFIG_FILE", "variant: fcos\nversion: 1.4.0\n",
			[]string{f + ": an Ignition config is JSON and begins with {: if this is YAML, as Butane and Container Linux Configs are, it belongs in CONFIG_FILE"}},
		{"cloud-config as Ignition", "IGNITION_CONFIG_FILE", "#cloud-config\n{}\n",
			[]string{f + ": this is cloud-init user data (#cloud-config): it belongs in CLOUD_CONFIG_FILE"}},
		{"empty Ignition", "IGNITION_CONFIG_FILE", " ", []string{f + ": there is nothing in it; an Ignition config in JSON was expected"}},
		{"cut off", "IGNITION_CONFIG_FILE", "{\"ignition\":\n{", []string{f + ":2:1: not valid JSON: unexpected end of JSON input"}},
		{"spec 1", "IGNITION_CONFIG_FILE", `{"ignitionVersion":1}`,
			[]string{f + ": this is an Ignition config of spec 1, from before 2016, which nothing translates; versions 2.0 to 2.4 and 3.0 to 3.6 are known"}},
		{"spec 4", "IGNITION_CONFIG_FILE", `{"ignition":{"version":"4.0.0"}}`, []string{f + ": Ignition 4.0.0 is not known; versions 2.0 to 2.4 and 3.0 to 3.6 are"}},
		{"3.99", "IGNITION_CONFIG_FILE", `{"ignition":{"version":"3.99.0"}}`, []string{f + ": Ignition 3.99.0 is not known; versions 2.0 to 2.4 and 3.0 to 3.6 are"}},
		{"no version", "IGNITION_CONFIG_FILE", `{"ignition":{}}`, []string{f + ": ignition.version is missing or is none; it is a string such as \"3.4.0\""}},
		{"Ignition 3 with places", "IGNITION_CONFIG_FILE", "{\n\"ignition\":{\"version\":\"3.4.0\"},\n\"storage\":{\"files\":[\n{\"path\":\"rel\"}]}}",
			[]string{f + ":4:9: storage.files[0].path: path not absolute"}},
		{"Ignition 2 with places", "IGNITION_CONFIG_FILE", "{\n\"ignition\":{\"version\":\"2.2.0\"},\n\"storage\":{\"files\":[\n{\"filesystem\":\"root\",\"path\":\"rel\"}]}}",
			[]string{f + ":4:33: path not absolute"}},

		{"no first line", "CLOUD_CONFIG_FILE", "users: []\n", []string{f + ": cloud-init would ignore this: it begins with none of " + legalFirstLines()}},
		{"Butane as cloud-config", "CLOUD_CONFIG_FILE", "variant: fcos\nversion: 1.4.0\n",
			[]string{f + ": cloud-init would ignore this: it begins with none of " + legalFirstLines() + ". It looks like a Butane config, which belongs in CONFIG_FILE"}},
		{"MIME without its version", "CLOUD_CONFIG_FILE", "Content-Type: multipart/mixed; boundary=x\n\n--x--\n",
			[]string{f + ": cloud-init would ignore this: it begins with none of " + legalFirstLines() + ". The header MIME-Version: 1.0 is missing"}},
		{"cloud-config that is a list", "CLOUD_CONFIG_FILE", "#cloud-config\n- a\n", []string{f + ":2:1: the top level of a cloud-config is a mapping (`key: value`)"}},
		{"cloud-config with bad YAML", "CLOUD_CONFIG_FILE", "#cloud-config\na: b\n  c: d\n", []string{f + ":3: mapping values are not allowed in this context"}},
		{"two documents", "CLOUD_CONFIG_FILE", "#cloud-config\na: b\n---\nc: d\n", []string{f + ":3:1: there is a second YAML document; cloud-init reads one"}},
		{"bad part", "CLOUD_CONFIG_FILE", "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/cloud-config\n\n#cloud-config\n- a\n--x--\n",
			[]string{f + ": part 1: line 2, column 1: the top level of a cloud-config is a mapping (`key: value`)"}},
		{"no boundary", "CLOUD_CONFIG_FILE", "MIME-Version: 1.0\nContent-Type: multipart/mixed\n\n", []string{f + ": the MIME message is multi-part and its Content-Type has no boundary"}},
		{"broken gzip", "CLOUD_CONFIG_FILE", "\x1f\x8bxx", []string{f + ": this begins as gzip does and cannot be unpacked: unexpected EOF"}},
		{"hidden mime-version", "CLOUD_CONFIG_FILE", "#cloud-config\nwrite_files:\n- content: |\n    MIME-Version: 1.0\n",
			[]string{f + ": cloud-init would take this for a MIME message, because the words MIME-Version: stand in its first 4096 bytes: move them further down"}},
		{"archive that is no list", "CLOUD_CONFIG_FILE", "#cloud-config-archive\na: b\n", []string{f + ": #cloud-config-archive is followed by a list of parts"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := extras(inputFor(tc.variable, tc.text))
			if d := cmp.Diff(tc.want, mistakes(t, in)); d != "" {
				t.Errorf("-want +got:\n%s", d)
			}
		})
	}
}

func inputFor(variable, text string) Input {
	s := source(variable, text)
	switch variable {
	case "CONFIG_FILE":
		return Input{Config: s}
	case "IGNITION_CONFIG_FILE":
		return Input{Ignition: s}
	}
	return Input{Cloud: s}
}

func TestAllMistakesAtOnce(t *testing.T) {
	got := mistakes(t, Input{
		Config:          source("CONFIG_FILE", "- a\n"),
		Ignition:        source("IGNITION_CONFIG_FILE", "{"),
		Cloud:           source("CLOUD_CONFIG_FILE", "users: []\n"),
		IgnitionVersion: "3.9",
	})
	if len(got) != 4 {
		t.Errorf("%d mistakes, want 4:\n%s", len(got), strings.Join(got, "\n"))
	}
	if want := `VM_IGNITION_VERSION is "3.9"; it can be ` + legalVersions; got[0] != want {
		t.Errorf("got %q, want %q", got[0], want)
	}
}

// No message may show a secret, whatever is wrong around it.
func TestSecretsStayOut(t *testing.T) {
	const secret = "hunter2-hunter2"
	for _, tc := range []struct{ variable, text string }{
		{"CONFIG_FILE", "variant: fcos\nversion: 1.4.0\npasswd:\n  users:\n    - name: core\n      uid: " + secret + "\n"},
		{"CONFIG_FILE", "variant: fcos\nversion: 1.4.0\npasswd: " + secret + "\n"},
		{"CONFIG_FILE", "variant: fcos\nversion: 1.4.0\nstorage:\n  files:\n    - path: /a\n      contents:\n        source: \"ht%tp://" + secret + "\"\n"},
		{"CONFIG_FILE", "variant: fcos\nversion: 1.4.0\nstorage:\n  files:\n    - path: /a\n      contents:\n        source: \"foo://" + secret + "\"\n"},
		{"CONFIG_FILE", "passwd:\n  users:\n    - name: core\n      uid: " + secret + "\n"},
		{"CONFIG_FILE", "systemd:\n  units:\n    - name: a.service\n      contents: \"[" + secret + "\"\n"},
		{"CONFIG_FILE", "update:\n  group: stable\n  server: \"%zz" + secret + "\"\n"},
		{"CONFIG_FILE", "ignition:\n  config:\n    append:\n      - source: \"%zz" + secret + "\"\n"},
		{"CONFIG_FILE", "variant: fcos\nversion: 1.4.0\n? {" + secret + ": 1}\n: 2\n"},
		{"CONFIG_FILE", "variant: [" + secret + "\n"},
		{"CONFIG_FILE", "variant: *" + secret + "\n"},
		{"IGNITION_CONFIG_FILE", `{"ignition":{"version":"3.4.0"},"passwd":{"users":[{"name":"a","passwordHash":["` + secret + `"]}]}}`},
		{"IGNITION_CONFIG_FILE", `{"ignition":{"version":"3.4.0","config":{"replace":{"source":"ht%tp://` + secret + `"}}}}`},
		{"IGNITION_CONFIG_FILE", `{"ignition":{"version":"2.3.0","config":{"replace":{"source":"ht%tp://` + secret + `"}}}}`},
		{"IGNITION_CONFIG_FILE", `{"ignition":{"version":"2.3.0"},"passwd":{"users":[{"name":"a","passwordHash":["` + secret + `"]}]}}`},
		{"IGNITION_CONFIG_FILE", `{"ignition":{"version":"3.4.0"},"storage":{"files":[{"path":"/a","contents":{"verification":{"hash":"` + secret + `"}}}]}}`},
		{"CLOUD_CONFIG_FILE", "#cloud-config\npassword: " + secret + "\n  x: y\n"},
		{"CLOUD_CONFIG_FILE", "#cloud-config\npassword: *" + secret + "\n"},
	} {
		_, err := Translate(extras(inputFor(tc.variable, tc.text)))
		e, ok := err.(*Error)
		if !ok {
			t.Errorf("no mistake in %q", tc.text)
			continue
		}
		for _, m := range e.Messages {
			if strings.Contains(m.String(), "hunter2") {
				t.Errorf("the secret is in %q", m)
			}
		}
	}
}
