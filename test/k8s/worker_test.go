package k8s

import (
	"net"
	"strings"
	"testing"
)

// TestWorker: a login takes one of the build machines, which then serves nobody else; its exit code is the build's; when it is over another machine, a clean one, takes
// its place.
func TestWorker(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	k := c.secretKey("worker")
	c.apply("worker.yaml")
	c.await("deployment/worker", ".status.readyReplicas", is("2"))
	service := net.JoinHostPort(c.field("service/worker", ".spec.clusterIP"), "22")

	build := c.login(service, "core", k)
	took := make(chan string, 1) // what a long build says
	code := make(chan int, 1)
	go func() {
		out, n := build.Try("hostname; touch built; until test -e finish; do sleep 1; done; exit 7")
		took <- out
		code <- n
	}()
	c.await("deployment/worker", ".status.readyReplicas", is("1"))
	var taken string
	for _, pod := range c.pods("worker") {
		if c.field("pod/"+pod, condition("Ready")) == "False" {
			taken = pod
		}
	}
	if taken == "" {
		t.Fatal("no pod is out of the Service")
	}
	address := net.JoinHostPort(c.address(taken), "2222")
	second := c.login(address, "core", k)
	if out, code := second.Try("true"); code != 75 || !strings.Contains(out, "has a build already") {
		t.Errorf("a second login: exit code %d, %s", code, out)
	}
	c.kubectl("exec", taken, "--", "vmentry", "exec", "--", "touch", "/home/core/finish")
	if host, n := <-took, <-code; host != taken || n != 7 {
		t.Errorf("the build on %s says %q and ends with %d, want 7", taken, host, n)
	}
	c.await("pod/"+taken, ".status.containerStatuses[0].restartCount", is("1"))
	if n := c.field("pod/"+taken, ".status.containerStatuses[0].lastState.terminated.exitCode"); n != "0" {
		t.Errorf("the VM that is done has ended with %s", n)
	}
	c.await("deployment/worker", ".status.readyReplicas", is("2"))
	clean := c.login(address, "core", k)
	if clean.HostKey == build.HostKey {
		t.Error("the same machine is back")
	}
	clean.Wants("ls", "")
}
