package provision

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

var testMounts = []Mount{{Tag: "data", Path: "/srv/data"}, {Tag: "conf", Path: "/etc/a-b/100%", ReadOnly: true}}

// unitsOf are the units of an Ignition config of any version, by name.
func unitsOf(t *testing.T, config []byte) map[string]string {
	t.Helper()
	var c struct {
		Systemd struct {
			Units []struct {
				Name, Contents string
				Enabled        *bool
			}
		}
	}
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatal(err)
	}
	units := map[string]string{}
	for _, u := range c.Systemd.Units {
		units[u.Name] = u.Contents
		if u.Enabled != nil && *u.Enabled {
			units[u.Name] += "# enabled"
		}
	}
	return units
}

// TestMountsInIgnition: a unit for each mount, in every version of the spec, and what the user says wins.
func TestMountsInIgnition(t *testing.T) {
	spec3 := &Source{Name: "own.ign", Data: []byte(`{"ignition": {"version": "3.4.0"}, "systemd": {"units": [{"name": "own.service", "contents": "[Service]\nExecStart=/bin/true\n"}]}}`)}
	spec2 := &Source{Name: "own.ign", Data: []byte(`{"ignition": {"version": "2.1.0"}, "systemd": {"units": [{"name": "own.service", "contents": "[Service]\nExecStart=/bin/true\n"}]}}`)}
	replace := &Source{Name: "own.ign", Data: []byte(`{"ignition": {"version": "3.0.0", "config": {"replace": {"source": "http://a.example/"}}}}`)}
	for name, in := range map[string]Input{
		"nothing else":         {},
		"spec 3":               {Ignition: spec3},
		"spec 2":               {Ignition: spec2},
		"spec 2 as 2.3":        {Ignition: spec2, IgnitionVersion: "2.3"},
		"spec 3 as 2.3":        {Ignition: &Source{Name: "x", Data: []byte(`{"ignition": {"version": "3.0.0"}}`)}, IgnitionVersion: "2.3"},
		"replaced at run time": {Ignition: replace},
	} {
		t.Run(name, func(t *testing.T) {
			in.Mounts, in.HostName = testMounts, "x"
			res, err := Translate(in)
			if err != nil {
				t.Fatal(err)
			}
			units := unitsOf(t, res.Ignition.JSON)
			for unit, lines := range map[string][]string{
				"srv-data.mount":           {"What=data\n", "Where=/srv/data\n", "Type=virtiofs\n", "Options=nosuid,nodev\n", "WantedBy=local-fs.target", "# enabled"},
				`etc-a\x2db-100\x25.mount`: {"What=conf\n", "Where=/etc/a-b/100%%\n", "Options=nosuid,nodev,ro\n", "# enabled"},
			} {
				for _, l := range lines {
					if !strings.Contains(units[unit], l) {
						t.Errorf("%s does not say %q:\n%s", unit, l, units[unit])
					}
				}
			}
			if in.Ignition == spec3 || in.Ignition == spec2 {
				if units["own.service"] == "" {
					t.Error("the user's own unit is gone")
				}
			}
		})
	}
	own := &Source{Name: "own.ign", Data: []byte(`{"ignition": {"version": "3.0.0"}, "systemd": {"units": [{"name": "srv-data.mount", "enabled": false, "contents": "[Mount]\nWhat=other\nWhere=/srv/data\n"}]}}`)}
	res, err := Translate(Input{Ignition: own, Mounts: testMounts})
	if err != nil {
		t.Fatal(err)
	}
	if got := unitsOf(t, res.Ignition.JSON)["srv-data.mount"]; got != "[Mount]\nWhat=other\nWhere=/srv/data\n" {
		t.Errorf("the user's own unit does not win:\n%s", got)
	}
}

// mountsOf are the tags and options of `mounts` in a cloud-config.
func mountsOf(t *testing.T, config string) [][]string {
	t.Helper()
	var c struct{ Mounts [][]string }
	if err := yaml.Unmarshal([]byte(config), &c); err != nil {
		t.Fatal(err)
	}
	return c.Mounts
}

