package provision

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Fields by the version that brought them, from the Ignition specification's own list.
var fieldsByVersion = []struct{ field, since, config string }{
	{"storage.luks[0].discard", "3.4", `"storage":{"luks":[{"name":"a","device":"/dev/a","discard":true}]}`},
	{"storage.luks[0].openOptions", "3.4", `"storage":{"luks":[{"name":"a","device":"/dev/a","openOptions":["--x"]}]}`},
	{"kernelArguments", "3.3", `"kernelArguments":{"shouldExist":["quiet"]}`},
	{"storage.luks", "3.2", `"storage":{"luks":[{"name":"a","device":"/dev/a"}]}`},
	{"storage.disks[0].partitions[0].resize", "3.2", `"storage":{"disks":[{"device":"/dev/a","partitions":[{"number":1,"resize":true}]}]}`},
	{"passwd.users[0].shouldExist", "3.2", `"passwd":{"users":[{"name":"a","shouldExist":false}]}`},
	{"storage.filesystems[0].mountOptions", "3.1", `"storage":{"filesystems":[{"device":"/dev/a","format":"ext4","mountOptions":["ro"]}]}`},
	{"ignition.proxy", "3.1", `"ignition":{"version":"VERSION","proxy":{"httpProxy":"http://example.com"}}`},
	{"ignition.config.merge[0].compression", "3.1", `"ignition":{"version":"VERSION","config":{"merge":[{"source":"http://example.com","compression":"gzip"}]}}`},
	{"storage.files[0].mode", "3.6", `"storage":{"files":[{"path":"/a","mode":2541}]}`},
}

func TestFieldsThatALowerVersionDoesNotHave(t *testing.T) {
	for _, tc := range fieldsByVersion {
		config := `{` + tc.config + `}`
		if !strings.Contains(config, `"ignition"`) {
			config = `{"ignition":{"version":"VERSION"},` + tc.config + `}`
		}
		config = strings.ReplaceAll(config, "VERSION", "3.6.0")
		for i := range spec31 + 6 {
			v := specs[i].short()
			in := Input{Ignition: source("IGNITION_CONFIG_FILE", config), IgnitionVersion: v}
			if v >= tc.since {
				if got := translate(t, in).Ignition.Version; got != v+".0" {
					t.Errorf("%s: version %s, want %s", tc.field, got, v)
				}
				continue
			}
			if tc.since > "3.2" && v < "3.2" && strings.HasPrefix(tc.field, "storage.luks") {
				continue // the whole section is missing there
			}
			got := mistakes(t, in)
			want := tc.field + ": needs Ignition " + tc.since + ", VM_IGNITION_VERSION is " + v
			if len(got) != 1 || !strings.HasSuffix(got[0], want) || !strings.HasPrefix(got[0], "/userdata/config:1:") {
				t.Errorf("%s at %s:\n%s\nwant %q with line and column", tc.field, v, strings.Join(got, "\n"), want)
			}
		}
		if got := mistakes(t, Input{Ignition: source("", config), IgnitionVersion: "2.3"}); tc.since > "3.1" && len(got) == 0 {
			t.Errorf("%s is brought to 2.3", tc.field)
		}
	}
}

