package provision

import (
	"bytes"
	"compress/gzip"
	"io"
	"mime"
	"mime/multipart"
	"net/mail"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"
)

func gzipped(t *testing.T, s string) string {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err := io.WriteString(z, s); err != nil {
		t.Fatal(err)
	}
	if err := z.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func TestKindsOfUserData(t *testing.T) {
	for _, tc := range []struct {
		text string
		want cloudKind
	}{
		{"#cloud-config\n", cloudConfig},
		{"\n\n#Cloud-Config\n", cloudConfig},
		{"#cloud-config-archive\n- a", cloudArchive},
		{"#cloud-config-jsonp\n[]", cloudJSONP},
		{"#cloud-boothook\n", cloudBoothook},
		{"#include\nhttp://example.com/\n", cloudInclude},
		{"#include-once\nhttp://example.com/\n", cloudOnce},
		{"#part-handler\n", cloudHandler},
		{"## template: jinja\n#cloud-config\n{{ x", cloudJinja},
		{"#!/bin/bash\n", cloudScript},
		{"Content-Type: multipart/mixed; boundary=\"x\"\nMIME-Version: 1.0\n\n--x--\n", cloudMIME},
		{"MIME-Version: 1.0\r\nContent-Type: text/x-shellscript\r\n\r\n#!/bin/sh\r\n", cloudMIME},
		{"", noCloud},
		{"# cloud-config\n", noCloud},
		{"users: []\n", noCloud},
		{"variant: fcos\n\nx: |\n  MIME-Version: 1.0\n", noCloud},
	} {
		if got := cloudKindOf([]byte(tc.text)); got != tc.want {
			t.Errorf("%q is %q, want %q", tc.text, got, tc.want)
		}
		if got := cloudKindOf([]byte(gzipped(t, tc.text))); got != tc.want {
			t.Errorf("gzipped %q is %q, want %q", tc.text, got, tc.want)
		}
	}
}

func seedFile(t *testing.T, s *Seed, path string) string {
	t.Helper()
	for _, f := range s.Files {
		if f.Path == path {
			return string(f.Data)
		}
	}
	return ""
}

// Without `users` in it, user data reaches the guest byte by byte as it was given.
func TestUserDataStaysAsItIs(t *testing.T) {
	for _, text := range []string{
		"#cloud-config\nhostname: own\n", "#!/bin/sh\n", "#cloud-config\n", "#include\nhttp://example.com\n",
		"#cloud-config\nssh_authorized_keys: [a]\npassword: x\n", gzipped(t, "#cloud-config\na: b\n"),
		"#cloud-config-archive\n- type: text/cloud-config\n  content: |\n    a: b\n- '#!/bin/sh'\n",
	} {
		s := translate(t, extras(Input{Cloud: source("", text)})).Seed
		if got := seedFile(t, s, "user-data"); got != text {
			t.Errorf("user data %q became %q", text, got)
		}
		want := "#cloud-config\nusers:\n    - default\n    - name: core\n      ssh_authorized_keys:\n        - " + testKey + "\n"
		if d := cmp.Diff(want, seedFile(t, s, "vendor-data")); d != "" {
			t.Error(d)
		}
	}
	in := extras(Input{Cloud: source("", "#cloud-config\nusers: [default]\n")})
	in.SSHAuthorizedKeys = nil
	if got := seedFile(t, translate(t, in).Seed, "user-data"); got != "#cloud-config\nusers: [default]\n" {
		t.Errorf("without keys it became %q", got)
	}
}

func TestKeysInUsers(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		want       any
	}{
		{"a new entry", "#cloud-config\nusers:\n  - default\n", []any{"default", entry(testKey)}},
		{"an entry without keys", "#cloud-config\nusers:\n  - name: core\n", []any{entry(testKey)}},
		{"an entry with keys", "#cloud-config\nusers:\n  - name: core\n    ssh_authorized_keys: [own]\n", []any{entry("own", testKey)}},
		{"the key is there", "#cloud-config\nusers:\n  - name: core\n    ssh_authorized_keys: [" + testKey + "]\n", []any{entry(testKey)}},
		{"one key as a text", "#cloud-config\nusers:\n  - name: core\n    ssh_authorized_keys: own\n", []any{entry("own", testKey)}},
		{"the old spelling", "#cloud-config\nusers:\n  - name: core\n    ssh-authorized-keys: [own]\n",
			[]any{map[string]any{"name": "core", "ssh-authorized-keys": []any{"own", testKey}}}},
		{"an alias", "#cloud-config\nx: &u\n  - name: other\nusers: *u\n", []any{map[string]any{"name": "other"}, entry(testKey)}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			s := translate(t, extras(Input{Cloud: source("", tc.text)})).Seed
			text := seedFile(t, s, "user-data")
			if !strings.HasPrefix(text, "#cloud-config\n") {
				t.Errorf("it begins with something else:\n%s", text)
			}
			var got struct{ Users any }
			if err := yaml.Unmarshal([]byte(text), &got); err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(tc.want, got.Users); d != "" {
				t.Error(d)
			}
			if seedFile(t, s, "vendor-data") != "" {
				t.Error("there is vendor data, which would not be read")
			}
		})
	}
}

