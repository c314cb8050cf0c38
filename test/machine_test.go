package test

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/cache"
)

// tpm sends a command to the guest's TPM (TCG's Trusted Platform Module Library, part 3) and returns its answer, which must be a good one.
func (m *typing) tpm(command string) []byte {
	m.t.Helper()
	raw, err := hex.DecodeString(strings.ReplaceAll(command, " ", ""))
	if err != nil {
		m.t.Fatal(err)
	}
	var escaped strings.Builder
	for _, b := range raw {
		fmt.Fprintf(&escaped, `\x%02x`, b)
	}
	// a command is one write, and its answer comes on the same open file
	answer, err := hex.DecodeString(m.tell(`printf '` + escaped.String() + `' >/tmp/tpm; exec 3<>/dev/tpm0; dd if=/tmp/tpm bs=4096 count=1 2>/dev/null >&3; ` +
		`dd bs=4096 count=1 2>/dev/null <&3 | hexdump -v -e '1/1 "%02x"'; echo`))
	if err != nil || len(answer) < 10 || string(answer[6:10]) != "\x00\x00\x00\x00" {
		m.t.Fatalf("the TPM answers % x, %v", answer, err)
	}
	return answer
}

// Commands to the TPM: make a space of eight bytes that outlives a reset, write to it, read it. All as the owner, who has no password.
const (
	defineSpace = "8002 0000002d 0000012a 40000001 00000009 40000009 0000 00 0000 0000 000e 01500001 000b 00060006 0000 0008"
	writeSpace  = "8002 0000002b 00000137 40000001 01500001 00000009 40000009 0000 00 0000 0008 766d656e74727921 0000"
	readSpace   = "8002 00000023 0000014e 40000001 01500001 00000009 40000009 0000 00 0000 0008 0000"
	written     = "vmentry!"
)

