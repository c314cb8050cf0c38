package test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vmentry/vmentry/test/process"
)

// TestQEMUDoesNotVisit: at its sockets vmentry answers those who come from outside, and not its own QEMU, whosever that is.
func TestQEMUDoesNotVisit(t *testing.T) {
	t.Parallel()
	for name, own := range map[string]bool{"a user of its own": true, "vmentry's user": false} {
		data, run := dirs(t)
		dir := filepath.Dir(data)
		log, disk := filepath.Join(dir, "log"), filepath.Join(dir, "disk")
		if err := os.WriteFile(log, nil, 0o666); err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(os.Chmod(log, 0o666), os.Rename(image(t, "raw"), disk)); err != nil {
			t.Fatal(err)
		}
		command := []string{binaries.VMEntry}
		if !own {
			command = append(unprivileged(t, data, run), command...)
		}
		cmd := exec.Command(command[0], command[1:]...)
		cmd.Env = environment(data, run, append(pretend("visit,console=hello"), "FAKE_QEMU_LOG="+log, "VM_ARGS=-D "+log, "VM_IMAGE="+disk, "VM_READY=none")...)
		p := process.Start(t, cmd)
		p.Stdout.Await(t, "hello") // after its visits
		want := []string{"visit console.sock", "visit control.sock", "visit guest-agent.sock", "visit vmentry.sock"}
		if got := visits(strings.Join(lines(t, log), "\n"), "kept out"); !slices.Equal(got, want) {
			t.Errorf("%s: QEMU is kept out at %q:\n%s", name, got, strings.Join(lines(t, log), "\n"))
		}
		out, err := exec.Command(filepath.Join(binaries.FakeQEMU, "qemu-system-x86_64"), "visit", run).CombinedOutput()
		if got := visits(string(out), "answered"); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: those from outside are answered at %q: %v\n%s", name, got, err, out)
		}
		p.Signal(t, syscall.SIGTERM)
		p.Wants(t, 0)
	}
}

// visits are the visits with an outcome, of the fake QEMU.
func visits(log, outcome string) (all []string) {
	for line := range strings.Lines(log) {
		if visit, rest, ok := strings.Cut(line, ": "); ok && strings.HasPrefix(visit, "visit ") && strings.HasPrefix(rest, outcome) {
			all = append(all, visit)
		}
	}
	slices.Sort(all)
	return all
}

// TestQEMUImgIsShutIn: the program that reads foreign images reaches the image and what it makes of it, and nothing else.
func TestQEMUImgIsShutIn(t *testing.T) {
	t.Parallel()
	// a reference that no check has seen
	hostile := filepath.Join(t.TempDir(), "hostile.qcow2")
	look := []string{"qemu-img", "info", "--backing-chain", hostile}
	for _, command := range [][]string{{"qemu-img", "create", "-q", "-f", "qcow2", "-b", "/etc/shadow", "-F", "raw", hostile, "1M"}, look} {
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%q: %v: %s", command, err, out)
		}
	}
	program, err := exec.LookPath("qemu-img")
	if err != nil {
		t.Fatal(err)
	}
	for read, code := range map[string]int{hostile: 1, "/etc/shadow": 0} { // the second makes sure that it is the want of the first that keeps it out
		args := []string{"confine", "--read=/usr", "--read=/bin", "--read=/lib", "--read=/lib64", "--read=/etc/ld.so.cache", "--read=" + hostile, "--read=" + read, "--write=/dev/null", "--", program}
		out, got := command(t, os.Environ(), append(args, look[1:]...)...)
		if got != code || strings.Contains(out, "Permission denied") != (code == 1) {
			t.Errorf("with %s it ends with %d: %s", read, got, out)
		}
	}

	// as a program would that an image has made its own
	dir, beside := t.TempDir(), filepath.Join(t.TempDir(), "beside")
	stolen := filepath.Join(dir, "secret")
	for name, content := range map[string]string{"secret": "hunter2", "qemu-img": "#!/bin/sh\necho >" + beside + "\ncat " + stolen + " >&2\nexit 1\n"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "qemu-img"), filepath.Join(bin, "qemu-img")); err != nil {
		t.Fatal(err)
	}
	pretended, raw := pretend("poweroff=10ms"), "VM_IMAGE="+image(t, "raw")
	for name, settings := range map[string][]string{
		"a copy":           {"VM_IMAGE=" + image(t, "qcow2"), "VM_DISK_MODE=copy"},
		"a conversion":     {"VM_IMAGE=" + image(t, "vmdk")},
		"a larger overlay": {raw, "VM_DISK_SIZE=64G"},
		"a larger disk":    {raw, "VM_DISKS=more=2M"},
	} {
		data, run := dirs(t)
		if strings.Contains(name, "larger") {
			startIn(t, data, run, append(pretended, raw, "VM_DISKS=more=1M")).wants(0)
		}
		m := startIn(t, data, run, append(append(pretended, settings...), strings.Replace(pretended[0], "PATH=", "PATH="+bin+":", 1)))
		m.wants(74, "cat: "+stolen+": Permission denied")
		if strings.Contains(m.stderr.String(), "hunter2") || exists(beside) {
			t.Errorf("%s: qemu-img was not shut in", name)
		}
	}

	// and all that is to be done can be done
	for _, format := range []string{"vmdk", "vdi", "vpc", "vhdx"} {
		settings := append(pretend("poweroff=10ms"), "VM_IMAGE="+image(t, format))
		m := start(t, append(settings, "VM_DISKS=more=1M"))
		m.wants(0)
		m.does(0, "exported", "snapshot", "export", filepath.Join(t.TempDir(), "export.qcow2"))
		m = startIn(t, m.data, m.run, append(settings, "VM_DISKS=more=2M", "VM_DISK_SIZE=64G", "VM_DISK_MODE=copy"))
		m.wants(0, "and keep the overlay aside")
	}
}
