package test

import (
	"crypto/sha256"
	"fmt"
	"net"
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

// tiny are the settings for the guest that boots in seconds, told by words what to do (see tinyguest/init). There is no
// fake in these tests: QEMU is the one that is installed.
func tiny(t testing.TB, words string, settings ...string) []string {
	t.Helper()
	return guestOf(t, "tinyguest", words, settings...)
}

// guestOf is [tiny] with the guest in a directory of the cache.
func guestOf(t testing.TB, name, words string, settings ...string) []string {
	t.Helper()
	dir := cache.Dir(t, name, "vmlinuz", "initrd")
	return append([]string{
		"VM_KERNEL=" + filepath.Join(dir, "vmlinuz"), "VM_INITRD=" + filepath.Join(dir, "initrd"), "VM_CMDLINE=console=ttyS0 quiet no_timer_check panic=0 " + words,
		"VM_IMAGE=none", "VM_MEMORY=256M", "VM_CPUS=1", "HOSTFWD=none", "VM_READY=none", "VM_NAME=tiny",
	}, settings...)
}

const tinyReady = "vmtest: ready"

func TestGuestPowersOff(t *testing.T) {
	t.Parallel()
	m := start(t, tiny(t, "vmtest.poweroff=0", "VM_MEMORY=300M", "VM_CPUS=2"))
	m.wants(0, "powered itself off", "accelerator: tcg", "first console byte")
	for _, s := range []string{"vmtest: cpus 2", "vmtest: mem "} {
		if !strings.Contains(m.stdout.String(), s) {
			t.Errorf("the guest did not say %q", s)
		}
	}
}

func TestGuestIsStopped(t *testing.T) {
	t.Parallel()
	m := start(t, tiny(t, ""))
	m.stdout.Await(t, tinyReady)
	m.signal(syscall.SIGTERM)
	m.wants(0, "shut down as asked")
	if !strings.Contains(m.stdout.String(), "vmtest: power off") {
		t.Error("the guest did not shut down by itself")
	}
}

// TestQMPClientThatHangs: somebody who keeps QEMU's socket for himself keeps others from the buttons, and is told as the reason, but neither from probes nor from
// a shutdown.
func TestQMPClientThatHangs(t *testing.T) {
	t.Parallel()
	m := start(t, tiny(t, ""))
	m.stdout.Await(t, tinyReady)
	conn, err := net.Dial("unix", filepath.Join(m.run, "qemu/probe.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil { // QEMU's greeting: it is ours
		t.Fatal(err)
	}
	m.probe(0)
	m.does(70, "one at a time", "pause")
	conn.Close()
	m.press("pause")
	m.press("resume")
	if conn, err = net.Dial("unix", filepath.Join(m.run, "qemu/probe.sock")); err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m.signal(syscall.SIGTERM)
	m.wants(0, "shut down as asked")
}

// TestStopWhileTheGuestBoots: the first press of the button is missed; a later one is not.
func TestStopWhileTheGuestBoots(t *testing.T) {
	t.Parallel()
	m := start(t, tiny(t, ""))
	m.stderr.Await(t, "first console byte")
	m.signal(syscall.SIGTERM)
	m.wants(0, "shut down as asked")
}

func TestGuestIgnoresTheButton(t *testing.T) {
	t.Parallel()
	m := start(t, tiny(t, "vmtest.ignore-button", "VM_SHUTDOWN_TIMEOUT=2s"))
	m.stdout.Await(t, tinyReady)
	m.signal(syscall.SIGTERM)
	m.wants(75, "did not shut down within 2s")
	if !strings.Contains(m.stdout.String(), "vmtest: button pressed") {
		t.Error("the guest's button was not pressed")
	}
}

func TestGuestPanics(t *testing.T) {
	t.Parallel()
	m := start(t, tiny(t, "vmtest.panic=0"))
	m.wants(71, "panicked")
}

// TestGuestStarvesItsWatchdog: a watchdog that is fed does nothing; one that is not does what VM_WATCHDOG says.
func TestGuestStarvesItsWatchdog(t *testing.T) {
	t.Parallel()
	const unfed = "the guest has not fed its watchdog"
	for _, tt := range []struct {
		action string
		code   int
		says   string
	}{
		{"poweroff", 0, "the end: the guest was powered off"},
		{"exit", 72, "the end: the guest hangs"},
	} {
		t.Run(tt.action, func(t *testing.T) {
			t.Parallel()
			m := start(t, tiny(t, "vmtest.watchdog=3 vmtest.starve=0", "VM_WATCHDOG="+tt.action))
			m.stdout.Await(t, "vmtest: fed")
			m.wants(tt.code, unfed, "action="+tt.action, tt.says)
		})
	}
	t.Run("reset", func(t *testing.T) {
		t.Parallel()
		m := start(t, tiny(t, "vmtest.watchdog=8 vmtest.starve=10", "VM_WATCHDOG=reset"))
		m.stdout.Await(t, "vmtest: starved") // it was fed for longer than it waits
		m.stderr.Await(t, unfed)
		m.stderr.Await(t, "the guest restarts")
		m.stdout.AwaitTimes(t, tinyReady, 2)
		m.signal(syscall.SIGTERM)
		m.wants(0)
	})
	t.Run("none", func(t *testing.T) {
		t.Parallel()
		m := start(t, tiny(t, "vmtest.watchdog=3"))
		m.stdout.Await(t, "No such file or directory") // the guest's feeder finds no device
		m.signal(syscall.SIGTERM)
		m.wants(0)
	})
}

func TestGuestChoosesItsCode(t *testing.T) {
	t.Parallel()
	start(t, tiny(t, "vmtest.exit=42")).wants(42, "the guest chose 42")
}

func TestGuestReboots(t *testing.T) {
	t.Parallel()
	m := start(t, tiny(t, "vmtest.reboot=0", "VM_REBOOT=exit"))
	m.wants(76)
	m = start(t, tiny(t, "vmtest.reboot-once vmtest.write=x", "VM_IMAGE="+image(t, "raw")))
	m.stderr.Await(t, "the guest restarts")
	m.signal(syscall.SIGTERM)
	m.wants(0)
}

func TestKilledQEMU(t *testing.T) {
	t.Parallel()
	m := start(t, tiny(t, ""))
	m.stdout.Await(t, tinyReady)
	pid := qemuOf(t, m)
	syscall.Kill(pid, syscall.SIGKILL)
	m.wants(137, "signal 9")

	m = start(t, tiny(t, ""))
	m.stdout.Await(t, tinyReady)
	syscall.Kill(qemuOf(t, m), syscall.SIGTERM)
	m.wants(70, "a signal that vmentry did not send")
}

// qemuOf is the process of m's QEMU.
func qemuOf(t testing.TB, m *machine) int {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", m.cmd.Process.Pid, m.cmd.Process.Pid))
	if err == nil {
		var pid int
		if n, _ := fmt.Sscan(string(data), &pid); n == 1 {
			return pid
		}
	}
	out, err := exec.Command("pgrep", "-P", fmt.Sprint(m.cmd.Process.Pid), "qemu").Output()
	var pid int
	if n, _ := fmt.Sscan(string(out), &pid); n != 1 {
		t.Fatalf("vmentry has no QEMU: %v", err)
	}
	return pid
}

// TestReady: true only when the guest itself answers; not before, and not while it is paused.
func TestReady(t *testing.T) {
	t.Parallel()
	m := start(t, tiny(t, "vmtest.listen=22", "VM_READY=tcp:22"))
	m.stderr.Await(t, "QEMU started")
	if reason := m.probe(1); strings.Contains(reason, "vmentry does not answer") { // it is the guest that does not: its firmware runs
		t.Errorf("a guest that boots is not ready because: %s", reason)
	}
	m.stderr.Await(t, "INF ready")
	m.probe(0)
	m.press("pause")
	if reason := m.probe(1); !strings.Contains(reason, "paused") {
		t.Errorf("a paused guest is not ready because: %s", reason)
	}
	m.press("resume")
	m.probe(0)
	m.press("pause") // a stop must work all the same
	m.signal(syscall.SIGTERM)
	m.wants(0)
	if out, code := m.call("probe", "ready"); code != 1 || !strings.Contains(out, "no VM runs here") {
		t.Errorf("after the end: %d, %s", code, out)
	}
}

// TestNotReady: the guest runs, and nothing listens on the port.
func TestNotReady(t *testing.T) {
	t.Parallel()
	m := start(t, tiny(t, "vmtest.listen=23", "VM_READY=tcp:22", "HOSTFWD="+fmt.Sprint(port(t))+":22"))
	m.stdout.Await(t, tinyReady)
	m.probe(1)
	m.signal(syscall.SIGTERM)
	m.wants(0)
	if strings.Contains(m.stderr.String(), "INF ready") {
		t.Error("it was said to be ready")
	}
}

// probe asks for readiness and checks the answer's code.
func (m *machine) probe(want int) string {
	m.t.Helper()
	out, code := m.call("probe", "ready")
	if code != want {
		m.t.Errorf("probe ready: %d, want %d: %s", code, want, out)
	}
	return out
}

func (m *machine) press(button string) {
	m.t.Helper()
	if out, code := m.call(button); code != 0 {
		m.t.Errorf("%s: %d: %s", button, code, out)
	}
}

func TestButtons(t *testing.T) {
	t.Parallel()
	m := start(t, tiny(t, ""))
	m.stdout.Await(t, tinyReady)
	m.press("reset")
	m.stderr.Await(t, "the guest restarts")
	m.stdout.AwaitTimes(t, tinyReady, 2)
	m.press("powerdown")
	m.wants(0, "powered itself off")
	if out, code := m.call("reset"); code == 0 {
		t.Errorf("the button of a VM that is off works: %s", out)
	}
}

// TestForwards: both spellings, TCP and an address, lead to the guest.
func TestForwards(t *testing.T) {
	t.Parallel()
	a, b := port(t), port(t)
	m := start(t, tiny(t, "vmtest.listen=7", fmt.Sprintf("HOSTFWD=127.0.0.1:%d:7,hostfwd=tcp::%d-:7", a, b), "VM_READY=tcp:7"))
	m.stderr.Await(t, "INF ready")
	for _, p := range []int{a, b} {
		if got := dial(t, p); got != "vmtest\n" {
			t.Errorf("port %d says %q", p, got)
		}
	}
	m.signal(syscall.SIGTERM)
	m.wants(0)
}

// TestConfigurationArrives: the guest reads, byte for byte, what provision prints, small or large.
func TestConfigurationArrives(t *testing.T) {
	t.Parallel()
	small := `{"ignition":{"version":"3.1.0"},"storage":{"files":[{"path":"/etc/x","contents":{"source":"data:,hello"}}]}}`
	large := `{"ignition":{"version":"3.1.0"},"storage":{"files":[{"path":"/etc/x","contents":{"source":"data:,` + strings.Repeat("0123456789", 30<<10) + `"}}]}}`
	for name, config := range map[string]string{"small": small, "large": large} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			file := filepath.Join(t.TempDir(), "config.ign")
			if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
				t.Fatal(err)
			}
			m := start(t, tiny(t, "vmtest.cat=fw_cfg vmtest.poweroff=1", "IGNITION_CONFIG_FILE="+file))
			m.stderr.Await(t, "QEMU started")
			given, err := os.ReadFile(filepath.Join(m.run, "ignition.fw_cfg"))
			if err != nil {
				t.Fatal(err)
			}
			m.wants(0)
			if want := fmt.Sprintf("vmtest: fw_cfg %d %x", len(given), sha256.Sum256(given)); !strings.Contains(m.stdout.String(), want) {
				t.Errorf("the guest did not say %q", want)
			}
			if len(given) > 128<<10 {
				t.Errorf("the guest was made to read %d bytes", len(given))
			}
			if left := contents(t, m.run); len(left) > 0 {
				t.Errorf("left in the run directory: %v", left)
			}
		})
	}
}

