package k8s

import (
	"net"
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

// TestProbesHTTP: the kubelet asks over HTTP at the pod's address, whose other ports are the guest's; so do others.
func TestProbesHTTP(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	c.secretKey("probes-http-vm")
	c.apply("probes-http.yaml", debian, tiny)
	const pod, container = "pod/probes-http-vm", ".status.containerStatuses[0]"
	c.ready("probes-http-vm")
	address := c.address("probes-http-vm")
	if got := c.hear(address, "22"); got != tinySays {
		t.Errorf("port 22 says %q", got)
	}
	c.shows("probes-http-vm", "vmtest: address "+address+"/")
	asked := func(path string) string {
		t.Helper()
		return c.kubectl("exec", outside, "--", "outside", "get", "http://"+net.JoinHostPort(address, "8080")+path)
	}
	if metrics := asked("/metrics"); !strings.Contains(metrics, "\nvmentry_guest_ready 1\n") {
		t.Errorf("the metrics:\n%s", metrics)
	}
	if page := c.kubectl("get", "--raw", "/api/v1/namespaces/"+c.namespace+"/pods/probes-http-vm:8080/proxy/status"); !strings.Contains(page, address) {
		t.Errorf("the status, by the API server's way: %s", page)
	}

	c.kubectl("exec", "probes-http-vm", "--", "vmentry", "pause")
	c.await(pod, condition("Ready"), is("False"))
	asked("/healthz") // it lives
	if status := asked("/status"); !strings.Contains(status, `"paused"`) {
		t.Errorf("the status of a guest that was paused: %s", status)
	}
	c.kubectl("exec", "probes-http-vm", "--", "vmentry", "resume")
	c.ready("probes-http-vm")

	c.signalQEMU("probes-http-vm", "STOP")
	c.await(pod, container+".restartCount", is("1"))
	if code := c.field(pod, container+".lastState.terminated.exitCode"); code != "75" {
		t.Errorf("a QEMU that hung ended with %s", code)
	}
	c.ready("probes-http-vm")
	if now := c.address("probes-http-vm"); now != address {
		t.Errorf("the pod has another address: %s, then %s", address, now)
	}
}
