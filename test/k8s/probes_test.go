package k8s

import (
	"strings"
	"testing"
)

// TestProbes: what the kubelet does with a guest that boots, stops serving, panics, hangs, and powers itself off.
func TestProbes(t *testing.T) {
	c := newCluster(t)
	c.secretKey("probes-vm")
	c.apply("probes.yaml")
	const pod, container = "pod/probes-vm", ".status.containerStatuses[0]"
	inGuest := func(command string) {
		t.Helper()
		c.kubectl("exec", "probes-vm", "--", "vmentry", "exec", "--", "sh", "-c", command)
	}

	c.await(pod, container+".state.running.startedAt", func(s string) bool { return s != "" })
	if c.field(pod, container+".started") == "true" {
		t.Error("it counts as started while it boots")
	}
	c.ready("probes-vm")

	inGuest("systemctl stop ssh.socket ssh.service 2>/dev/null; ! pgrep -x sshd")
	c.await(pod, condition("Ready"), is("False"))
	inGuest("systemctl start ssh.service")
	c.ready("probes-vm")
	if n := c.field(pod, container+".restartCount"); n != "0" {
		t.Errorf("a guest that does not serve was started again: %s times", n)
	}

	// the guest cannot answer any more
	c.command("exec", "probes-vm", "--", "vmentry", "exec", "--", "sh", "-c", "echo c >/proc/sysrq-trigger").Run()
	c.await(pod, container+".restartCount", is("1"))
	if code := c.field(pod, container+".lastState.terminated.exitCode"); code != "71" {
		t.Errorf("a panic ended with %s", code)
	}
	if message := c.field(pod, container+".lastState.terminated.message"); !strings.Contains(message, "panic") {
		t.Errorf("its termination message: %q", message)
	}
	c.ready("probes-vm")

	c.signalQEMU("probes-vm", "STOP")
	if out, err := c.command("exec", "probes-vm", "--", "vmentry", "probe", "live").CombinedOutput(); err == nil || !strings.Contains(string(out), "QEMU does not answer") {
		t.Errorf("a QEMU that hangs: %v, %s", err, out)
	}
	c.await(pod, container+".restartCount", is("2"))
	if code := c.field(pod, container+".lastState.terminated.exitCode"); code != "75" {
		t.Errorf("a QEMU that hung ended with %s", code)
	}
	c.ready("probes-vm")

	inGuest("systemctl poweroff --no-block")
	c.await(pod, ".status.phase", is("Succeeded"))
	if code := c.field(pod, container+".state.terminated.exitCode"); code != "0" {
		t.Errorf("powered off, it ended with %s", code)
	}
}
