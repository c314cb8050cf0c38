package k8s

import (
	"strings"
	"testing"
)

// TestAppliance: a guest that is asked for nothing has an Intel card, an IDE disk, the pod's address, and a console.
func TestAppliance(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	c.apply("appliance.yaml", "vmentry/cirros:latest", tiny)
	c.ready("appliance")
	address := c.address("appliance")
	c.ping(address)
	if got := c.hear(address, "22"); got != tinySays {
		t.Errorf("port 22 says %q", got)
	}
	c.shows("appliance", "vmtest: ready")
	console := c.kubectl("logs", "appliance")
	for _, want := range []string{" e1000\r", "vmtest: disk sda 12884901888 ro=0", "vmtest: address " + address + "/"} {
		if !strings.Contains(console, want) {
			t.Errorf("the console does not show %q:\n%s", want, console)
		}
	}
	for _, not := range []string{"virtio_net", "vmtest: disk vd", "label=cidata"} {
		if strings.Contains(console, not) {
			t.Errorf("it has %s:\n%s", not, console)
		}
	}
	c.deleteCleanly("pod/appliance", "appliance")
}

// TestMultus: a guest with a card on each of the pod's networks.
func TestMultus(t *testing.T) {
	c := newCluster(t)
	if c.kubectl("get", "crd", "network-attachment-definitions.k8s.cni.cncf.io", "--ignore-not-found", "--output", "name") == "" {
		t.Skip("the cluster has no Multus")
	}
	c.secretKey("two-nics")
	c.startOutside()
	c.apply("multus.yaml")
	c.ready("two-nics")
	addresses := c.kubectl("exec", "two-nics", "--", "vmentry", "exec", "--", "ip", "-o", "-4", "addr", "show")
	for _, want := range []string{" 10.20.0.5/24 ", " " + c.address("two-nics") + "/"} {
		if !strings.Contains(addresses, want) {
			t.Errorf("the guest has no %s:\n%s", want, addresses)
		}
	}
	c.ping(c.address("two-nics"))
}