// unprivileged is a command line that runs another as somebody who may do nothing special, with directories of a VM made that one's.
func unprivileged(t *testing.T, dirs ...string) []string {
	t.Helper()
	if os.Getuid() != 0 {
		return nil // the test itself is
	}
	const nobody = 65534
	for _, d := range append(dirs, filepath.Dir(dirs[0])) {
		if err := os.Chown(d, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	return []string{"setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all", "--no-new-privs"}
}

// readable are settings whose kernel and initial RAM disk are in dir: not everybody can read a cache that is in somebody's home.
func readable(t *testing.T, dir string, settings []string) []string {
	t.Helper()
	for i, s := range settings {
		name, path, _ := strings.Cut(s, "=")
		if name != "VM_KERNEL" && name != "VM_INITRD" {
			continue
		}
		content, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		settings[i] = name + "=" + filepath.Join(dir, filepath.Base(path))
		if err := os.WriteFile(filepath.Join(dir, filepath.Base(path)), content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return settings
}

// TestTPM: what a guest keeps in its TPM is there after vmentry was killed; nobody else gets at it meanwhile; and the VM does not outlive it.
// All that by a user without privileges.
func TestTPM(t *testing.T) {
	t.Parallel()
	data, run := dirs(t)
	as := unprivileged(t, data, run)
	settings := readable(t, filepath.Dir(data), tiny(t, "vmtest.commands vmtest.dhcp=none", "VM_TPM=true"))
	if out, code := command(t, environment(data, run, settings...), "plan"); code != 0 || !strings.Contains(out, "\nswtpm\n") || !strings.Contains(out, filepath.Join(data, "tpm")) {
		t.Errorf("plan: %d, %s", code, out)
	}
	m := startTyping(t, data, run, settings, as...)
	m.stdout.Await(t, tinyReady)
	if v := m.tell("cat /sys/class/tpm/tpm0/tpm_version_major"); v != "2" {
		t.Errorf("the guest sees a TPM of version %q", v)
	}
	m.tpm(defineSpace)
	m.tpm(writeSpace)
	run2, _ := dirs(t)
	startIn(t, data, run2, settings).wants(74, "in use by")
	m.signal(syscall.SIGKILL)
	m.exit()

	m = startTyping(t, data, run, settings, as...)
	m.stdout.Await(t, tinyReady)
	if got := m.tpm(readSpace); !strings.Contains(string(got), written) {
		t.Errorf("the TPM has forgotten: % x", got)
	}
	for _, pid := range processesWith(t, filepath.Join(data, "tpm")) {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	m.wants(69, "swtpm has ended: killed by signal 9")
	if left := contents(t, run); len(left) > 0 {
		t.Errorf("left in the run directory: %v", left)
	}
}

// processesWith are those whose command line has a word that begins with what swtpm is told its state by.
func processesWith(t *testing.T, state string) (pids []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		line, _ := os.ReadFile(file)
		var pid int
		if strings.Contains(string(line), "\x00dir="+state+",") {
			fmt.Sscan(filepath.Base(filepath.Dir(file)), &pid)
			pids = append(pids, pid)
		}
	}
	if pids == nil {
		t.Fatal("there is no swtpm")
	}
	return pids
}

// signed are the settings of a machine as Windows 11 wants it, with the CD that boots under Secure Boot in its drive.
func signed(iso string) []string {
	return []string{
		"VM_IMAGE=" + iso, "VM_DISK_SIZE=64M", "VM_FIRMWARE=secureboot", "VM_TPM=true", "VM_DISK_BUS=sata", "VM_NIC_MODEL=e1000e", "VM_DISPLAY=vnc",
		"VM_MEMORY=512M", "VM_CPUS=2", "VM_NAME=signed",
	}
}

// TestSecureBoot installs nothing, but boots what could: a signed shim, GRUB and kernel from a CD. It finds Secure Boot on, a TPM, and the
// devices that Windows has drivers for. One byte of the boot loader changed, and the firmware refuses it.
func TestSecureBoot(t *testing.T) {
	t.Parallel()
	iso := filepath.Join(cache.Dir(t, "signedcd", "cd.iso"), "cd.iso")
	data, run := dirs(t)
	m := startTyping(t, data, run, append(signed(iso), "HOSTFWD=none", "VM_READY=none"))
	m.stdout.Await(t, tinyReady)
	m.secure()
	for command, want := range map[string]string{
		"cat /sys/class/tpm/tpm0/tpm_version_major":              "2",
		"cat /sys/block/sda/size":                                "131072",
		"basename $(readlink -f /sys/block/sda/device/../../..)": "ata1",
		"basename $(readlink /sys/class/net/eth0/device/driver)": "e1000e",
		"cat /sys/block/sr0/device/type":                         "5",
		"grep -c ^processor /proc/cpuinfo":                       "2",
	} {
		if got := m.tell(command); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	if out, _ := m.call("status", "-o", "json"); !strings.Contains(out, `"firmware": "secureboot"`) {
		t.Errorf("status: %s", out)
	}
	m.signal(syscall.SIGTERM)
	m.wants(0, "shut down as asked")
	if !exists(filepath.Join(data, "nvram-secureboot.fd")) || !exists(filepath.Join(data, "tpm")) {
		t.Errorf("the data directory has %v", contents(t, data))
	}
}

// secure checks that the guest's kernel knows Secure Boot to be on, by the variable and in its own words.
func (m *typing) secure() {
	m.t.Helper()
	m.tell("modprobe -q efivarfs; mount -t efivarfs efivarfs /sys/firmware/efi/efivars")
	if v := m.tell(`hexdump -v -e '1/1 "%02x"' /sys/firmware/efi/efivars/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c; echo`); !strings.HasSuffix(v, "01") {
		m.t.Errorf("the variable SecureBoot is %s", v)
	}
	m.tell("dmesg | grep -i 'secure boot enabled'")
}

// TestSecureBootRefuses: one byte of the boot loader is another, and its signature is worth nothing.
func TestSecureBootRefuses(t *testing.T) {
	t.Parallel()
	content, err := os.ReadFile(filepath.Join(cache.Dir(t, "signedcd", "cd.iso"), "cd.iso"))
	if err != nil {
		t.Fatal(err)
	}
	// a text in shim, which is on the CD in a FAT file system
	i := strings.Index(string(content), "UEFI SHIM")
	if i < 0 {
		t.Fatal("there is no shim on the CD")
	}
	content[i] ^= 1
	iso := filepath.Join(t.TempDir(), "tampered.iso")
	if err := os.WriteFile(iso, content, 0o644); err != nil {
		t.Fatal(err)
	}
	m := start(t, append(signed(iso), "HOSTFWD=none", "VM_READY=boot", "VM_SHUTDOWN_TIMEOUT=0"))
	m.stderr.Await(t, "Secure Boot refuses")
	if out, code := m.call("probe", "startup"); code != 1 || !strings.Contains(out, "Secure Boot refuses") {
		t.Errorf("probe startup: %d, %s", code, out)
	}
	m.signal(syscall.SIGTERM) // the firmware knows no button
	m.wants(75)
	if strings.Contains(m.stdout.String(), "vmtest:") {
		t.Error("it has booted")
	}
}

// arm64 is a tiny guest of that architecture, which is emulated here.
func arm64(t *testing.T, words string, settings ...string) []string {
	t.Helper()
	dir := cache.Dir(t, "tinyguest-on-arm64", "vmlinuz", "initrd")
	return append([]string{
		"VM_ARCH=arm64", "VM_KERNEL=" + filepath.Join(dir, "vmlinuz"), "VM_INITRD=" + filepath.Join(dir, "initrd"), "VM_CMDLINE=console=ttyAMA0 quiet panic=0 " + words,
		"VM_IMAGE=none", "VM_MEMORY=512M", "VM_CPUS=2", "HOSTFWD=none", "VM_READY=none", "VM_NAME=arm",
	}, settings...)
}

// TestARM64: a guest of another architecture has what others have: console, disk, seed, network card, configuration, clock, button, watchdog,
// balloon and TPM. Debian's kernel for it has no driver for the device by which others say that they have panicked.
func TestARM64(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "config.ign")
	if err := os.WriteFile(file, []byte(`{"ignition":{"version":"3.1.0"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	data, run := dirs(t)
	m := startTyping(t, data, run, arm64(t, "vmtest.commands vmtest.disks vmtest.cat=fw_cfg vmtest.listen=22",
		"VM_IMAGE="+image(t, "qcow2"), "VM_DISK_SIZE=1G", "CLOUD_CONFIG=#cloud-config\nhostname: x\n", "IGNITION_CONFIG_FILE="+file, "VM_READY=tcp:22", "VM_WATCHDOG=reset", "VM_TPM=true"))
	m.stdout.Await(t, tinyReady)
	m.stderr.Await(t, "INF ready")
	for _, want := range []string{"vmtest: firmware uefi", "vmtest: cpus 2", " 1073741824 ro=0 ", "label=cidata", "virtio_net", "vmtest: address 10.0.2.15/24"} {
		if !strings.Contains(m.stdout.String(), want) {
			t.Errorf("the guest did not say %q", want)
		}
	}
	if given, err := os.ReadFile(filepath.Join(run, "ignition.fw_cfg")); err != nil || !strings.Contains(m.stdout.String(), fmt.Sprintf("vmtest: fw_cfg %d %x", len(given), sha256.Sum256(given))) {
		t.Errorf("the guest has another configuration than %q, %v", given, err)
	}
	for command, want := range map[string]string{
		"uname -m":    "aarch64",
		"date -u +%Y": fmt.Sprint(time.Now().UTC().Year()), // of a machine with a clock
		"cat /sys/class/watchdog/watchdog0/identity":                   "i6300ESB timer",
		"ls /sys/bus/acpi/devices | grep -c ^MSFT0101":                 "1", // this kernel has no driver for its interface, TIS
		"ls -d /sys/bus/virtio/drivers/virtio_balloon/virtio* | wc -l": "1",
	} {
		if got := m.tell(command); got != want {
			t.Errorf("%s: %q, want %q", command, got, want)
		}
	}
	m.signal(syscall.SIGTERM)
	m.wants(0, "shut down as asked")
}

// TestARM64SecureBoot: its firmware boots from a CD what is signed.
func TestARM64SecureBoot(t *testing.T) {
	t.Parallel()
	data, run := dirs(t)
	m := startTyping(t, data, run, []string{
		"VM_ARCH=arm64", "VM_FIRMWARE=secureboot", "VM_IMAGE=" + filepath.Join(cache.Dir(t, "signedcd-on-arm64", "cd.iso"), "cd.iso"), "VM_DISK_SIZE=64M",
		"VM_MEMORY=512M", "VM_CPUS=1", "HOSTFWD=none", "VM_READY=none", "VM_NAME=arm",
	})
	m.stdout.Await(t, tinyReady)
	m.secure()
	m.signal(syscall.SIGTERM)
	m.wants(0, "shut down as asked")
}

// TestKVMBelongsToAGroup: a container that may not open /dev/kvm is told which group it has to be in, and with that group it goes on.
func TestKVMBelongsToAGroup(t *testing.T) {
	t.Parallel()
	settings := append(pretend("poweroff=10ms"), "VM_IMAGE=none", "VM_KERNEL=/bin/true", "VM_ACCEL=kvm", "VM_NETWORK=none")
	plan := func(groups ...string) (string, error) {
		script := `mount --make-rprivate / && mount -t tmpfs none /mnt && cp -a /dev/null /dev/zero /dev/random /dev/urandom /mnt && mknod /mnt/kvm c 10 232 &&
			chgrp 4711 /mnt/kvm && chmod 0660 /mnt/kvm && mount --bind /mnt /dev && exec setpriv --reuid=1000680000 --regid=0 --inh-caps=-all --bounding-set=-all "$@"`
		cmd := exec.Command("unshare", slices.Concat([]string{"--mount", "sh", "-ec", script, "sh"}, groups, []string{binaries.VMEntry, "plan"})...)
		cmd.Env = environment("/nonexistent/data", "/run/nonexistent", settings...)
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	out, err := plan("--clear-groups")
	var end *exec.ExitError
	if !errors.As(err, &end) || end.ExitCode() != 69 || !strings.Contains(out, "supplementalGroups: [4711]") || !strings.Contains(out, "--group-add 4711") {
		t.Errorf("without the group: %v: %s", err, out)
	}
	if out, _ := plan("--groups=4711"); strings.Contains(out, "may not be opened") {
		t.Errorf("with the group: %s", out)
	}
}
