// Package k8s holds the tests on a Kubernetes cluster: the manifests of examples/k8s, applied as they are, do what they are there to
// show. `make e2e-k8s KUBECONFIG=…` runs them on any cluster.
//
//	KUBECONFIG  the cluster
//	E2E_IMPORT  a command that brings a container image of this machine to the cluster's nodes; it is called with the image's name
//	E2E_BLOCK   a block device of the node that may be overwritten, for clusters without a storage class
//
// Nothing has to be reachable from where the tests run but the cluster's API: what is asked of a guest goes through a pod in the cluster.
package k8s

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/login"
	"github.com/vmentry/vmentry/test/transcript"
)

// image is what the manifests run.
const image = "vmentry/debian:latest"

func TestMain(m *testing.M) {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// prepare finds the cluster and brings the image there.
func prepare() error {
	if os.Getenv("KUBECONFIG") == "" {
		return fmt.Errorf("these tests need a cluster: make e2e-k8s KUBECONFIG=FILE")
	}
	if out, err := exec.Command("kubectl", "version").CombinedOutput(); err != nil {
		return fmt.Errorf("the cluster of KUBECONFIG=%s does not answer: %w\n%s", os.Getenv("KUBECONFIG"), err, out)
	}
	words := os.Getenv("E2E_IMPORT")
	if words == "" {
		return nil
	}
	if out, err := exec.Command("sh", "-c", words+` "$0"`, image).CombinedOutput(); err != nil {
		return fmt.Errorf("E2E_IMPORT: %w\n%s", err, out)
	}
	return nil
}

// cluster is a namespace of the test's own.
type cluster struct {
	t         *testing.T
	namespace string
}

// newCluster makes the namespace, and takes it away at the end of the test.
func newCluster(t *testing.T) *cluster {
	t.Helper()
	name := strings.ToLower(strings.TrimPrefix(t.Name(), "Test"))
	c := &cluster{t, fmt.Sprintf("vmentry-e2e-%s-%d", name, os.Getpid())}
	c.kubectl("create", "namespace", c.namespace)
	t.Cleanup(func() {
		if t.Failed() {
			for _, look := range [][]string{{"get", "pods,pvc,events", "-o", "wide"}, {"logs", "--all-containers", "--prefix", "--tail", "60", "-l", "app"}} {
				out, _ := c.command(look...).CombinedOutput()
				t.Logf("kubectl %s\n%s", strings.Join(look, " "), out)
			}
		}
		exec.Command("kubectl", "delete", "namespace", c.namespace, "--timeout", "3m").Run()
	})
	return c
}

func (c *cluster) command(args ...string) *exec.Cmd {
	return exec.Command("kubectl", append([]string{"--namespace", c.namespace}, args...)...)
}

// kubectl runs a command that must succeed, and returns what it wrote.
func (c *cluster) kubectl(args ...string) string {
	c.t.Helper()
	return c.feed("", args...)
}

// feed is kubectl with something on its standard input.
func (c *cluster) feed(input string, args ...string) string {
	c.t.Helper()
	cmd := c.command(args...)
	var out, words bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &words
	if err := cmd.Run(); err != nil {
		c.t.Fatalf("kubectl %s: %v\n%s", strings.Join(args, " "), err, words.String())
	}
	return strings.TrimSpace(out.String())
}

// apply applies one of the examples, as it is.
func (c *cluster) apply(example string) {
	c.t.Helper()
	c.kubectl("apply", "--filename", filepath.Join("..", "..", "examples", "k8s", example))
}

// secretKey makes a key, and the secret that the examples take it from.
func (c *cluster) secretKey(secret string) login.Key {
	c.t.Helper()
	k := login.NewKey(c.t)
	c.kubectl("create", "secret", "generic", secret, "--from-literal", "keys="+k.Line)
	return k
}

// field is a field of an object, empty as long as it has none or is not there.
func (c *cluster) field(object, path string) string {
	c.t.Helper()
	return c.kubectl("get", object, "--ignore-not-found", "--output", "jsonpath={"+path+"}")
}

// await waits until a field has a value that satisfies the condition, and returns it.
func (c *cluster) await(object, path string, satisfies func(string) bool) string {
	c.t.Helper()
	give := time.Now().Add(2 * transcript.Patience)
	for {
		value := c.field(object, path)
		if satisfies(value) {
			return value
		}
		if time.Now().After(give) {
			c.t.Fatalf("%s: %s stays %q", object, path, value)
		}
		time.Sleep(time.Second)
	}
}

// condition is where an object says whether it is ready, complete, ….
func condition(name string) string { return `.status.conditions[?(@.type=="` + name + `")].status` }

// is a value that a field has to have, for [cluster.await].
func is(want string) func(string) bool { return func(s string) bool { return s == want } }

// ready waits until a pod is ready.
func (c *cluster) ready(pod string) {
	c.t.Helper()
	c.await("pod/"+pod, condition("Ready"), is("True"))
}

// signalQEMU sends a pod's QEMU a signal, from inside the pod.
func (c *cluster) signalQEMU(pod, signal string) {
	c.t.Helper()
	c.kubectl("exec", pod, "--", "sh", "-c",
		`for p in /proc/[0-9]*; do read -r name <"$p/comm"; case $name in qemu*) kill -`+signal+` "${p#/proc/}" ;; esac; done`)
}

// persistentVolume makes a volume for a claim, and takes it away at the end of the test. spec says where it is.
func (c *cluster) persistentVolume(claim, size, spec string) {
	c.t.Helper()
	name := c.volumeName(claim)
	c.feed(fmt.Sprintf(`{"apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": %q}, "spec": {
		"capacity": {"storage": %q}, "accessModes": ["ReadWriteOnce"], "persistentVolumeReclaimPolicy": "Retain",
		"claimRef": {"namespace": %q, "name": %q}, %s}}`, name, size, c.namespace, claim, spec), "apply", "--filename", "-")
	c.t.Cleanup(func() { c.kubectl("delete", "persistentvolume", name, "--wait=false") })
}

func (c *cluster) volumeName(claim string) string { return c.namespace + "-" + claim }

// awaitAnother waits until there is another pod of the same name, and it is ready.
func (c *cluster) awaitAnother(pod, uid string) {
	c.t.Helper()
	c.await("pod/"+pod, ".metadata.uid", func(s string) bool { return s != "" && s != uid })
	c.ready(pod)
}

// follow collects a pod's log from here on, until the pod has ended.
func (c *cluster) follow(pod string) *transcript.Transcript {
	log := transcript.New()
	cmd := c.command("logs", "--follow", pod)
	cmd.Stdout = log
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		cmd.Wait()
		log.Close()
	}()
	c.t.Cleanup(func() {
		cmd.Process.Kill()
		if c.t.Failed() {
			text := log.String()
			c.t.Logf("the log of %s ends with\n%s", pod, text[max(0, len(text)-4000):])
		}
	})
	return log
}

