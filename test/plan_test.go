package test

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
)

// TestPlanChangesNothing plans as nobody, on a file system that nothing can be written to, and in words that hold no secret.
func TestPlanChangesNothing(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test makes a read-only view of the file system, and must run as root")
	}
	dir, err := os.MkdirTemp("", "plan-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	img := filepath.Join(dir, "disk.qcow2")
	if out, err := exec.Command("cp", image(t, "qcow2"), img).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for _, d := range []string{dir, filepath.Dir(binaries.VMEntry)} {
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	secret := "hunter2hunter2"
	env := append(environment("/nonexistent/data", "/run/nonexistent"),
		"VM_IMAGE="+img, "VM_ACCEL=tcg", "VM_NAME=planned", "HOSTFWD=2222:22,53:53/udp",
		"CONFIG=variant: fcos\nversion: 1.4.0\nstorage:\n  files:\n    - path: /etc/secret\n      contents:\n        inline: "+secret+"\n",
		"CLOUD_CONFIG=#cloud-config\npassword: "+secret+"\n")
	run := func(args ...string) string {
		t.Helper()
		script := `mount --make-rprivate / && mount -o remount,bind,ro / && exec setpriv --reuid=65534 --regid=65534 --clear-groups "$@"`
		cmd := exec.Command("unshare", append([]string{"--mount", "sh", "-c", script, "sh", binaries.VMEntry}, args...)...)
		cmd.Env = env
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, out)
		}
		return string(out)
	}
	text, shell := run("plan"), run("plan", "-o", "shell")
	for _, want := range []string{"planned", "accelerator", "make the overlay /nonexistent/data/disk/overlay.qcow2 of 12GiB", "tcp *:2222 → guest:22", "udp *:53 → guest:53", "Ignition 3.3.0", "cidata"} {
		if !strings.Contains(text, want) {
			t.Errorf("the plan does not say %q", want)
		}
	}
	for _, want := range []string{"VM_NAME=planned vmentry provision -o /run/nonexistent", "qemu-img create", "hostfwd=tcp::2222-:22"} {
		if !strings.Contains(shell, want) {
			t.Errorf("the script does not say %q", want)
		}
	}
	var plan struct {
		QEMU struct{ Arguments []string }
		Disk struct{ Size int64 }
	}
	if err := json.Unmarshal([]byte(run("plan", "-o", "json", "--", "-device", "edu")), &plan); err != nil {
		t.Error(err)
	}
	if n := len(plan.QEMU.Arguments); plan.Disk.Size != 12<<30 || n < 20 || plan.QEMU.Arguments[n-1] != "edu" {
		t.Errorf("the JSON plan is %+v", plan)
	}
	if strings.Contains(text+shell+run("plan", "-o", "json"), secret) {
		t.Error("a secret of the guest's configuration is in the plan")
	}
	if t.Failed() {
		t.Logf("text:\n%s\nshell:\n%s", text, shell)
	}
}

// TestBootDoesWhatPlanSaid holds QEMU's real arguments against the printed ones.
func TestBootDoesWhatPlanSaid(t *testing.T) {
	data, run := dirs(t)
	log := filepath.Join(t.TempDir(), "qemu.log")
	settings := append(pretend("poweroff=10ms"), "FAKE_QEMU_LOG="+log, "VM_ARGS=-D "+log, "VM_IMAGE="+image(t, "raw"), "CLOUD_CONFIG=#cloud-config\n{}\n")
	out, code := command(t, environment(data, run, settings...), "plan", "-o", "json")
	var plan struct{ QEMU struct{ Arguments []string } }
	if err := json.Unmarshal([]byte(out), &plan); code != 0 || err != nil {
		t.Fatalf("%d, %v: %s", code, err, out)
	}
	startIn(t, data, run, settings).wants(0)
	got := lines(t, log)[1]
	for _, handed := range regexp.MustCompile(`-add-fd fd=\d+,set=(\d+),opaque=(\S+) `).FindAllStringSubmatch(got, -1) { // how it gets what the plan names
		got = strings.Replace(strings.Replace(got, handed[0], "", 1), "=/dev/fdset/"+handed[1]+",", "="+handed[2]+",", 1)
	}
	if want := "args " + strings.Join(plan.QEMU.Arguments, " "); got != want {
		t.Errorf("boot ran\n%s\nand the plan was\n%s", got, want)
	}
}

// TestPlanBesideARunningVM: nothing is planned for remains that are none, and who has the data directory is said.
func TestPlanBesideARunningVM(t *testing.T) {
	settings := append(pretend(""), "VM_IMAGE="+image(t, "raw"), "VM_DISKS=more=1M", "POD_NAME=vm-0", "POD_NAMESPACE=lab")
	m := start(t, settings)
	m.stderr.Await(t, "QEMU started")
	for _, name := range []string{"images/.0123.part", "disks/.more.qcow2.new-1", "snapshots/.one.new-1/overlay.qcow2"} { // as it is while something is made
		path := filepath.Join(m.data, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	plan := func(args ...string) string {
		t.Helper()
		out, code := command(t, environment(m.data, m.run, settings...), append([]string{"plan"}, args...)...)
		if code != 0 {
			t.Errorf("%d: %s", code, out)
		}
		return out
	}
	text, script := plan(), plan("-o", "shell")
	for _, says := range []string{m.data + " is in use by pod lab/vm-0 ", "A start now would end with code 74"} {
		if !strings.Contains(text, says) || !strings.Contains(script, says) {
			t.Errorf("%q is not said in\n%s\n%s", says, text, script)
		}
	}
	if !strings.Contains(plan("-o", "json"), `"inUseBy": "pod lab/vm-0 `) {
		t.Error("the JSON does not say who has the data directory")
	}
	steps := regexp.MustCompile(`(?m)^  (clean|check|finish) .*|^rm -rf .*|^qemu-img.*`)
	if found := steps.FindAllString(text+script, -1); found != nil {
		t.Errorf("planned beside a running VM: %q", found)
	}
	m.signal(syscall.SIGKILL)
	m.exit()
	for again := plan(); ; again = plan() { // when the last of it is gone
		if found := steps.FindAllString(again, -1); len(found) == 5 && !strings.Contains(again, "in use by") {
			break
		} else if !strings.Contains(again, "in use by") {
			t.Fatalf("planned after a VM that was killed: %q in\n%s", found, again)
		}
	}
}

// TestQEMUSeesNoSecrets: neither on its command line nor in its environment, and not in the log.
func TestQEMUSeesNoSecrets(t *testing.T) {
	secret := "hunter2hunter2"
	log := filepath.Join(t.TempDir(), "qemu.log")
	m := start(t, append(pretend("poweroff=10ms"), "FAKE_QEMU_LOG="+log, "VM_ARGS=-D "+log, "VM_IMAGE="+image(t, "raw"), "VM_LOG_LEVEL=debug",
		"CLOUD_CONFIG=#cloud-config\npassword: "+secret+"\n",
		`IGNITION_CONFIG={"ignition":{"version":"3.0.0"},"storage":{"files":[{"path":"/x","contents":{"source":"data:,`+secret+`"}}]}}`))
	m.wants(0)
	for _, l := range lines(t, log) {
		if strings.Contains(l, secret) {
			t.Errorf("QEMU was given the secret: %s", l)
		}
	}
	if strings.Contains(m.stderr.String(), secret) {
		t.Error("the secret is in the log")
	}
	if left := contents(t, m.run); len(left) > 0 {
		t.Errorf("left in the run directory: %v", left)
	}
}
