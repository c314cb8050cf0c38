package k8s

import (
	"fmt"
	"net"
	"os"
	"testing"
)

// TestBlock: a claim of a block device is a disk in the guest, found by its name, and what was written on it is there when the pod was
// made anew.
func TestBlock(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	k := c.secretKey("block-vm")
	c.blockVolume("block-vm")
	for round, do := range []string{
		"sudo mkfs.ext4 -q /dev/disk/by-id/virtio-data && sudo mount /dev/disk/by-id/virtio-data /mnt && echo hello | sudo tee /mnt/a && sync",
		"sudo mount /dev/disk/by-id/virtio-data /mnt && grep -x hello /mnt/a",
	} {
		c.apply("block.yaml")
		c.ready("block-vm")
		guest := c.login(net.JoinHostPort(c.field("pod/block-vm", ".status.podIP"), "2222"), "core", k)
		guest.Says(do)
		guest.Close()
		log := c.follow("block-vm")
		c.kubectl("delete", "pod", "block-vm")
		log.Await(t, "shut down as asked")
		t.Logf("round %d: done", round)
	}
}

// blockVolume makes a volume for a claim where the cluster makes none by itself: of the node's block device that E2E_BLOCK names, whose
// content is lost.
func (c *cluster) blockVolume(claim string) {
	c.t.Helper()
	device := os.Getenv("E2E_BLOCK")
	if device == "" {
		if c.kubectl("get", "storageclass", "--output", "name") == "" {
			c.t.Skip("the cluster has no storage class, and E2E_BLOCK names no block device of a node that may be overwritten")
		}
		return
	}
	c.persistentVolume(claim, "1Gi", fmt.Sprintf(`"volumeMode": "Block", "local": {"path": %q},
		"nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [{"key": "kubernetes.io/os", "operator": "In", "values": ["linux"]}]}]}}`, device))
}
