package container

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"strings"
	"testing"
)

// plan runs `vmentry plan` in a container that may do nothing at all, and returns what it printed on each stream.
func plan(t *testing.T, options []string, args ...string) (out, messages string, code int) {
	t.Helper()
	free, data := unprivileged(t, "65534:65534")
	words := append([]string{"run", "--rm", "--name", unique(t), "--pull=never", "--network", "none"}, free...)
	words = append(append(append(words, options...), image, "plan"), args...)
	cmd := exec.Command(engine, words...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	cmd.Run()
	left, err := os.ReadDir(data)
	if err != nil {
		t.Fatal(err)
	}
	if len(left) > 0 {
		t.Errorf("plan has changed something: %v", left)
	}
	return stdout.String(), stderr.String(), cmd.ProcessState.ExitCode()
}

// TestPlan: the three forms, on a read-only file system without network and privilege.
func TestPlan(t *testing.T) {
	config := settings("CONFIG=variant: fcos\nversion: 1.4.0\nstorage: {files: [{path: /etc/x, contents: {inline: a-secret}}]}\n", "VM_MEMORY=1G")
	for format, says := range map[string][]string{
		"text":  {"Ignition 3.3", "/var/lib/vmentry/disk/overlay.qcow2", "qemu-system-x86_64", "accelerator    tcg"},
		"json":  {`"ignitionVersion": "3.3.0"`},
		"shell": {"set -e", "vmentry provision -o /run/vmentry", "qemu-img create", "qemu-system-x86_64"},
	} {
		out, messages, code := plan(t, config, "-o", format)
		if code != 0 {
			t.Errorf("%s: exit code %d:\n%s", format, code, messages)
		}
		for _, s := range says {
			if !strings.Contains(out, s) {
				t.Errorf("%s does not say %q:\n%s", format, s, out)
			}
		}
		if strings.Contains(out+messages, "a-secret") {
			t.Errorf("%s tells what is in the guest's configuration", format)
		}
		if format == "json" && !json.Valid([]byte(out)) {
			t.Errorf("this is not JSON:\n%s", out)
		}
	}
}

// TestLimits: memory and processors follow those of the container.
func TestLimits(t *testing.T) {
	out, messages, code := plan(t, []string{"--memory", "1g", "--cpus", "1.5"}, "-o", "json")
	if code != 0 {
		t.Fatalf("exit code %d:\n%s", code, messages)
	}
	var p struct {
		Settings []struct{ Name, Value, Why string }
		QEMU     struct{ Arguments []string }
	}
	if err := json.Unmarshal([]byte(out), &p); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	for _, s := range p.Settings {
		switch s.Name {
		case "memory":
			if !strings.Contains(s.Why, "1GiB") {
				t.Errorf("memory: %+v", s)
			}
		case "CPUs":
			if s.Value != "2" || !strings.Contains(s.Why, "1.5") {
				t.Errorf("CPUs: %+v", s)
			}
		}
		t.Logf("%s: %s (%s)", s.Name, s.Value, s.Why)
	}

	_, messages, code = plan(t, append([]string{"--memory", "1g"}, settings("VM_MEMORY=2G")...))
	if code != 78 || !strings.Contains(messages, "VM_MEMORY") || !strings.Contains(messages, "1GiB") {
		t.Errorf("2G in a container of 1g: exit code %d:\n%s", code, messages)
	}
	t.Log(messages)
}
