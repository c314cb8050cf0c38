package k8s

import (
	"net"
	"strings"
	"testing"
)

// TestPod: a VM as in 2015. Its pod's address answers pings and ssh, and it is the VM; it ends with its pod, and cleanly.
func TestPod(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	k := c.secretKey("ranchervm")
	c.apply("pod.yaml")
	c.ready("ranchervm")
	address := c.address("ranchervm")
	c.ping(address)
	guest := c.login(net.JoinHostPort(address, "22"), "core", k)
	guest.Mentions("ip -o addr show", " "+address+"/")
	guest.Wants("hostname", "ranchervm")
	guest.Wants("nproc", "1")
	guest.Says(`[ "$(awk '/MemTotal/ {print int($2/1024)}' /proc/meminfo)" -le 1024 ]`)
	guest.Close()
	c.deleteCleanly("pod/ranchervm", "ranchervm")
}

// TestLeastPrivilege: where the cluster enforces the Pod Security Standard "restricted", the pod is accepted, and its VM serves. With a device plugin's resource it goes
// where that is, or waits.
func TestLeastPrivilege(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	c.kubectl("label", "namespace", c.namespace, "pod-security.kubernetes.io/enforce=restricted")
	c.secretKey("plain-vm")
	if out, err := c.command("run", "refused", "--image", reference(tiny), "--restart", "Never").CombinedOutput(); err == nil {
		t.Errorf("the standard is not enforced here: %s", out)
	}
	c.apply("pod-least-privilege/vm.yaml", debian, tiny)
	c.ready("plain-vm")
	if got := c.hear(c.address("plain-vm"), "2222"); got != tinySays {
		t.Errorf("the guest says %q", got)
	}
	c.shows("plain-vm", "accelerator: ")
	c.deleteCleanly("pod/plain-vm", "plain-vm")

	c.apply("pod-least-privilege-kvm", debian, tiny)
	if strings.ContainsAny(c.kubectl("get", "nodes", "--output", `jsonpath={.items[*].status.allocatable.devices\.kubevirt\.io/kvm}`), "123456789") {
		c.ready("plain-vm")
		c.shows("plain-vm", "accelerator: kvm")
		return
	}
	c.await("pod/plain-vm", `.status.conditions[?(@.type=="PodScheduled")].message`, func(s string) bool { return strings.Contains(s, "Insufficient devices.kubevirt.io/kvm") })
}

// TestReplicationController: one VM, scaled to two, with an address each.
func TestReplicationController(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	c.secretKey("ranchervm")
	c.apply("replication-controller.yaml", debian, tiny)
	c.await("rc/ranchervm", ".status.readyReplicas", is("1"))
	c.kubectl("scale", "--replicas=2", "rc", "ranchervm")
	c.await("rc/ranchervm", ".status.readyReplicas", is("2"))
	pods := c.pods("ranchervm")
	if len(pods) != 2 {
		t.Fatalf("pods: %v", pods)
	}
	c.areTheirPods(pods)
	c.deleteCleanly("rc/ranchervm", pods...)
}

// areTheirPods checks that tiny guests in bridge mode have their pods' addresses, which differ, and answer there.
func (c *cluster) areTheirPods(pods []string) {
	c.t.Helper()
	whose := map[string]string{}
	for _, pod := range pods {
		address := c.address(pod)
		if other, ok := whose[address]; ok {
			c.t.Errorf("%s and %s have both the address %s", other, pod, address)
		}
		whose[address] = pod
		c.shows(pod, "vmtest: address "+address+"/")
		c.ping(address)
		if got := c.hear(address, "22"); got != tinySays {
			c.t.Errorf("%s says %q", pod, got)
		}
	}
}
