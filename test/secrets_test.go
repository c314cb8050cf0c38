package test

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/process"
	"github.com/vmentry/vmentry/test/transcript"
)

// TestSecretsAreFilesOfTheirOwner: while a VM runs, its configuration is in files that nobody else can read, nobody's command line or environment
// has it, and no process may leave it in a core file. When the VM has ended it is nowhere.
func TestSecretsAreFilesOfTheirOwner(t *testing.T) {
	t.Parallel()
	const secret = "hunter2hunter2"
	data, run := dirs(t)
	disk := filepath.Join(filepath.Dir(data), "disk")
	if err := os.Rename(image(t, "raw"), disk); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("setpriv", slices.Concat(unprivileged(t, data, run)[1:], []string{binaries.VMEntry})...)
	cmd.Env = environment(data, run, append(pretend(""), "VM_IMAGE="+disk, "VM_READY=none", fmt.Sprintf("VM_HTTP=127.0.0.1:%d", port(t)), "VM_HTTP_TOKEN="+secret,
		"CLOUD_CONFIG=#cloud-config\npassword: "+secret+"\n",
		`IGNITION_CONFIG={"ignition":{"version":"3.0.0"},"storage":{"files":[{"path":"/x","contents":{"source":"data:,`+secret+`"}}]}}`)...)
	p := process.Start(t, cmd)
	p.Stderr.Await(t, "QEMU started")
	found := 0
	for _, path := range contents(t, run) {
		info, err := os.Lstat(path)
		if err != nil {
			t.Fatal(err)
		}
		text, _ := os.ReadFile(path)
		if bytes.Contains(text, []byte(secret)) {
			found++
			if info.Mode().Perm() != 0o600 {
				t.Errorf("%s has the mode %s", path, info.Mode())
			}
		}
	}
	if found < 3 { // Ignition as it is and as the guest reads it, and the seed
		t.Errorf("%d files have the secret", found)
	}
	if log := p.Stderr.String(); strings.Contains(log, secret) {
		t.Errorf("the log has the secret:\n%s", log)
	}
	qemu := regexp.MustCompile(`QEMU started .*pid=(\d+)`).FindStringSubmatch(p.Stderr.String())
	for _, pid := range []string{fmt.Sprint(p.PID), qemu[1]} {
		limits, err := os.ReadFile("/proc/" + pid + "/limits")
		if err != nil {
			t.Fatal(err)
		}
		if !regexp.MustCompile(`(?m)^Max core file size +0 +0 `).Match(limits) {
			t.Errorf("process %s may write core files: %s", pid, limits)
		}
		line, err := os.ReadFile("/proc/" + pid + "/cmdline")
		if err != nil || bytes.Contains(line, []byte(secret)) {
			t.Errorf("process %s has the command line %q, %v", pid, line, err)
		}
	}
	if env, err := os.ReadFile("/proc/" + qemu[1] + "/environ"); err != nil || bytes.Contains(env, []byte(secret)) {
		t.Errorf("QEMU's environment: %q, %v", env, err)
	}
	// the kernel gives what is in /proc of a process that nobody may look into to root (proc(5)); it is the last that vmentry does, after QEMU's start
	for give := time.Now().Add(transcript.Patience); ; time.Sleep(10 * time.Millisecond) {
		info, err := os.Stat(fmt.Sprintf("/proc/%d/environ", p.PID))
		if err != nil {
			t.Fatal(err)
		}
		if info.Sys().(*syscall.Stat_t).Uid == 0 {
			break
		}
		if time.Now().After(give) {
			t.Fatal("vmentry's user may read its memory")
		}
	}
	p.Signal(t, syscall.SIGTERM)
	p.Wants(t, 0)
	if left := contents(t, run); len(left) > 0 {
		t.Errorf("left in the run directory: %v", left)
	}
	for _, path := range contents(t, data) {
		if text, _ := os.ReadFile(path); strings.Contains(string(text), secret) {
			t.Errorf("%s has the secret", filepath.Base(path))
		}
	}
}
