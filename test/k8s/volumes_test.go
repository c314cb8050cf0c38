package k8s

import (
	"net"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/transcript"
)

// beside is another container of the pod, with the directory for both sides.
const beside = `  - name: beside
    image: vmentry:debug
    imagePullPolicy: IfNotPresent
    command: [sh, -c, "trap exit TERM; sleep infinity & wait"]
    volumeMounts: [{name: work, mountPath: /work}]
`

// TestVolumes: a ConfigMap and a Secret are directories in the guest, an update is seen there, and neither can be written; what one
// side writes in a directory for both is read by the other. All of it without a right, as a user who is not root.
func TestVolumes(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	k := c.secretKey("volumes-vm-keys")
	c.apply("volumes.yaml", "  containers:\n", "  containers:\n"+beside)
	c.ready("volumes-vm")
	guest := c.login(net.JoinHostPort(c.field("pod/volumes-vm", ".status.podIP"), "2222"), "core", k)
	guest.Wants("cat /etc/greeting/text", "hello from the ConfigMap")
	guest.Wants("sudo cat /run/token/token", "change-me")
	for _, write := range []string{"sudo touch /etc/greeting/new", "sudo sh -c 'echo x > /run/token/token'", "sudo mount -o remount,rw /etc/greeting && sudo touch /etc/greeting/new"} {
		if out, code := guest.Try(write); code == 0 {
			t.Errorf("in the guest: %s: done, though it is read-only\n%s", write, out)
		}
	}
	guest.Says("echo from the guest | sudo tee /srv/work/a && sync")
	if got := c.kubectl("exec", "volumes-vm", "--container", "beside", "--", "sh", "-c", "cd /work && echo from the pod > b; cat a"); got != "from the guest" {
		t.Errorf("in the pod: %q", got)
	}
	guest.Wants("cat /srv/work/b", "from the pod")

	c.kubectl("patch", "configmap", "volumes-vm", "--patch", `{"data": {"text": "something else"}}`)
	for give := time.Now().Add(transcript.Patience); guest.Says("cat /etc/greeting/text") != "something else"; time.Sleep(time.Second) {
		if time.Now().After(give) {
			t.Fatal("the guest does not see the ConfigMap's update")
		}
	}
}