// TestDisks: on each bus the guest finds the disk, of the asked size, and the seed by its label.
func TestDisks(t *testing.T) {
	t.Parallel()
	for _, bus := range []string{"virtio", "scsi", "sata", "ide", "nvme"} {
		t.Run(bus, func(t *testing.T) {
			t.Parallel()
			m := start(t, tiny(t, "vmtest.disks vmtest.write=hello vmtest.poweroff=0",
				"VM_IMAGE="+image(t, "qcow2"), "VM_DISK_SIZE=1G", "VM_DISK_BUS="+bus, "CLOUD_CONFIG=#cloud-config\nhostname: x\n"))
			m.wants(0)
			out := m.stdout.String()
			for _, want := range []string{" 1073741824 ro=0 ", "label=cidata", "user-data", "meta-data", "vmtest: wrote hello"} {
				if !strings.Contains(out, want) {
					t.Errorf("the guest did not say %q", want)
				}
			}
		})
	}
}

func TestNICModels(t *testing.T) {
	t.Parallel()
	for model, driver := range map[string]string{"virtio": "virtio_net", "e1000": "e1000", "e1000e": "e1000e", "rtl8139": "8139cp", "vmxnet3": "vmxnet3"} {
		t.Run(model, func(t *testing.T) {
			t.Parallel()
			m := start(t, guestOf(t, "tinyguest-all-cards", "vmtest.poweroff=0", "VM_NIC_MODEL="+model, "VM_MAC=52:54:00:aa:bb:cc"))
			m.wants(0)
			if want := "52:54:00:aa:bb:cc " + driver; !strings.Contains(m.stdout.String(), want) {
				t.Errorf("the guest did not say %q", want)
			}
			if want := "vmtest: address 10.0.2.15/24"; !strings.Contains(m.stdout.String(), want) {
				t.Errorf("the guest did not say %q", want)
			}
		})
	}
}

