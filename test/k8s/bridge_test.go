package k8s

import (
	"net"
	"testing"
)

// TestBridge: the pod's address is the guest's, also when the container was started again in the pod.
func TestBridge(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	k := c.secretKey("bridge-vm")
	c.apply("bridge.yaml")
	c.ready("bridge-vm")
	address := c.field("pod/bridge-vm", ".status.podIP")
	login := func() {
		t.Helper()
		guest := c.login(net.JoinHostPort(address, "22"), "core", k)
		guest.Mentions("ip -o addr show", " "+address+"/")
		guest.Says("echo here >> written && sync")
		guest.Close()
	}
	login()

	c.signalQEMU("bridge-vm", "KILL")
	c.await("pod/bridge-vm", ".status.containerStatuses[0].restartCount", is("1"))
	if code := c.field("pod/bridge-vm", ".status.containerStatuses[0].lastState.terminated.exitCode"); code != "137" {
		t.Errorf("exit code %s, want 137", code)
	}
	c.ready("bridge-vm")
	if now := c.field("pod/bridge-vm", ".status.podIP"); now != address {
		t.Errorf("the pod has another address: %s, then %s", address, now)
	}
	login()
	c.login(net.JoinHostPort(address, "22"), "core", k).Wants("wc -l < written", "2")

	log := c.follow("bridge-vm")
	c.kubectl("delete", "pod", "bridge-vm")
	log.Await(t, "shut down as asked")
}
