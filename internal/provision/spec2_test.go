package provision

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// What people wrote in 2017, in both directions.
func TestContainerLinuxConfigs(t *testing.T) {
	for _, tc := range []struct {
		name, text string
		messages   []string
		want       map[string]any
	}{
		{"users", `
passwd:
  users:
    - name: core
      password_hash: "$6$salt$hash"
      groups: [docker]
      ssh_authorized_keys: [own]
    - name: dev
      create:
        uid: 1234
        groups: [sudo, docker]
        shell: /bin/bash
`, []string{"info /userdata/config:8:7: the create object has been deprecated in favor of user-level options"}, map[string]any{
			"passwd.users.0.passwordHash": "$6$salt$hash", "passwd.users.0.groups.0": "docker", "passwd.users.1.uid": 1234.0,
			"passwd.users.1.groups.1": "docker", "passwd.users.1.shell": "/bin/bash",
		}},
		{"the etcd section beside a unit of that name", `
etcd:
  version: 3.0.15
  name: node1
systemd:
  units:
    - name: etcd-member.service
      dropins:
        - name: 99-own.conf
          contents: "[Service]\nEnvironment=A=b\n"
`, nil, map[string]any{"systemd.units.0.enabled": true, "systemd.units.0.dropins.0.name": "20-clct-etcd-member.conf",
			"systemd.units.0.dropins.1.name": "99-own.conf", "systemd.units.1": nil}},
		{"flannel, docker, update, locksmith", `
flannel:
  version: 0.7.0
docker:
  flags: [--bip=10.0.0.1/24]
update:
  group: stable
locksmith:
  reboot_strategy: off
`, nil, map[string]any{"storage.files.0.path": "/etc/coreos/update.conf", "systemd.units.0.name": "docker.service",
			"systemd.units.1.name": "flanneld.service"}},
		{"enabled false", "systemd:\n  units:\n    - name: a.service\n      enabled: false\n", nil,
			map[string]any{"systemd.units.0.enabled": false}},
		{"mask", "systemd:\n  units:\n    - name: a.service\n      mask: true\n", nil, map[string]any{"systemd.units.0.mask": true}},
		{"files with owners", `
storage:
  files:
    - path: /a
      filesystem: root
      mode: 0600
      user: {id: 500}
      group: {name: core}
      contents: {inline: "x"}
    - path: /b
      contents: {remote: {url: "https://example.com/b", verification: {hash: {function: sha512, sum: "00000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"}}}}
      mode: 0644
  directories:
    - {path: /d, filesystem: root, mode: 0700}
  links:
    - {path: /etc/l, filesystem: root, target: /a}
`, nil, map[string]any{"storage.files.0.user.id": 500.0, "storage.files.0.group.name": "core", "storage.files.0.mode": 384.0,
			"storage.files.1.contents.source": "https://example.com/b", "storage.directories.0.mode": 448.0, "storage.links.0.target": "/a"}},
		{"a file beside a link that only begins alike", `
storage:
  files:
    - {path: /etc/foo-bar, filesystem: root, mode: 0644}
  links:
    - {path: /etc/foo, filesystem: root, target: /x}
`, nil, map[string]any{"storage.files.0.path": "/etc/foo-bar"}},
		{"a disk and a file system with a mount unit", `
storage:
  disks:
    - device: /dev/vdb
      wipe_table: true
      partitions:
        - {label: DATA, number: 1, size: 100MiB}
  filesystems:
    - name: data
      mount: {device: /dev/disk/by-partlabel/DATA, format: ext4, create: {force: true, options: [-q]}}
  files:
    - {path: /x, filesystem: data, mode: 0644, contents: {inline: "x"}}
systemd:
  units:
    - name: var-lib-data.mount
      enable: true
      contents: |
        [Mount]
        What=/dev/disk/by-partlabel/DATA
        Where=/var/lib/data
        Type=ext4
        [Install]
        WantedBy=local-fs.target
`, []string{"info /userdata/config:9:7: the create object has been deprecated in favor of mount-level options"}, map[string]any{"storage.disks.0.partitions.0.sizeMiB": 100.0, "storage.filesystems.0.path": "/var/lib/data",
			"storage.filesystems.0.wipeFilesystem": true, "storage.filesystems.0.options.0": "-q", "storage.files.0.path": "/var/lib/data/x"}},
		{"root made anew", "storage:\n  filesystems:\n    - name: root\n      mount: {device: /dev/disk/by-label/ROOT, format: btrfs, wipe_filesystem: true}\n",
			[]string{`warning /userdata/config:1:1: Filesystem "root" shadows exising filesystem definition`}, map[string]any{"storage.filesystems.0.path": "/", "storage.filesystems.0.format": "btrfs"}},
		{"networkd drop-ins", "networkd:\n  units:\n    - name: a.network\n      dropins:\n        - {name: b.conf, contents: \"[Network]\\nDHCP=yes\\n\"}\n",
			nil, map[string]any{"storage.files.0.path": "/etc/systemd/network/a.network.d/b.conf"}},
		{"unknown keys", "passwd: {}\nsystmd: {}\n", []string{`warning /userdata/config:2:1: Config has unrecognized key: systmd`}, nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			in := Input{Config: source("CONFIG_FILE", tc.text)}
			res := translate(t, in)
			if d := cmp.Diff(tc.messages, texts(res.Messages)); d != "" {
				t.Errorf("messages:\n%s", d)
			}
			for path, want := range tc.want {
				if got := get(t, res.Ignition.JSON, path); got != want {
					t.Errorf("%s is %v, want %v", path, got, want)
				}
			}
			in.IgnitionVersion = "2.3"
			translate(t, in)
		})
	}
}

