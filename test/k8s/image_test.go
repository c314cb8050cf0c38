package k8s

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
)

// TestImageMounted: the guest boots with the disk that is in a directory of the node, and does not write it.
func TestImageMounted(t *testing.T) {
	c := newCluster(t)
	c.secretKey("mounted-vm")
	directory := c.namespace
	node := c.onNode("mkdir -m 755 " + directory + " && " + marked(directory+"/disk.raw", "from-the-node") + " && sha256sum " + directory + "/disk.raw >" + directory + ".sum")
	t.Cleanup(func() {
		c.kubectl("delete", "pod", "mounted-vm", "--ignore-not-found")
		c.onNode("rm -rf " + directory + " " + directory + ".sum")
	})
	c.apply("image-mounted.yaml", base, tiny, "/srv/vm-images/debian", volumes+"/"+directory, "containers:", "nodeName: "+node+"\n  containers:")
	c.ready("mounted-vm")
	c.shows("mounted-vm", "vmtest: read from-the-node")
	c.deleteCleanly("pod/mounted-vm", "mounted-vm")
	c.onNode("sed 's, .*/,  " + directory + "/,' " + directory + ".sum | sha256sum -c")
}

// TestImageClaim: the pod waits for the disk, boots it when it has been brought, and a new pod finds what the old one has left.
func TestImageClaim(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	c.secretKey("claim-vm")
	c.volume("claim-vm", "pod/claim-vm")
	c.apply("image-claim.yaml", base, tiny)
	c.await("pod/claim-vm", ".status.initContainerStatuses[0].state.running.startedAt", func(s string) bool { return s != "" })
	disk := filepath.Join(t.TempDir(), "disk")
	content := make([]byte, 4<<20)
	copy(content[1<<20:], "from-the-claim")
	if err := os.WriteFile(disk, content, 0o644); err != nil {
		t.Fatal(err)
	}
	c.kubectl("cp", disk, c.namespace+"/claim-vm:/image/.new", "--container", "fill")
	c.kubectl("exec", "claim-vm", "--container", "fill", "--", "mv", "/image/.new", "/image/disk.qcow2")
	for range 2 {
		c.ready("claim-vm")
		c.shows("claim-vm", "vmtest: read from-the-claim")
		if got := c.hear(c.address("claim-vm"), "2222"); got != tinySays {
			t.Errorf("the guest says %q", got)
		}
		c.deleteCleanly("pod/claim-vm", "claim-vm")
		c.apply("image-claim.yaml", base, tiny)
	}
}

// TestImageHTTP: Debian's image, fetched from a web server in the cluster, verified by what is published beside it, and booted. A container that is started again
// does not fetch it again.
func TestImageHTTP(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	k := c.secretKey("http-vm")
	c.feed(fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shop", "labels": {"app": "shop"}}, "spec": {"terminationGracePeriodSeconds": 0,
		"initContainers": [
			{"name": "bring", "image": %[1]q, "imagePullPolicy": "IfNotPresent", "volumeMounts": [{"name": "shelf", "mountPath": "/shelf"}],
				"command": ["outside", "publish", "/usr/bin/outside", "/shelf"]},
			{"name": "fill", "image": %[2]q, "imagePullPolicy": "IfNotPresent", "volumeMounts": [{"name": "shelf", "mountPath": "/shelf"}],
				"command": ["/shelf/outside", "publish", "/image/disk.qcow2", "/shelf"]}],
		"containers": [{"name": "serve", "image": %[1]q, "imagePullPolicy": "IfNotPresent", "volumeMounts": [{"name": "shelf", "mountPath": "/shelf"}],
			"command": ["outside", "serve", "/shelf", ":8080"]}],
		"volumes": [{"name": "shelf", "emptyDir": {}}]}}`, reference(tiny), reference(debian)), "apply", "--filename", "-")
	c.ready("shop")
	c.apply("image-http.yaml", "https://cloud-images.ubuntu.com/noble/current/noble-server-cloudimg-amd64.img", "http://"+c.address("shop")+":8080/disk.qcow2", "ubuntu}", "core}")
	c.ready("http-vm")
	c.login(net.JoinHostPort(c.address("http-vm"), "2222"), "core", k).Mentions("cat /etc/os-release", "trixie")

	c.kubectl("delete", "pod", "shop")
	c.signalQEMU("http-vm", "KILL")
	c.await("pod/http-vm", ".status.containerStatuses[0].restartCount", is("1"))
	c.ready("http-vm")
}
