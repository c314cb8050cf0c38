package provision

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/coreos/ignition/config/v2_3"
	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files")

const (
	testKey  = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIHRlc3RrZXl0ZXN0a2V5dGVzdGtleXRlc3RrZXl0ZXN0 test@example"
	examples = "../../docs/examples"
)

// extras are what every golden test merges in.
func extras(in Input) Input {
	in.SSHAuthorizedKeys, in.SSHUser = []string{testKey}, "core"
	in.HostName, in.InstanceID = "vm-1", "i-1"
	return in
}

func source(variable, text string) *Source {
	return &Source{Name: "/userdata/config", Variable: variable, Data: []byte(text)}
}

func example(t *testing.T, variable, name string) *Source {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(examples, name))
	if err != nil {
		t.Fatal(err)
	}
	return &Source{Name: name, Variable: variable, Data: b, FilesDir: examples}
}

// exampleKinds says how each file of docs/examples is given.
var exampleKinds = map[string]string{
	"butane-fcos.yaml": "CONFIG_FILE", "butane-flatcar.yaml": "CONFIG_FILE", "container-linux-config.yaml": "CONFIG_FILE",
	"ignition-2.json": "IGNITION_CONFIG_FILE", "ignition-3.json": "IGNITION_CONFIG_FILE",
	"cloud-config.yaml": "CLOUD_CONFIG_FILE", "script.sh": "CLOUD_CONFIG_FILE", "multipart.mime": "CLOUD_CONFIG_FILE",
}

func exampleInput(t *testing.T, name string) Input {
	var in Input
	switch s := example(t, exampleKinds[name], name); s.Variable {
	case "CONFIG_FILE":
		in.Config = s
	case "IGNITION_CONFIG_FILE":
		in.Ignition = s
	default:
		in.Cloud = s
	}
	return in
}

func TestExamples(t *testing.T) {
	for name := range exampleKinds {
		for _, version := range []string{"auto", "2.3", "3.0", "3.6"} {
			in := extras(exampleInput(t, name))
			in.IgnitionVersion = version
			if in.Cloud != nil && version != "auto" {
				continue
			}
			t.Run(name+"/"+version, func(t *testing.T) { goldenTest(t, name+"."+version, in) })
		}
		in := extras(exampleInput(t, name))
		if in.Cloud != nil {
			in.SeedFormat = ConfigDrive
			t.Run(name+"/configdrive", func(t *testing.T) { goldenTest(t, name+".configdrive", in) })
		}
	}
}

func TestNoSources(t *testing.T) {
	goldenTest(t, "none", extras(Input{}))
	for _, tc := range []struct {
		name           string
		in             Input
		ignition, seed bool
	}{
		{"keys and host name alone make both", extras(Input{}), true, true},
		{"ignition off", extras(Input{IgnitionOff: true}), false, true},
		{"cloud off", extras(Input{CloudOff: true}), true, false},
		{"nothing at all", Input{}, false, false},
		{"an ignition source alone makes no seed", extras(Input{Ignition: source("", `{"ignition":{"version":"3.0.0"}}`)}), true, false},
		{"a cloud source alone makes no ignition", extras(Input{Cloud: source("", "#!/bin/sh\n")}), false, true},
		{"off is for what is made up", extras(Input{CloudOff: true, Cloud: source("", "#!/bin/sh\n")}), false, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res := translate(t, tc.in)
			if got := res.Ignition != nil; got != tc.ignition {
				t.Errorf("Ignition: %v, want %v", got, tc.ignition)
			}
			if got := res.Seed != nil; got != tc.seed {
				t.Errorf("Seed: %v, want %v", got, tc.seed)
			}
		})
	}
	if res := translate(t, extras(Input{})); res.Ignition.Version != "3.0.0" {
		t.Errorf("without a source the version is %s, want the lowest, 3.0.0", res.Ignition.Version)
	}
}

func TestBothKinds(t *testing.T) {
	in := extras(Input{Config: example(t, "", "butane-fcos.yaml"), Cloud: example(t, "", "script.sh")})
	res := translate(t, in)
	if res.Ignition == nil || res.Seed == nil {
		t.Fatal("one of the two is missing")
	}
	want := []Message{{Severity: Info, Text: "an Ignition config and cloud-init data are both given: SSH keys and host name go into both, and the guest uses the one it reads"}}
	if d := cmp.Diff(want, res.Messages); d != "" {
		t.Error(d)
	}
}

func translate(t *testing.T, in Input) Result {
	t.Helper()
	res, err := Translate(in)
	if err != nil {
		t.Fatalf("Translate: %v", err)
	}
	if res.Ignition != nil {
		checkIgnition(t, res.Ignition)
	}
	return res
}

// checkIgnition asks ignition itself, as the guest will.
func checkIgnition(t *testing.T, ign *Ignition) {
	t.Helper()
	for _, config := range [][]byte{ign.JSON, ign.FWCfg} {
		if ign.Version == "2.3.0" {
			if _, rep, err := v2_3.Parse(config); err != nil {
				t.Errorf("ignition 2.3 refuses the result: %v\n%s", err, rep)
			}
			continue
		}
		_, rep, err := specs[specIndex(ign.Version)].strict(config)
		if err != nil {
			t.Errorf("ignition %s refuses the result: %v\n%s", ign.Version, err, rep)
		}
		for _, e := range rep.Entries {
			if isUnusedKey(e) {
				t.Errorf("ignition %s: %s", ign.Version, e)
			}
		}
	}
}

func goldenTest(t *testing.T, name string, in Input) {
	t.Helper()
	res := translate(t, in)
	var b bytes.Buffer
	for _, m := range res.Messages {
		fmt.Fprintf(&b, "-- %s: %s\n", m.Severity, m)
	}
	if res.Ignition != nil {
		fmt.Fprintf(&b, "-- ignition %s\n%s", res.Ignition.Version, res.Ignition.JSON)
	}
	if res.Seed != nil {
		for _, f := range res.Seed.Files {
			fmt.Fprintf(&b, "-- %s: %s\n%s", res.Seed.Label, f.Path, f.Data)
		}
	}
	file := filepath.Join("testdata", name+".golden")
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Errorf("%s (-want +got, -update writes it):\n%s", file, d)
	}
}

// mistakes gives the mistakes as they are printed.
func mistakes(t *testing.T, in Input) []string {
	t.Helper()
	_, err := Translate(in)
	var e *Error
	if err == nil {
		return nil
	} else if !errors.As(err, &e) {
		t.Fatalf("an error that is no *Error: %v", err)
	}
	return strings.Split(e.Error(), "\n")
}

func texts(messages []Message) []string {
	var list []string
	for _, m := range messages {
		list = append(list, m.Severity.String()+" "+m.String())
	}
	return list
}

func contains(list []string, part string) bool {
	return slices.ContainsFunc(list, func(s string) bool { return strings.Contains(s, part) })
}

// get follows a path such as "storage.files.0.path" in JSON.
func get(t *testing.T, raw []byte, path string) any {
	t.Helper()
	var v any
	if err := json.Unmarshal(raw, &v); err != nil {
		t.Fatal(err)
	}
	for key := range strings.SplitSeq(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[key]
		case []any:
			i := 0
			if _, err := fmt.Sscan(key, &i); err != nil || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}