func entry(keys ...any) map[string]any {
	return map[string]any{"name": "core", "ssh_authorized_keys": keys}
}

// What is not about users must come out as it was written: YAML 1.1 and 1.2 read some plain values differently.
func TestEditingKeepsTheRest(t *testing.T) {
	const text = "#cloud-config\n# a comment\nusers:\n  - default # why\n  - name: core\n    ssh_authorized_keys:\n      - " + testKey + "\nx: yes\nmode: 0644\nquoted: '0644'\ntime: 12:30:45\n" +
		"text: |\n  a\n    b\nfolded: >-\n  c d\nlong: " + "word word word word word word word word word word word word word word word word word word word word word word\n"
	if d := cmp.Diff(text, seedFile(t, translate(t, extras(Input{Cloud: source("", text)})).Seed, "user-data")); d != "" {
		t.Error(d)
	}
}

func TestKeysBesideParts(t *testing.T) {
	for _, text := range []string{
		"## template: jinja\n#cloud-config\nusers: [default]\nruncmd: [\"echo é {{ v1.instance_id }}\"]\n",
		"#cloud-config-archive\n- type: text/cloud-config\n  content: |\n    users: [default]\n",
		"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n--x\nContent-Type: text/cloud-config\n\nusers: [default]\n--x--\n",
	} {
		s := translate(t, extras(Input{Cloud: source("", text)})).Seed
		msg, err := mail.ReadMessage(strings.NewReader(seedFile(t, s, "user-data")))
		if err != nil {
			t.Fatal(err)
		}
		_, params, err := mime.ParseMediaType(msg.Header.Get("Content-Type"))
		if err != nil {
			t.Fatal(err)
		}
		parts := multipart.NewReader(msg.Body, params["boundary"])
		first, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(decoded(first.Header.Get("Content-Transfer-Encoding"), first))
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(text, "MIME") && strings.TrimSpace(string(content)) != strings.TrimSpace(text) {
			t.Errorf("the user's part became %q", content)
		}
		second, err := parts.NextPart()
		if err != nil {
			t.Fatal(err)
		}
		ours, err := io.ReadAll(second)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(ours), testKey) || !strings.Contains(string(ours), "merge_how: list(append)") {
			t.Errorf("our part is %q", ours)
		}
	}
}

func TestCloudWarnings(t *testing.T) {
	for _, tc := range []struct{ text, want string }{
		{"#cloud-config\na: b\na: c\n", "warning /userdata/config:3:1: the key a is there twice; cloud-init takes the last one"},
		{"#cloud-config\nusers: a, b\n", "warning /userdata/config:2:8: `users` is not a list: the SSH keys reach the image's default user only, not core"},
		{"#!/bin/sh\r\n", "warning /userdata/config: the first line ends in a carriage return, which becomes part of the interpreter's name"},
		{"#cloud-config-archive\n- type: text/cloud-config\n  content: |\n    users: [{name: core, ssh_authorized_keys: [a]}]\n",
			"warning /userdata/config: the entry of core in `users` has ssh_authorized_keys of its own"},
		{"MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=x\n\n--x\n\nhello\n--x--\n", "warning /userdata/config: part 1: its Content-Type is text/plain and it begins with none of "},
	} {
		if got := texts(translate(t, extras(Input{Cloud: source("", tc.text)})).Messages); !contains(got, tc.want) {
			t.Errorf("%q: messages %q, want %q", tc.text, got, tc.want)
		}
	}
}

func TestNetworkConfig(t *testing.T) {
	in := extras(Input{NetworkConfig: []byte("version: 2\n")})
	if got := seedFile(t, translate(t, in).Seed, "network-config"); got != "version: 2\n" {
		t.Errorf("network-config is %q", got)
	}
	in.SeedFormat = ConfigDrive
	if got := seedFile(t, translate(t, in).Seed, "openstack/latest/network_data.json"); got != "version: 2\n" {
		t.Errorf("network_data.json is %q", got)
	}
}

// TestCardsThatChange: cloud-init is told to write its network configuration at every boot, but for a user who says when it is written.
func TestCardsThatChange(t *testing.T) {
	const every = "updates:\n    network:\n        when:\n            - boot-new-instance\n            - boot\n"
	for text, want := range map[string]string{
		"#!/bin/sh\n":                    "#cloud-config\n" + every,
		"#cloud-config\nhostname: own\n": "#cloud-config\n" + every,
		"#cloud-config\nupdates: {network: {when: [boot-legacy]}}\n": "",
	} {
		s := translate(t, Input{Cloud: source("", text), CardsChange: true}).Seed
		if got := seedFile(t, s, "vendor-data"); got != want || seedFile(t, s, "user-data") != text {
			t.Errorf("%q: vendor data %q, want %q", text, got, want)
		}
	}
	in := extras(Input{IgnitionOff: true, CardsChange: true})
	if got := seedFile(t, translate(t, in).Seed, "user-data"); !strings.Contains(got, every) {
		t.Errorf("without user data: %q", got)
	}
}
