package provision

import (
	"encoding/base64"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMergeKeys(t *testing.T) {
	config := `{"ignition":{"version":"VERSION"},"passwd":{"users":[{"name":"core","sshAuthorizedKeys":["own","` + testKey + `"]},{"name":"other"}]}}`
	for _, version := range []string{"2.3.0", "3.4.0"} {
		for _, out := range []string{"auto", "2.3"} {
			in := extras(Input{Ignition: source("", strings.Replace(config, "VERSION", version, 1)), IgnitionVersion: out})
			in.SSHAuthorizedKeys = append(in.SSHAuthorizedKeys, testKey, "second")
			res := translate(t, in)
			want := []any{testKey, "second", "own"}
			if d := cmp.Diff(want, get(t, res.Ignition.JSON, "passwd.users.0.sshAuthorizedKeys")); d != "" {
				t.Errorf("%s to %s: %s", version, out, d)
			}
			if get(t, res.Ignition.JSON, "passwd.users.2") != nil {
				t.Errorf("%s to %s: a user is there twice", version, out)
			}
		}
	}
}

func TestHostNameIsTheUsersOwn(t *testing.T) {
	for _, tc := range []struct {
		name, storage string
		ours          bool
	}{
		{"nothing", `{}`, true},
		{"another file", `{"files":[{"filesystem":"root","path":"/etc/hosts","contents":{"source":"data:,"}}]}`, true},
		{"file", `{"files":[{"filesystem":"root","path":"/etc/hostname","contents":{"source":"data:,own"}}]}`, false},
		{"link", `{"links":[{"filesystem":"root","path":"/etc/hostname","target":"/x"}]}`, false},
		{"directory", `{"directories":[{"filesystem":"root","path":"/etc/hostname"}]}`, false},
	} {
		for _, version := range []string{"2.3.0", "3.0.0"} {
			for _, out := range []string{"auto", "2.3"} {
				storage := tc.storage
				if version == "3.0.0" {
					storage = strings.ReplaceAll(storage, `"filesystem":"root",`, "")
				}
				in := extras(Input{Ignition: source("", `{"ignition":{"version":"`+version+`"},"storage":`+storage+`}`), IgnitionVersion: out})
				got := strings.Contains(string(translate(t, in).Ignition.JSON), "data:,vm-1%0A")
				if got != tc.ours {
					t.Errorf("%s, %s to %s: our host name is there: %v", tc.name, version, out, got)
				}
			}
		}
	}
}

func TestConfigWinsOverIgnition(t *testing.T) {
	res := translate(t, Input{
		Ignition: source("", `{"ignition":{"version":"3.1.0"},"storage":{"files":[{"path":"/a","contents":{"source":"data:,base"}},{"path":"/b","contents":{"source":"data:,base"}}]}}`),
		Config:   source("", "variant: fcos\nversion: 1.4.0\nstorage:\n  files:\n    - path: /a\n      contents:\n        inline: over\n"),
	})
	for i, want := range []string{"data:,over", "data:,base"} {
		if got := get(t, res.Ignition.JSON, "storage.files."+string(rune('0'+i))+".contents.source"); got != want {
			t.Errorf("file %d: %v, want %s", i, got, want)
		}
	}
}

// A config that replaces itself stays whole inside a reference, where it cannot take keys and host name away.
func TestReplaceIsKeptApart(t *testing.T) {
	for _, tc := range []struct{ version, out, list string }{
		{"3.3.0", "auto", "merge"},
		{"2.3.0", "2.3", "append"},
	} {
		config := `{"ignition":{"version":"` + tc.version + `","config":{"replace":{"source":"http://example.com/x"}}}}`
		res := translate(t, extras(Input{Ignition: source("", config), IgnitionVersion: tc.out}))
		if get(t, res.Ignition.JSON, "ignition.config.replace") != nil {
			t.Errorf("%s: replace is still outside", tc.version)
		}
		ref, _ := get(t, res.Ignition.JSON, "ignition.config."+tc.list+".0.source").(string)
		inner, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(ref, "data:;base64,"))
		if err != nil {
			t.Fatal(err)
		}
		if got := get(t, inner, "ignition.config.replace.source"); got != "http://example.com/x" {
			t.Errorf("%s: inside there is %s", tc.version, inner)
		}
		if got := get(t, res.Ignition.JSON, "passwd.users.0.name"); got != "core" {
			t.Errorf("%s: no keys outside", tc.version)
		}
		// Alone it stays as it is.
		res = translate(t, Input{Ignition: source("", config), IgnitionVersion: tc.out})
		if get(t, res.Ignition.JSON, "ignition.config.replace.source") != "http://example.com/x" {
			t.Errorf("%s: replace alone was changed", tc.version)
		}
	}
}