// TestDataOutliveRestarts writes in one start and reads in the next: after a clean end, after QEMU was killed, and after
// vmentry was.
func TestDataOutliveRestarts(t *testing.T) {
	t.Parallel()
	img := "VM_IMAGE=" + image(t, "qcow2")
	m := start(t, tiny(t, "vmtest.write=first vmtest.poweroff=0", img))
	m.wants(0)
	m = startIn(t, m.data, m.run, tiny(t, "vmtest.read vmtest.write=second", img))
	m.stdout.Await(t, tinyReady)
	syscall.Kill(qemuOf(t, m), syscall.SIGKILL)
	m.wants(137)
	if !strings.Contains(m.stdout.String(), "vmtest: read first") {
		t.Error("what was written before a clean end is gone")
	}
	m = startIn(t, m.data, m.run, tiny(t, "vmtest.read vmtest.write=third", img))
	m.stdout.Await(t, tinyReady)
	m.signal(syscall.SIGKILL)
	m.exit()
	if !strings.Contains(m.stdout.String(), "vmtest: read second") {
		t.Error("what was written before QEMU was killed is gone")
	}
	m = startIn(t, m.data, m.run, tiny(t, "vmtest.read vmtest.poweroff=0 vmtest.disks", img, "VM_DISK_SIZE=13G"))
	m.wants(0)
	for _, want := range []string{"vmtest: read third", " 13958643712 ro=0 "} {
		if !strings.Contains(m.stdout.String(), want) {
			t.Errorf("the guest did not say %q", want)
		}
	}
}

