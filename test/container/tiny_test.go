package container

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestVersions tells which QEMU these tests are about.
func TestVersions(t *testing.T) {
	t.Logf("in the image:\n%s", command(t, "run", "--rm", "--pull=never", image, "version"))
	host, err := exec.Command("qemu-system-x86_64", "--version").Output()
	if err != nil {
		t.Logf("this machine has no QEMU of its own: %v", err)
		return
	}
	t.Logf("this machine's, which the tests outside of containers run:\n%s", host)
}

// unprivileged are options that leave a container nothing but its two directories.
func unprivileged(t *testing.T, user string) (options []string, data string) {
	data = anybodys(t)
	options = []string{"--read-only", "--user", user, "--cap-drop", "ALL", "--security-opt", "no-new-privileges",
		"--tmpfs", "/run/vmentry:mode=1777", "--volume", data + ":/var/lib/vmentry"}
	if engine == "podman" {
		options = append(options, "--read-only-tmpfs=false") // it would mount /tmp and /run, which docker and Kubernetes do not
	}
	return options, data
}

func TestUnprivileged(t *testing.T) {
	options, data := unprivileged(t, "1000:1000")
	m := run(t, tiny(t, "vmtest.disks vmtest.write=hello", append(options, settings("CLOUD_CONFIG=#cloud-config\nhostname: x\n", "VM_VOLUMES=tiny=/tiny:ro")...)...))
	m.stdout.Await(t, tinyReady)
	m.stop()
	m.shows(" 12884901888 ro=0 ", "label=cidata", "vmtest: wrote hello")
	m.logs("virtiofsd runs shut in by Landlock", "with no capability")
	if _, err := os.Stat(filepath.Join(data, "disk", "overlay.qcow2")); err != nil {
		t.Error(err)
	}
}

// TestPanic: what the kernel has said last is the container's termination message.
func TestPanic(t *testing.T) {
	log := filepath.Join(t.TempDir(), "log")
	if err := os.WriteFile(log, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	m := run(t, tiny(t, "vmtest.panic=0", "--volume", log+":/dev/termination-log"))
	m.wants(71, "panicked")
	message, _ := os.ReadFile(log)
	for _, want := range []string{"(exit code 71)\n", "vmtest: panic\n", "Kernel panic - not syncing: sysrq triggered crash\n"} {
		if !strings.Contains(string(message), want) {
			t.Errorf("the termination message does not say %q:\n%s", want, message)
		}
	}
}

// TestSecondContainerOnTheSameData must be refused, and say by whom.
func TestSecondContainerOnTheSameData(t *testing.T) {
	data := volume(t)
	first := run(t, tiny(t, "", append(data, "--hostname", "the-first-one")...))
	first.stderr.Await(t, "QEMU started")
	run(t, tiny(t, "", data...)).wants(74, "the-first-one", "/var/lib/vmentry")
	first.stdout.Await(t, tinyReady)
	first.stop()
}

// TestInit: with the engine's small init before it, vmentry is not the first process.
func TestInit(t *testing.T) {
	m := run(t, tiny(t, "", "--init"))
	m.stdout.Await(t, tinyReady)
	if m.first() == "vmentry" {
		t.Error("--init has put no other process before vmentry")
	}
	m.stop()
}

// TestSharedProcesses: in a pod whose containers see each other's processes, vmentry is not the first either.
func TestSharedProcesses(t *testing.T) {
	pause := run(t, []string{"--entrypoint", "/usr/bin/swtpm"}, "socket", "--tpm2", "--tpmstate", "dir=/tmp", "--ctrl", "type=unixio,path=/tmp/control")
	for running := ""; running != "true"; {
		out, _ := exec.Command(engine, "inspect", "--format", "{{.State.Running}}", pause.name).Output()
		running = strings.TrimSpace(string(out))
	}
	m := run(t, tiny(t, "", "--pid", "container:"+pause.name))
	m.stdout.Await(t, tinyReady)
	if first := m.first(); first != "swtpm" {
		t.Errorf("the first process is %s", first)
	}
	m.stop()
}

// TestWithoutSupervision: the container's first process is QEMU, and nobody presses the power button.
func TestWithoutSupervision(t *testing.T) {
	m := run(t, tiny(t, "", settings("VM_SUPERVISE=false")...))
	m.stdout.Await(t, tinyReady)
	if first := m.first(); !strings.HasPrefix(first, "qemu-system") {
		t.Errorf("the first process is %s", first)
	}
	m.engine("stop", m.name)
	if code := m.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if strings.Contains(m.stdout.String(), "vmtest: button pressed") {
		t.Error("the guest's button was pressed")
	}
}

// TestTerminal uses the console as one who has said -it: what is typed goes to the guest, Ctrl-C too.
func TestTerminal(t *testing.T) {
	m := prepare(t, tiny(t, "vmtest.shell", "--interactive", "--tty"))
	typed := m.onTerminal()
	m.stdout.Await(t, tinyReady)
	m.stdout.Await(t, "# ") // the shell's prompt
	typed("echo six times seven: $((6*7))\r")
	m.stdout.Await(t, "six times seven: 42")
	// what catches the signal is there before it says so
	typed("sh -c 'trap \"echo caught \\$((2+2)); exit\" INT; echo begun $((1+1)); while :; do sleep 1; done'\r")
	m.stdout.Await(t, "begun 2")
	typed("\x03")
	m.stdout.Await(t, "^C")
	m.stdout.Await(t, "caught 4")
	m.engine("stop", m.name)
	if code := m.exit(); code != 0 {
		t.Errorf("exit code %d", code)
	}
	m.shows("vmtest: button pressed", "shut down as asked")
}