// TestMountsInCloudInit: where they are put depends on what the user data has, and what the user says wins.
func TestMountsInCloudInit(t *testing.T) {
	const options = "nosuid,nodev,nofail,x-systemd.before=local-fs.target"
	data := []string{"data", "/srv/data", "virtiofs", options, "0", "0"}
	conf := []string{"conf", "/etc/a-b/100%", "virtiofs", "nosuid,nodev,ro,nofail,x-systemd.before=local-fs.target", "0", "0"}
	other := []string{"/dev/vdb", "/mnt"}
	const mime = "Content-Type: multipart/mixed; boundary=\"x\"\nMIME-Version: 1.0\n\n--x\nContent-Type: text/cloud-config\n\n#cloud-config\nmounts:\n- [/dev/vdb, /mnt]\n--x--\n"
	for _, tt := range []struct {
		name, user string
		file       string // of the seed, that has the mounts
		want       [][]string
	}{
		{"no user data", "", "user-data", [][]string{data, conf}},
		{"none of its own", "#cloud-config\nhostname: x\n", "vendor-data", [][]string{data, conf}},
		{"a script", "#!/bin/sh\n", "vendor-data", [][]string{data, conf}},
		{"others", "#cloud-config\n# kept\nmounts:\n- [/dev/vdb, /mnt]\n", "user-data", [][]string{other, data, conf}},
		{"the same tag", "#cloud-config\nmounts:\n- [data, /elsewhere, virtiofs]\n", "user-data", [][]string{{"data", "/elsewhere", "virtiofs"}, conf}},
		{"the same place", "#cloud-config\nmounts:\n- [/dev/vdb, /etc/a-b/100%]\n", "user-data", [][]string{{"/dev/vdb", "/etc/a-b/100%"}, data}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			in := Input{Mounts: testMounts, SSHAuthorizedKeys: []string{"ssh-ed25519 AAAA"}, SSHUser: "core"}
			if tt.user != "" {
				in.Cloud = &Source{Name: "user-data", Data: []byte(tt.user)}
			}
			res, err := Translate(in)
			if err != nil {
				t.Fatal(err)
			}
			files := map[string]string{}
			for _, f := range res.Seed.Files {
				files[f.Path] = string(f.Data)
			}
			if diff := cmp.Diff(tt.want, mountsOf(t, files[tt.file])); diff != "" {
				t.Errorf("(-want +got)\n%s\n%s", diff, files[tt.file])
			}
			if tt.file == "vendor-data" && files["user-data"] != tt.user {
				t.Error("the user data was changed")
			}
			if !strings.Contains(files["user-data"]+files["vendor-data"], "ssh-ed25519 AAAA") {
				t.Error("the keys are lost")
			}
			if strings.Contains(tt.user, "# kept") && !strings.Contains(files["user-data"], "# kept") {
				t.Error("the comment is gone")
			}
		})
	}
	res, err := Translate(Input{Mounts: testMounts, Cloud: &Source{Name: "user-data", Data: []byte(mime)}})
	if err != nil {
		t.Fatal(err)
	}
	if user := string(res.Seed.Files[1].Data); !strings.Contains(user, mime) || !strings.Contains(user, "merge_how: list(append)") || !strings.Contains(user, "- /srv/data") {
		t.Errorf("a part is missing:\n%s", user)
	}
	for _, tag := range []string{"sda", "vdb1", "xvda", "sr0", "ephemeral0", "root", "swap", "data.1"} {
		if _, err := Translate(Input{Mounts: []Mount{{Tag: tag, Path: "/mnt"}}}); err == nil || !strings.Contains(err.Error(), "the tag "+tag) {
			t.Errorf("the tag %s: %v", tag, err)
		}
		if _, err := Translate(Input{Mounts: []Mount{{Tag: tag, Path: "/mnt"}}, CloudOff: true}); err != nil {
			t.Errorf("the tag %s without cloud-init: %v", tag, err)
		}
	}
	for _, tag := range []string{"data", "vda-files", "v1.2-x", "sdabc", "roots"} {
		if _, err := Translate(Input{Mounts: []Mount{{Tag: tag, Path: "/mnt"}}}); err != nil {
			t.Errorf("the tag %s: %v", tag, err)
		}
	}
}