func TestSpec2MayRepeatItself(t *testing.T) {
	in := Input{Ignition: source("", `{"ignition":{"version":"2.2.0"},
		"passwd":{"users":[{"name":"a","sshAuthorizedKeys":["x"]},{"name":"a","sshAuthorizedKeys":["y"],"create":{"uid":5}}]},
		"storage":{"files":[
			{"filesystem":"root","path":"/a","contents":{"source":"data:,1"}},
			{"filesystem":"root","path":"/a","contents":{"source":"data:,2"}},
			{"filesystem":"root","path":"/a","append":true,"contents":{"source":"data:,3"}}]},
		"systemd":{"units":[{"name":"a.service","enable":true},{"name":"a.service","contents":"[Unit]"}]}}`)}
	res := translate(t, in)
	for path, want := range map[string]any{
		"passwd.users.0.sshAuthorizedKeys.1": "y", "passwd.users.0.uid": 5.0, "storage.files.0.contents.source": "data:,2",
		"storage.files.0.append.0.source": "data:,3", "storage.files.1": nil, "systemd.units.0.enabled": true, "systemd.units.0.contents": "[Unit]",
	} {
		if got := get(t, res.Ignition.JSON, path); got != want {
			t.Errorf("%s is %v, want %v", path, got, want)
		}
	}
}

func TestWhatSpec3CannotSay(t *testing.T) {
	for _, tc := range []struct{ name, config, want string }{
		{"file system without a place", `"storage":{"filesystems":[{"name":"d","mount":{"device":"/dev/vdb","format":"ext4"}}],"files":[{"filesystem":"d","path":"/x"}]}`,
			"storage.filesystems[0]: files are to be written to the file system d, and Ignition 3 has to know where it is mounted: add a systemd mount unit with What=/dev/vdb"},
		{"odd sectors", `"storage":{"disks":[{"device":"/dev/a","partitions":[{"size":3}]}]}`,
			"storage.disks[0].partitions[0].size: 3 sectors are not a whole number of MiB, which is what sizeMiB counts"},
		{"two kinds", `"storage":{"files":[{"filesystem":"root","path":"/x"}],"directories":[{"filesystem":"root","path":"/x"}]}`,
			"/x is both a directory and a file; in Ignition 3 a path is one thing"},
	} {
		got := mistakes(t, Input{Ignition: source("", `{"ignition":{"version":"2.2.0"},`+tc.config+`}`)})
		if !contains(got, tc.want) {
			t.Errorf("%s: %q", tc.name, got)
		}
	}
}

func TestLocalFilesOfContainerLinuxConfigs(t *testing.T) {
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "in"), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"in/x", "out"} {
		if err := os.WriteFile(filepath.Join(dir, f), []byte("bytes\xff"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	config := func(local string) Input {
		s := source("", "storage:\n  files:\n    - {path: /a, mode: 0644, contents: {local: "+local+"}}\n")
		s.FilesDir = filepath.Join(dir, "in")
		return Input{Config: s}
	}
	if got := get(t, translate(t, config("x")).Ignition.JSON, "storage.files.0.contents.source"); got != "data:,bytes%FF" {
		t.Errorf("contents are %v", got)
	}
	if got := mistakes(t, config("../out")); !contains(got, "path escapes from parent") {
		t.Errorf("a path out of the directory: %q", got)
	}
}
