package container

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/login"
	"github.com/vmentry/vmentry/test/transcript"
	"golang.org/x/crypto/ssh"
)

// What a Deployment of Container Linux mounted as a ConfigMap in 2017. The socket unit stands for the service behind the
// second port.
const containerLinux = `passwd:
  users:
    - name: core
      ssh_authorized_keys:
        - %s
systemd:
  units:
    - name: etcd2.service
      enable: true
      dropins:
        - name: 10-cluster.conf
          contents: |
            [Service]
            Environment=ETCD_NAME=node1
            Environment=ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379
    - name: greet.socket
      enable: true
      contents: |
        [Socket]
        ListenStream=443
        Accept=yes
        [Install]
        WantedBy=sockets.target
    - name: greet@.service
      contents: |
        [Service]
        StandardOutput=socket
        Environment=GREETING=nobody
        ExecStart=/bin/echo ${GREETING}
      dropins:
        - name: 20-greeting.conf
          contents: |
            [Service]
            Environment=GREETING=from-the-drop-in
storage:
  files:
    - path: /etc/sysctl.d/50-forward.conf
      filesystem: root
      mode: 0644
      contents:
        inline: |
          net.ipv4.ip_forward=1
networkd:
  units:
    - name: 00-eth.network
      contents: |
        [Match]
        Name=e*

        [Network]
        DHCP=yes
`

// TestContainerLinuxConfig is the command line of 2017.
func TestContainerLinuxConfig(t *testing.T) {
	t.Parallel()
	k := login.NewKey(t)
	options := debian(published("2222", "1443")...)
	options = append(options, userdata(t, map[string]string{"config.yaml": fmt.Sprintf(containerLinux, k.Line)})...)
	m := run(t, append(options, settings("CONFIG_FILE=/userdata/config.yaml", "HOSTFWD=hostfwd=tcp::2222-:22,hostfwd=tcp::1443-:443")...))
	guest := m.login("core", k.Auth())
	guest.settled()
	guest.Wants("hostname", m.engine("inspect", "--format", "{{.Config.Hostname}}", m.name))
	guest.Mentions("cat /etc/systemd/system/etcd2.service.d/10-cluster.conf", "Environment=ETCD_NAME=node1", "ETCD_LISTEN_CLIENT_URLS")
	guest.Wants("cat /etc/sysctl.d/50-forward.conf", "net.ipv4.ip_forward=1")
	guest.Wants("cat /proc/sys/net/ipv4/ip_forward", "1")
	guest.Mentions("networkctl status e*", "00-eth.network")
	if got := hear(t, m.port("1443")); got != "from-the-drop-in\n" {
		t.Errorf("port 1443 says %q", got)
	}
	m.stop()
}

// hear reads what an address says until it hangs up.
func hear(t *testing.T, address string) string {
	t.Helper()
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(transcript.Patience))
	b, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("%s: %v", address, err)
	}
	return string(b)
}

// TestIgnition gives Ignition a config of its own language with so many files that it does not fit into fw_cfg in a
// reasonable time.
func TestIgnition(t *testing.T) {
	t.Parallel()
	k := login.NewKey(t)
	type object = map[string]any
	file := func(path string, mode int, contents []byte) object {
		return object{"path": path, "mode": mode, "contents": object{"source": "data:;base64," + base64.StdEncoding.EncodeToString(contents)}}
	}
	files := []object{file("/etc/small", 0o600, []byte("a small one\n"))}
	var all bytes.Buffer
	for i := range 300 {
		text := bytes.Repeat(fmt.Appendf(nil, "file %d\n", i), 100)
		all.Write(text)
		files = append(files, file(fmt.Sprintf("/srv/many/%03d", i), 0o644, text))
	}
	config := compact(t, object{
		"ignition": object{"version": "3.3.0"},
		"passwd":   object{"users": []object{{"name": "bob", "uid": 2000, "sshAuthorizedKeys": []string{k.Line}}}},
		"storage":  object{"files": files},
	})
	if len(config) <= 128<<10 {
		t.Fatalf("the config has only %d bytes", len(config))
	}
	options := debian(published("2222")...)
	options = append(options, userdata(t, map[string]string{"config.ign": config})...)
	m := run(t, append(options, settings("IGNITION_CONFIG_FILE=/userdata/config.ign", "VM_NAME=igneous", "VM_SSH_AUTHORIZED_KEYS="+k.Line)...))
	guest := m.login("bob", k.Auth())
	guest.Wants("id -u", "2000")
	guest.Wants("hostname", "igneous")
	guest.Wants("ls /srv/many | wc -l", "300")
	guest.Wants("cat /srv/many/* | sha256sum | cut -d ' ' -f 1", fmt.Sprintf("%x", sha256.Sum256(all.Bytes())))
	guest = m.login("core", k.Auth()) // the image's own user gets the variable's key
	guest.Wants("sudo cat /etc/small", "a small one")
	guest.Wants("stat -c %a /etc/small", "600")
	guest.settled()
	m.logs("ignition.config.replace")
	m.stop()
}

const cloudConfig = `#cloud-config
hostname: cloudy
password: %[2]s
chpasswd: {expire: false}
ssh_pwauth: true
ssh_authorized_keys:
  - %[1]s
write_files:
  - path: /etc/by-cloud-init
    permissions: '0640'
    owner: root:adm
    content: |
      written
      by cloud-init
bootcmd:
  - echo bootcmd >>/var/lib/bootcmd
runcmd:
  - [sh, -c, 'echo runcmd >>/var/lib/runcmd']
final_message: all done after $UPTIME seconds
`