func TestAutoIsTheHighestSource(t *testing.T) {
	for _, tc := range []struct{ ignition, butane, want string }{
		{"3.0.0", "", "3.0.0"},
		{"3.6.0", "", "3.6.0"},
		{"2.0.0", "", "3.1.0"},
		{"2.4.0", "", "3.1.0"},
		{"3.5.0", "variant: fcos\nversion: 1.1.0\n", "3.5.0"},
		{"2.2.0", "variant: fcos\nversion: 1.4.0\n", "3.3.0"},
		{"3.0.0", "systemd: {}\n", "3.1.0"},
		{"", "variant: openshift\nversion: 4.14.0\nmetadata:\n  name: a\n  labels:\n    machineconfiguration.openshift.io/role: worker\n", "3.4.0"},
		{"", "variant: r4e\nversion: 1.1.0\n", "3.4.0"},
		{"", "variant: fiot\nversion: 1.0.0\n", "3.4.0"},
		{"", "variant: fcos\nversion: 1.8.0-experimental\n", "3.7.0-experimental"},
	} {
		in := extras(Input{})
		if tc.ignition != "" {
			in.Ignition = source("IGNITION_CONFIG_FILE", `{"ignition":{"version":"`+tc.ignition+`"}}`)
		}
		if tc.butane != "" {
			in.Config = source("CONFIG_FILE", tc.butane)
		}
		if got := translate(t, in).Ignition.Version; got != tc.want {
			t.Errorf("%s and %q: %s, want %s", tc.ignition, tc.butane, got, tc.want)
		}
	}
}

// The special mode bits did nothing before 3.6; going up they must not begin to.
func TestRaisingSaysWhatItChanges(t *testing.T) {
	in := Input{
		Ignition:        source("", `{"ignition":{"version":"3.3.0"},"storage":{"files":[{"path":"/a","mode":2541}]}}`),
		IgnitionVersion: "3.6",
	}
	res := translate(t, in)
	if got := get(t, res.Ignition.JSON, "storage.files.0.mode"); got != float64(0o755) {
		t.Errorf("mode %v", got)
	}
	if got := texts(res.Messages); !contains(got, "warning /userdata/config: storage.files[0].mode is not the same") &&
		!contains(got, "storage.files[0].mode is not the same") {
		t.Errorf("messages: %q", got)
	}
}

func TestDownTo23KeepsEverythingOrSaysWhat(t *testing.T) {
	for _, tc := range []struct {
		name, config string
		want         []string
	}{
		{"a file with appended parts", `"storage":{"files":[{"path":"/a","contents":{"source":"data:,a"},"append":[{"source":"data:,b"}]}]}`, nil},
		{"a mounted file system", `"storage":{"filesystems":[{"device":"/dev/a","format":"ext4","path":"/var"}],"files":[{"path":"/var/x","contents":{"source":"data:,"}}]}`, nil},
		{"a partition", `"storage":{"disks":[{"device":"/dev/a","partitions":[{"number":1,"sizeMiB":10}]}]}`, nil},
		{"a file without contents", `"storage":{"files":[{"path":"/a","mode":384}]}`,
			[]string{"/userdata/config: storage.files: Ignition 2.3 has no such thing, VM_IGNITION_VERSION is 2.3"}},
		{"a path that only looks mounted", `"storage":{"filesystems":[{"device":"/dev/a","format":"ext4","path":"/var"}],"files":[{"path":"/variable","contents":{"source":"data:,"}}]}`,
			[]string{"/userdata/config: cannot be brought to Ignition 2.3: path not absolute"}},
		{"proxy", `"storage":{},"passwd":{"users":[{"name":"a","shouldExist":false}]}`,
			[]string{"/userdata/config: cannot be brought to Ignition 2.3: ShouldExist in Passwd.Users is not supported on 2.4"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := Input{Ignition: source("", `{"ignition":{"version":"3.2.0"},`+tc.config+`}`), IgnitionVersion: "2.3"}
			if tc.want == nil {
				translate(t, in)
				return
			}
			if d := cmp.Diff(tc.want, mistakes(t, in)); d != "" {
				t.Error(d)
			}
		})
	}
	in := Input{Ignition: source("", `{"ignition":{"version":"2.4.0","proxy":{"httpProxy":"http://x"}}}`), IgnitionVersion: "2.3"}
	if d := cmp.Diff([]string{"/userdata/config: ignition.proxy.httpProxy: needs Ignition 2.4, VM_IGNITION_VERSION is 2.3"}, mistakes(t, in)); d != "" {
		t.Error(d)
	}
}
