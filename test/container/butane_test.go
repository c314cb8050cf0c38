package container

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/vmentry/vmentry/test/login"
)

const butane = `variant: fcos
version: 1.4.0
passwd:
  users:
    - name: core
      ssh_authorized_keys: [%[1]q]
    - name: alice
      groups: [sudo]
      ssh_authorized_keys: [%[1]q]
storage:
  directories:
    - path: /srv/shelf
      mode: 0750
  files:
    - path: /srv/shelf/greeting
      mode: 0640
      contents: {local: greeting.txt}
  links:
    - path: /srv/link
      target: /srv/shelf/greeting
systemd:
  units:
    - name: count-boots.service
      enabled: true
      contents: |
        [Service]
        Type=oneshot
        RemainAfterExit=yes
        ExecStart=/bin/sh -c 'echo boot >>/var/lib/boots'
        [Install]
        WantedBy=multi-user.target
    - name: unwanted.service
      enabled: false
      contents: |
        [Service]
        ExecStart=/bin/sh -c 'echo ran >/var/lib/unwanted'
        [Install]
        WantedBy=multi-user.target
`

const gib = 1 << 30

// TestButane is the life of a VM on one volume: configured at its first boot, stopped, started again, and given a larger
// disk and another firmware in a new container.
func TestButane(t *testing.T) {
	t.Parallel()
	inConfig, inVariable := login.NewKey(t), login.NewKey(t)
	options := debian(published("2222")...)
	options = append(options, volume(t)...)
	options = append(options, userdata(t, map[string]string{"config.yaml": fmt.Sprintf(butane, inConfig.Line), "greeting.txt": "hello\nguest\n"})...)
	options = append(options, settings("CONFIG_FILE=/userdata/config.yaml", "VM_NAME=shelf-1", "VM_SSH_AUTHORIZED_KEYS="+inVariable.Line)...)

	shared, config := shelves(t)
	options = append(options, "--volume", shared+":/shared", "--volume", config+":/config:ro")
	options = append(options, settings("VM_VOLUMES=shared=/shared@/srv/shared,config=/config@/etc/from-pod:ro")...)

	m := run(t, append(options, settings("VM_DISK_SIZE=8G")...))
	guest := m.login("core", inVariable.Auth())
	first := guest.identity()
	guest.Wants("sudo cat /srv/link", "hello\nguest")
	guest.Wants("sudo stat -c '%a %U' /srv/shelf/greeting /srv/shelf", "640 root\n750 root")
	guest.Wants("systemctl is-enabled count-boots.service", "enabled")
	guest.Wants("hostname", "shelf-1")
	guest.hasDisk(8 * gib)
	guest.settled()
	guest.Wants("cat /var/lib/boots", "boot")
	guest.Wants("ls /var/lib/unwanted 2>&1 | grep -c 'No such file'", "1")
	guest.Wants("ls /dev/virtio-ports", "org.qemu.guest_agent.0\norg.vmentry.exit")
	guest.Wants("systemctl is-active qemu-guest-agent", "active")
	guest.Wants("echo kept | sudo tee /var/lib/note", "kept")
	m.login("core", inConfig.Auth())
	m.login("alice", inConfig.Auth()).Wants("sudo id -un", "root")
	if out := m.engine("exec", m.name, "vmentry", "probe", "ready"); !strings.Contains(out, "accepts on port 22") {
		t.Errorf("probe ready: %s", out)
	}
	m.logs("accelerator: tcg", "disk: make the overlay", "INF provisioned", "virtiofsd runs in a chroot, and shut in by Landlock")
	guest.hasShelves(shared)
	m.hides(onTheShelf)
	m.stop()

	m = m.again()
	guest = m.login("core", inVariable.Auth())
	second := guest.identity()
	if second.hostKey != first.hostKey || second.machine != first.machine || second.boot == first.boot {
		t.Errorf("the second boot is not one of the same machine: %+v, %+v", first, second)
	}
	guest.settled()
	guest.Wants("cat /var/lib/note", "kept")
	guest.Wants("cat /var/lib/boots", "boot\nboot")
	guest.shutDownCleanly()
	guest.Wants("grep -c ignition.firstboot /proc/cmdline || true", "0")
	guest.Wants("sudo journalctl -q -b -t ignition", "")
	m.stop()
	m.remove()

	m = run(t, append(options, settings("VM_DISK_SIZE=9G", "VM_FIRMWARE=uefi")...))
	guest = m.login("core", inVariable.Auth())
	third := guest.identity()
	if third.hostKey != first.hostKey || third.machine != first.machine {
		t.Errorf("the boot in a new container is not one of the same machine: %+v, %+v", first, third)
	}
	guest.Says("test -d /sys/firmware/efi")
	guest.hasDisk(9 * gib)
	guest.settled()
	guest.Wants("cat /var/lib/note", "kept")
	guest.Wants("cat /var/lib/boots", "boot\nboot\nboot")
	guest.hasShelves(shared)
	guest.shutDownCleanly()
	m.logs("firmware: uefi")
	m.stop()
}