// disks are more disks, one on each bus that this guest's machine has.
const disks = "data=64M,old=32M:bus=sata,many=16M:bus=scsi,fast=8M:bus=nvme"

// hasDisks checks that udev has made the names of disks that docs/storage.md promises.
func (l session) hasDisks() {
	l.t.Helper()
	for name, size := range map[string]int{"virtio-data": 64, "ata-QEMU_HARDDISK_old": 32, "scsi-0QEMU_QEMU_HARDDISK_many": 16, "nvme-QEMU_NVMe_Ctrl_fast": 8} {
		l.Wants("lsblk --bytes --nodeps --noheadings --output SIZE /dev/disk/by-id/"+name, fmt.Sprint(size<<20))
	}
}

// TestCloudConfig has everything in it that a cluster's nodes were once configured with.
func TestCloudConfig(t *testing.T) {
	t.Parallel()
	inConfig, inVariable := login.NewKey(t), login.NewKey(t)
	const password = "correct-horse-8"
	options := debian(published("2222")...)
	options = append(options, volume(t)...)
	options = append(options, userdata(t, map[string]string{"user-data": fmt.Sprintf(cloudConfig, inConfig.Line, password)})...)
	shared, config := shelves(t)
	options = append(options, "--volume", shared+":/shared", "--volume", config+":/config:ro")
	options = append(options, settings("VM_VOLUMES=shared=/shared@/srv/shared,config=/config@/etc/from-pod:ro")...)
	options = append(options, settings("VM_DISKS="+disks)...)
	m := run(t, append(options, settings("CLOUD_CONFIG_FILE=/userdata/user-data", "VM_NAME=other", "VM_SSH_AUTHORIZED_KEYS="+inVariable.Line)...))
	m.stderr.Await(t, "INF provisioned") // ssh_pwauth: cloud-init starts sshd anew, and cuts off who is just logging in
	guest := m.login("core", inConfig.Auth())
	first := guest.identity()
	guest.Mentions("cloud-init status --wait --long", "status: done", "DataSourceNoCloud")
	guest.settled()
	guest.Wants("hostname", "cloudy") // the configuration counts more than VM_NAME
	guest.Wants("sudo cat /etc/by-cloud-init", "written\nby cloud-init")
	guest.Wants("stat -c '%a %U:%G' /etc/by-cloud-init", "640 root:adm")
	guest.Wants("cat /var/lib/bootcmd /var/lib/runcmd", "bootcmd\nruncmd")
	guest.Mentions("sudo cat /var/log/cloud-init-output.log", "all done after ")
	guest.hasShelves(shared)
	guest.hasDisks()
	guest.Says("printf kept | sudo dd of=/dev/disk/by-id/virtio-data conv=fsync")
	m.login("core", inVariable.Auth())
	m.login("core", ssh.Password(password)).Wants("sudo id -un", "root")
	m.stderr.Await(t, "INF provisioned")
	m.shows("all done after ")
	m.stop()

	m = m.again()
	guest = m.login("core", inConfig.Auth())
	guest.Says("cloud-init status --wait")
	if second := guest.identity(); second.hostKey != first.hostKey || second.boot == first.boot {
		t.Errorf("the second boot is not one of the same machine: %+v, %+v", first, second)
	}
	guest.Wants("cat /var/lib/bootcmd /var/lib/runcmd", "bootcmd\nbootcmd\nruncmd")
	guest.hasShelves(shared)
	guest.hasDisks()
	guest.Wants("sudo head -c 4 /dev/disk/by-id/virtio-data", "kept")
	guest.shutDownCleanly()
	m.stop()
	m.hides(password)
}

// TestConfigDrive brings user data that are no cloud-config the other way, and lets vmentry name the machine.
func TestConfigDrive(t *testing.T) {
	t.Parallel()
	k := login.NewKey(t)
	script := "#!/bin/sh\necho script >>/var/lib/script\n"
	m := run(t, append(debian(published("2222")...), settings("CLOUD_CONFIG="+script, "VM_CLOUD_SEED=configdrive", "VM_NAME=drive-1", "VM_SSH_AUTHORIZED_KEYS="+k.Line)...))
	guest := m.login("core", k.Auth())
	guest.Mentions("cloud-init status --wait --long", "status: done", "DataSourceConfigDrive")
	guest.settled()
	guest.Wants("hostname", "drive-1")
	guest.Wants("cat /var/lib/script", "script")
	m.stop()
}

const badRemote = `variant: fcos
version: 1.4.0
ignition:
  timeouts: {http_total: 2}
storage:
  files:
    - path: /etc/secret
      contents: {inline: very-secret-indeed}
    - path: /etc/remote
      contents: {source: "http://10.0.2.2:9/nobody-is-here"}
`

// TestIgnitionFails: a guest that could not be configured stays and says so, instead of coming up as if all were well.
func TestIgnitionFails(t *testing.T) {
	t.Parallel()
	m := run(t, append(debian(), settings("CONFIG="+badRemote)...))
	m.stdout.Await(t, "FIRST BOOT FAILED")
	m.stdout.Await(t, "or the power button")
	if code, reason := m.probe(); code != 1 {
		t.Errorf("probe ready: %d: %s", code, reason)
	}
	m.stop()
	m.shows("http://10.0.2.2:9/nobody-is-here")
	m.hides("very-secret-indeed", base64.StdEncoding.EncodeToString([]byte("very-secret-indeed")))
	for _, milestone := range []string{"INF provisioned", "INF ready"} {
		if strings.Contains(m.stderr.String(), milestone) {
			t.Errorf("the log says %q", milestone)
		}
	}
}
