package k8s

import (
	"fmt"
	"strings"
)

// volumes is where on a node the volumes of clusters without storage are.
const volumes = "/var/tmp"

// volume makes a volume for a claim where the cluster makes none by itself: a directory on the node, which everybody may write. The object that uses
// it ends before it does, with its pods.
func (c *cluster) volume(claim, user string) {
	c.t.Helper()
	if c.kubectl("get", "storageclass", "--output", "name") != "" {
		return
	}
	name := c.volumeName(claim)
	c.onNode("mkdir -m 777 " + name)
	c.persistentVolume(claim, "10Gi", fmt.Sprintf(`"hostPath": {"path": %q, "type": "Directory"}`, volumes+"/"+name))
	c.t.Cleanup(func() {
		c.kubectl("delete", user, "--ignore-not-found", "--cascade=foreground", "--timeout", "3m")
		c.onNode("rm -rf " + name)
	})
}

// onNode runs a script on a node, in the directory of volumes, and returns which node that was.
func (c *cluster) onNode(script string) string {
	c.t.Helper()
	c.kubectl("delete", "pod", "on-node", "--ignore-not-found")
	c.feed(fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "on-node", "labels": {"app": "on-node"}}, "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 0,
		"containers": [{"name": "script", "image": %q, "imagePullPolicy": "IfNotPresent", "workingDir": "/volumes", "command": ["sh", "-euxc", %q],
			"volumeMounts": [{"name": "volumes", "mountPath": "/volumes"}]}],
		"volumes": [{"name": "volumes", "hostPath": {"path": %q}}]}}`, reference(debug), script, volumes), "apply", "--filename", "-")
	phase := c.await("pod/on-node", ".status.phase", func(s string) bool { return s == "Succeeded" || s == "Failed" })
	if phase != "Succeeded" {
		c.t.Fatalf("on the node: %s: %s", script, c.kubectl("logs", "on-node"))
	}
	return c.field("pod/on-node", ".spec.nodeName")
}

// marked is a script that makes a small disk with a mark that the tiny guest prints.
func marked(file, mark string) string {
	return strings.NewReplacer("FILE", file, "MARK", mark).Replace("truncate -s 4M FILE && printf MARK | dd of=FILE bs=4096 seek=256 conv=notrunc")
}