// TestUEFI boots the kernel by OVMF, and its variables are kept.
func TestUEFI(t *testing.T) {
	t.Parallel()
	m := start(t, tiny(t, "vmtest.poweroff=0", "VM_FIRMWARE=uefi"))
	m.wants(0)
	if !strings.Contains(m.stdout.String(), "vmtest: firmware uefi") {
		t.Error("the guest did not boot by UEFI")
	}
	if !exists(filepath.Join(m.data, "nvram.fd")) {
		t.Errorf("the variables are not in the data directory: %v", contents(t, m.data))
	}
}

// TestKVM: where a KVM opens that cannot run guests, it is not chosen; asked for by name, QEMU does start with it.
func TestKVM(t *testing.T) {
	out, code := command(t, environment("/nonexistent", "/run/x", tiny(t, "")...), "plan")
	if code != 0 {
		t.Fatal(out)
	}
	f, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		if !strings.Contains(out, "tcg") || !strings.Contains(out, "/dev/kvm") {
			t.Errorf("without KVM:\n%s", out)
		}
		start(t, tiny(t, "", "VM_ACCEL=kvm")).wants(69, "VM_ACCEL=kvm", "/dev/kvm")
		return
	}
	f.Close()
	m := start(t, tiny(t, "", "VM_ACCEL=kvm", "VM_CPU_MODEL=qemu64"))
	m.stderr.Await(t, "QEMU started") // whether a guest runs on it is another question
	m.signal(syscall.SIGINT)
	time.Sleep(100 * time.Millisecond)
	m.signal(syscall.SIGINT)
	m.exit()
}

// TestPlanAsShell boots the same VM from the pasted script.
func TestPlanAsShell(t *testing.T) {
	t.Parallel()
	data, run := dirs(t)
	p := port(t)
	img := image(t, "qcow2")
	config := "CLOUD_CONFIG=#cloud-config\nhostname: pasted\n"
	env := environment(data, run, tiny(t, "vmtest.disks vmtest.cat=fw_cfg vmtest.poweroff=0", "VM_IMAGE="+img, fmt.Sprintf("HOSTFWD=%d:22", p), config, "VM_FIRMWARE=uefi")...)
	script, code := command(t, env, "plan", "-o", "shell")
	if code != 0 {
		t.Fatal(script)
	}
	if left := append(contents(t, data), contents(t, run)...); len(left) > 0 {
		t.Fatalf("plan has changed something: %v", left)
	}
	sh := exec.Command("sh", "-s")
	sh.Env = append(env, "PATH="+filepath.Dir(binaries.VMEntry)+":"+os.Getenv("PATH"))
	sh.Stdin = strings.NewReader(script)
	pasted, err := sh.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s\nscript:\n%s", err, pasted, script)
	}
	data2, run2 := dirs(t)
	booted := startIn(t, data2, run2, tiny(t, "vmtest.disks vmtest.cat=fw_cfg vmtest.poweroff=0", "VM_IMAGE="+img, fmt.Sprintf("HOSTFWD=%d:22", p), config, "VM_FIRMWARE=uefi"))
	booted.wants(0)
	if a, b := said(string(pasted)), said(booted.stdout.String()); a != b {
		t.Errorf("the pasted VM said:\n%s\nand the booted one:\n%s", a, b)
	}
}

// said is what the tiny guest said, without what is different each time.
func said(console string) string {
	var kept []string
	for line := range strings.Lines(console) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "vmtest: ") && !strings.HasPrefix(line, "vmtest: mem") && !strings.HasPrefix(line, "vmtest: lease") {
			kept = append(kept, line)
		}
	}
	slices.Sort(kept) // the button is watched beside the rest
	return strings.Join(kept, "\n")
}