// onTheShelf is in a volume, and in no log.
const onTheShelf = "secret-on-the-shelf"

// shelves are two directories of the pod; the second is a ConfigMap's as the kubelet makes it.
func shelves(t *testing.T) (shared, config string) {
	t.Helper()
	shared, config = t.TempDir(), t.TempDir()
	if err := os.Mkdir(filepath.Join(config, "..1"), 0o755); err != nil {
		t.Fatal(err)
	}
	for file, text := range map[string]string{filepath.Join(shared, "from-pod"): onTheShelf, filepath.Join(config, "..1", "key"): "value"} {
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for name, target := range map[string]string{"..data": "..1", "key": "..data/key"} {
		if err := os.Symlink(target, filepath.Join(config, name)); err != nil {
			t.Fatal(err)
		}
	}
	return shared, config
}

// hasShelves checks that the guest has both mounted, before ordinary services begin, and that the second stays as it is.
func (l session) hasShelves(shared string) {
	l.t.Helper()
	l.Wants("findmnt -no SOURCE,FSTYPE /srv/shared | tr -s ' '", "shared virtiofs")
	l.Wants("cat /srv/shared/from-pod", onTheShelf)
	l.Wants("cat /etc/from-pod/key", "value")
	l.Wants("findmnt -no OPTIONS /etc/from-pod | tr , '\n' | grep -cxE 'ro|nosuid|nodev'", "3")
	l.Wants("sudo mount -o remount,rw /etc/from-pod; sudo touch /etc/from-pod/new 2>&1 | grep -c 'Read-only file system'", "1")
	l.Wants("systemctl show -P Before srv-shared.mount | tr ' ' '\n' | grep -cx local-fs.target", "1")
	l.Wants("echo from the guest | sudo tee /srv/shared/from-guest", "from the guest")
	if got, err := os.ReadFile(filepath.Join(shared, "from-guest")); err != nil || string(got) != "from the guest\n" {
		l.t.Errorf("the pod reads %q, %v", got, err)
	}
}

type identity struct{ hostKey, machine, boot string }

// identity is what tells a guest from another, and a boot of it.
func (l session) identity() identity {
	l.t.Helper()
	return identity{l.HostKey, l.Says("cat /etc/machine-id"), l.Says("cat /proc/sys/kernel/random/boot_id")}
}

// settled waits for the end of the boot, and checks that all of it went well.
func (l session) settled() {
	l.t.Helper()
	if state, _ := l.Try("systemctl is-system-running --wait"); state != "running" {
		failed, _ := l.Try("systemctl --failed --no-legend --plain")
		l.t.Errorf("the guest's systemd is %s:\n%s", state, failed)
	}
}

// hasDisk checks the size of the disk that the root file system is on, and that it fills the disk.
func (l session) hasDisk(size int64) {
	l.t.Helper()
	l.Wants("lsblk -bdno SIZE /dev/$(lsblk -no PKNAME $(findmnt -no SOURCE /))", fmt.Sprint(size))
	// The file system's own administration takes some of it.
	got, _ := strconv.ParseInt(l.Says("df -B1 --output=size / | tail -n 1"), 10, 64)
	if got < size/100*93 || got > size {
		l.t.Errorf("the root file system has %d bytes, on a disk of %d", got, size)
	}
}

// shutDownCleanly checks in the journal how the boot before this one has ended.
func (l session) shutDownCleanly() {
	l.t.Helper()
	l.Mentions("sudo journalctl -q -b -1 -o cat | grep 'Power key\\|Power Off\\|Shutting down\\|Journal stopped'",
		"Power key pressed", "System Power Off", "Shutting down", "Journal stopped")
	l.Wants("sudo journalctl -q -b -o cat | grep -c 'uncleanly shut down\\|recovering journal\\|orphan cleanup' || true", "0")
}
