// Package k8s holds the tests on a Kubernetes cluster: the manifests of examples/k8s, applied as they are, do what they are there to
// show. `make e2e-k8s KUBECONFIG=…` runs them on any cluster.
//
//	KUBECONFIG    the cluster
//	E2E_IMPORT    a command that brings a container image of this machine to the cluster's nodes; it is called with each image's name
//	E2E_REGISTRY  a registry, with a folder in it, that images are pushed to; the manifests then have it before their images' names
//	E2E_BLOCK     a block device of the node that may be overwritten, for clusters without a storage class
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

func TestMain(m *testing.M) {
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// prepare finds the cluster and brings the images there.
func prepare() error {
	if os.Getenv("KUBECONFIG") == "" {
		return fmt.Errorf("these tests need a cluster: make e2e-k8s KUBECONFIG=FILE")
	}
	if out, err := exec.Command("kubectl", "version").CombinedOutput(); err != nil {
		return fmt.Errorf("the cluster of KUBECONFIG=%s does not answer: %w\n%s", os.Getenv("KUBECONFIG"), err, out)
	}
	return bring()
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

// apply applies one of the examples as its comment says. What is in its text and must be otherwise here comes in pairs, the old and the new: images that the
// test does not need, addresses that only its author has.
func (c *cluster) apply(example string, pairs ...string) {
	c.t.Helper()
	flag := "--kustomize"
	if strings.HasSuffix(example, ".yaml") {
		flag = "--filename"
	}
	if len(pairs) == 0 && os.Getenv("E2E_REGISTRY") == "" {
		c.kubectl("apply", flag, filepath.Join(examples, example))
		return
	}
	c.feed(c.text(example, pairs...), "apply", "--filename", "-")
}

var examples = filepath.Join("..", "..", "examples", "k8s")

// text is an example as kubectl is given it, with the new in place of the old.
func (c *cluster) text(example string, pairs ...string) string {
	c.t.Helper()
	var text string
	if strings.HasSuffix(example, ".yaml") {
		file, err := os.ReadFile(filepath.Join(examples, example))
		if err != nil {
			c.t.Fatal(err)
		}
		text = string(file)
	} else {
		text = c.kubectl("kustomize", filepath.Join(examples, example))
	}
	for i := 0; i < len(pairs); i += 2 {
		if !strings.Contains(text, pairs[i]) {
			c.t.Fatalf("%s has no %q", example, pairs[i])
		}
		text = strings.ReplaceAll(text, pairs[i], pairs[i+1])
	}
	for _, image := range []string{base, debug, debian, tiny} {
		text = strings.ReplaceAll(text, "image: "+image, "image: "+reference(image))
	}
	return text
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
		// a busy cluster may not answer now and then
		value, err := c.command("get", object, "--ignore-not-found", "--output", "jsonpath={"+path+"}").Output()
		if err == nil && satisfies(strings.TrimSpace(string(value))) {
			return strings.TrimSpace(string(value))
		}
		if time.Now().After(give) {
			c.t.Fatalf("%s: %s stays %q (%v)", object, path, value, err)
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

// signalQEMU sends a pod's QEMU a signal, from a container that is added to the pod for it. It can be done once to a pod.
func (c *cluster) signalQEMU(pod, signal string) {
	c.t.Helper()
	c.kubectl("debug", pod, "--quiet", "--target", "vm", "--image", reference(debug), "--image-pull-policy", "IfNotPresent", "--container", "signal", "--", "sh", "-c",
		`for p in /proc/[0-9]*; do read -r name <"$p/comm"; case $name in qemu*) kill -`+signal+` "${p#/proc/}" ;; esac; done`)
	c.await("pod/"+pod, ".status.ephemeralContainerStatuses[0].state.terminated.exitCode", is("0"))
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
	c.t.Helper()
	c.await("pod/"+pod, ".status.containerStatuses[0].containerID", func(s string) bool { return s != "" }) // before, there is no log
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

// startOutside starts the pod from which guests are asked.
func (c *cluster) startOutside() {
	c.t.Helper()
	c.feed(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "`+outside+`", "labels": {"app": "outside"}},
		"spec": {"terminationGracePeriodSeconds": 0, "containers": [{"name": "outside", "image": "`+reference(tiny)+`", "imagePullPolicy": "IfNotPresent",
			"command": ["outside", "wait"]}]}}`, "apply", "--filename", "-")
	c.ready(outside)
}

// ping waits until an address answers pings.
func (c *cluster) ping(address string) {
	c.t.Helper()
	c.kubectl("exec", outside, "--", "outside", "ping", address)
}

// hear is what an address says to who connects, until it hangs up.
func (c *cluster) hear(host, port string) string {
	c.t.Helper()
	return c.kubectl("exec", outside, "--", "outside", "call", net.JoinHostPort(host, port))
}

// tinySays is what the tiny guest says on its port.
const tinySays = "vmtest"

// pods are the names of those with a label, the oldest first, without those that are on their way out.
func (c *cluster) pods(app string) []string {
	c.t.Helper()
	return strings.Fields(c.kubectl("get", "pods", "--selector", "app="+app, "--sort-by", ".metadata.creationTimestamp", "--output",
		`go-template={{range .items}}{{if not .metadata.deletionTimestamp}}{{.metadata.name}} {{end}}{{end}}`))
}

// address is a pod's.
func (c *cluster) address(pod string) string {
	c.t.Helper()
	return c.field("pod/"+pod, ".status.podIP")
}

// shows waits until a pod's log, with the guest's console in it, says something.
func (c *cluster) shows(pod, text string) {
	c.t.Helper()
	c.follow(pod).Await(c.t, text)
}

// deleteCleanly deletes an object, and sees that the guests of the given pods shut down.
func (c *cluster) deleteCleanly(object string, pods ...string) {
	c.t.Helper()
	logs := map[string]*transcript.Transcript{}
	for _, pod := range pods {
		logs[pod] = c.follow(pod)
		logs[pod].Await(c.t, "QEMU started") // it is attached
	}
	c.kubectl("delete", object)
	for _, log := range logs {
		log.Await(c.t, "shut down as asked")
	}
}

// login logs in at an address of the cluster's network.
func (c *cluster) login(address string, user string, k login.Key) *login.Session {
	c.t.Helper()
	return login.Over(c.t, c.dial(address), user, k.Auth())
}

// dial connects to an address through the pod outside.
func (c *cluster) dial(address string) net.Conn {
	c.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cmd := exec.CommandContext(ctx, "kubectl", "--namespace", c.namespace, "exec", "--stdin", outside, "--", "outside", "call", address)
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