// outside is the pod in the cluster from which guests are asked.
const outside = "outside"

// startOutside starts the pod from which guests are asked. It runs the same image, so that no other is needed.
func (c *cluster) startOutside() {
	c.t.Helper()
	c.feed(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "`+outside+`", "labels": {"app": "outside"}},
		"spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "shell", "image": "`+image+`", "imagePullPolicy": "IfNotPresent",
			"command": ["sleep", "infinity"]}]}}`, "apply", "--filename", "-")
	c.ready(outside)
}

// login logs in at an address of the cluster's network.
func (c *cluster) login(address string, user string, k login.Key) *login.Session {
	c.t.Helper()
	return login.Over(c.t, c.dial(address), user, k.Auth())
}

// dial connects to an address through the pod outside.
func (c *cluster) dial(address string) net.Conn {
	c.t.Helper()
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		c.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "kubectl", "--namespace", c.namespace, "exec", "--stdin", outside, "--",
		"bash", "-c", fmt.Sprintf("exec 3<>/dev/tcp/%s/%s; cat <&3 & cat >&3", host, port))
	ours, theirs := net.Pipe()
	in, err := cmd.StdinPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	cmd.Stdout = theirs
	if err := cmd.Start(); err != nil {
		c.t.Fatal(err)
	}
	go func() {
		io.Copy(in, theirs) // ends when the test closes its side
		cancel()
	}()
	go func() {
		cmd.Wait()
		theirs.Close()
	}()
	return ours
}
