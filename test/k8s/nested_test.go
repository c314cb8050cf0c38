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
	"slices"
	"sort"
	"strconv"
	"strings"
	"testing"
	"time"
)

// These tests take long, and need an image of their own: `make e2e-nested` runs them, and `make e2e-k8s` does not.

const nodeImage = "vmentry/kubernetes-node:latest"

// forming is how long a cluster may take until all its nodes are ready. Without KVM on a busy machine it is half an hour.
const forming = 90 * time.Minute

// TestNested: a cluster of one node, without a right outside, is administered through the fixed address of a Service with a kubeconfig that was made before it, and
// runs pods; what they serve is reached through the same Service. With the same Secret, a cluster that is made anew takes the same kubeconfig.
func TestNested(t *testing.T) {
	c := newCluster(t)
	bringNode(t)
	c.startOutside()
	inner := c.access("nested", "10.96.0.80")
	c.apply("nested.yaml")
	c.explain("deployment/nested")
	inner.awaitNodes("nested")
	inner.kubectl("apply", "--filename", filepath.Join(examples, "nested-hello.yaml"))
	inner.awaitHello(3)
	inner.await("an answer of hello", func() bool { return c.answers("10.96.0.80:30080") }) // the nodes hear of the pods last
	if says := c.get("10.96.0.80:30080", "/"); !strings.HasPrefix(says, "hello from hello-") || !strings.HasSuffix(says, " on nested") {
		t.Errorf("the cluster's pods say %q", says)
	}
	if address := c.get("10.96.0.80:30080", "/resolve/hello.default.svc.cluster.local"); !strings.HasPrefix(address, "10.101.") {
		t.Errorf("in the cluster, the name of a Service stands for %q", address)
	}
}

// TestNestedStatefulSet: the first of a StatefulSet forms a cluster, and the others join it, each under the name of its pod.
func TestNestedStatefulSet(t *testing.T) {
	c := newCluster(t)
	bringNode(t)
	c.startOutside()
	inner := c.access("k8s", "10.96.0.81")
	c.apply("nested-statefulset.yaml")
	c.explain("k8s-0")
	names := c.machines("k8s", 3)
	inner.awaitNodes(names...)
	for _, name := range names {
		c.ready(name)
		address := inner.kubectl("get", "node", name, "--output", `jsonpath={.status.addresses[?(@.type=="InternalIP")].address}`)
		if pod := c.field("pod/"+name, ".status.podIP"); address != pod {
			t.Errorf("the node %s has the address %s, its pod %s", name, address, pod)
		}
	}
}

// TestNestedNodes: a master and three nodes. Three pods, one on each node, are reached at every node's address; they have addresses of the overlay network, whose packets are
// smaller than the VMs' by what a vxlan needs, and whose large answers arrive across nodes.
func TestNestedNodes(t *testing.T) {
	c := newCluster(t)
	bringNode(t)
	c.startOutside()
	inner := c.access("master", "10.96.0.82")
	c.apply("nested-nodes.yaml")
	c.explain("master-0")
	nodes := c.machines("node", 3)
	names := append([]string{"master-0"}, nodes...)
	inner.awaitNodes(names...)
	inner.kubectl("apply", "--filename", filepath.Join(examples, "nested-hello.yaml"))
	inner.awaitHello(3)

	on := strings.Fields(inner.kubectl("get", "pods", "--selector", "app=hello", "--output", "jsonpath={.items[*].spec.nodeName}"))
	sort.Strings(on)
	if got := slices.Compact(on); !slices.Equal(got, nodes) {
		t.Errorf("the pods are on %s, want them on every node: %s", got, nodes)
	}
	for _, ip := range strings.Fields(inner.kubectl("get", "pods", "--selector", "app=hello", "--output", "jsonpath={.items[*].status.podIP}")) {
		if !strings.HasPrefix(ip, "10.100.") {
			t.Errorf("a pod has the address %s, which is not of the overlay network", ip)
		}
	}
	for _, name := range names {
		node := net.JoinHostPort(c.field("pod/"+name, ".status.podIP"), "30080")
		inner.await("an answer of hello at "+name, func() bool { return c.answers(node) }) // the nodes hear of the pods last
		for _, answering := range c.everyHello(node, 3) {
			t.Logf("at %s: %s", name, answering)
		}
		if n := len(c.get(node, "/large")); n != 1<<20 {
			t.Errorf("at %s: %d bytes of a large answer", name, n)
		}
		mtu := func(link string) (n int) {
			fmt.Sscan(c.kubectl("exec", name, "--", "vmentry", "exec", "--", "cat", "/sys/class/net/"+link+"/mtu"), &n)
			return n
		}
		route := strings.Fields(c.kubectl("exec", name, "--", "vmentry", "exec", "--", "ip", "-oneline", "route", "show", "default"))
		uplink := route[slices.Index(route, "dev")+1]
		// 50: the headers of Ethernet, IP, UDP and vxlan around a packet
		if card, vxlan, bridge := mtu(uplink), mtu("flannel.1"), mtu("cni0"); card == 0 || vxlan != card-50 || bridge != card-50 {
			t.Errorf("on %s: the MTU is %d, of the vxlan %d, of the pods' bridge %d", name, card, vxlan, bridge)
		}
	}
}

// explain logs, when the test has failed, how the machine is that has the cluster's control plane.
func (c *cluster) explain(pod string) {
	c.t.Cleanup(func() {
		for _, look := range []string{"ls -l /var/log/containers", "free --mebi", "journalctl --unit kubelet --lines 40 --no-pager --output cat"} {
			if c.t.Failed() {
				out, _ := c.command(append([]string{"exec", pod, "--", "vmentry", "exec", "--"}, strings.Fields(look)...)...).CombinedOutput()
				c.t.Logf("%s: %s\n%s", pod, look, out)
			}
		}
	})
}

// machines are the names of a StatefulSet's VMs: all that its manifest has, or E2E_NESTED_NODES of them, for a machine that cannot bear more.
func (c *cluster) machines(set string, all int) (names []string) {
	c.t.Helper()
	if n, err := strconv.Atoi(os.Getenv("E2E_NESTED_NODES")); err == nil && n < all {
		c.t.Logf("E2E_NESTED_NODES: %d of %d", n, all)
		c.kubectl("scale", "statefulset", set, "--replicas", strconv.Itoa(n))
		all = n
	}
	for i := range all {
		names = append(names, fmt.Sprintf("%s-%d", set, i))
	}
	return names
}

// bringNode brings the image of a node to the cluster's nodes, and leaves it to them to have it where nothing says how.
func bringNode(t *testing.T) {
	t.Helper()
	if os.Getenv("E2E_IMPORT") == "" && os.Getenv("E2E_REGISTRY") == "" {
		return
	}
	name, err := engine()
	if err == nil {
		err = bringImage(name, nodeImage)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// nested is the cluster in the VMs.
type nested struct {
	t          *testing.T
	kubeconfig string
	server     string // where kubectl reaches it: a port on this machine
	name       string // that its certificate is for
}

// access makes the Secret of a nested cluster, and a way to it: through the pod outside to the address of the Service, where the kubeconfig says it is.
func (c *cluster) access(secret, address string) *nested {
	c.t.Helper()
	dir := c.t.TempDir()
	script, err := filepath.Abs(filepath.Join(examples, "nested-access"))
	if err != nil {
		c.t.Fatal(err)
	}
	cmd := exec.Command(script, secret, address, "--namespace", c.namespace)
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		c.t.Fatalf("nested-access: %v\n%s", err, out)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	c.t.Cleanup(func() { l.Close() })
	go func() {
		for {
			near, err := l.Accept()
			if err != nil {
				return
			}
			far := c.dial(net.JoinHostPort(address, "6443"))
			go func() { io.Copy(far, near); far.Close() }()
			go func() { io.Copy(near, far); near.Close() }()
		}
	}()
	return &nested{c.t, filepath.Join(dir, secret+".kubeconfig"), "https://" + l.Addr().String(), address}
}

func (n *nested) try(args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "kubectl", append([]string{"--kubeconfig", n.kubeconfig, "--server", n.server, "--tls-server-name", n.name}, args...)...)
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("in the nested cluster: kubectl %s: %w\n%s", strings.Join(args, " "), err, words.String())
	}
	return strings.TrimSpace(out.String()), nil
}

// kubectl runs a command that must succeed; an API server that is busy with its own start is given some time.
func (n *nested) kubectl(args ...string) string {
	n.t.Helper()
	var out string
	var err error
	for range 10 {
		if out, err = n.try(args...); err == nil {
			return out
		}
		time.Sleep(10 * time.Second)
	}
	n.t.Fatal(err)
	return ""
}

func (n *nested) await(what string, done func() bool) {
	n.t.Helper()
	began := time.Now()
	for !done() {
		if time.Since(began) > forming {
			n.t.Fatalf("after %v: %s: not there", forming, what)
		}
		time.Sleep(15 * time.Second) // each question is work for a cluster that is busy enough
	}
	n.t.Logf("%s: after %v", what, time.Since(began).Round(time.Second))
}

// awaitNodes waits until the cluster has these nodes and no others, all ready.
func (n *nested) awaitNodes(names ...string) {
	n.t.Helper()
	n.await("the nodes "+strings.Join(names, ", "), func() bool {
		out, err := n.try("get", "nodes", "--output", `jsonpath={range .items[*]}{.metadata.name}={.status.conditions[?(@.type=="Ready")].status} {end}`)
		got := strings.Fields(out)
		sort.Strings(got)
		return err == nil && strings.Join(got, " ") == strings.Join(names, "=True ")+"=True"
	})
}

func (n *nested) awaitHello(pods int) {
	n.t.Helper()
	n.await("the pods of hello", func() bool {
		out, err := n.try("get", "replicationcontroller", "hello", "--output", "jsonpath={.status.readyReplicas}")
		return err == nil && out == fmt.Sprint(pods)
	})
}

// get asks an HTTP server in the cluster's network, from the pod outside.
func (c *cluster) get(address, path string) string {
	c.t.Helper()
	body, err := c.tryGet(address, path)
	if err != nil {
		c.t.Error(err)
	}
	return body
}

func (c *cluster) tryGet(address, path string) (string, error) {
	c.t.Helper()
	conn := c.dial(address)
	defer conn.Close()
	conn.SetDeadline(time.Now().Add(5 * time.Minute))
	fmt.Fprintf(conn, "GET %s HTTP/1.0\r\n\r\n", path)
	answer, err := io.ReadAll(conn)
	head, body, found := strings.Cut(string(answer), "\r\n\r\n")
	if !found || !strings.Contains(head, " 200 ") {
		err = fmt.Errorf("GET %s%s: %v, %q", address, path, err, answer[:min(len(answer), 200)])
	}
	return strings.TrimSpace(body), err
}

// answers says whether an HTTP server answers there.
func (c *cluster) answers(address string) bool {
	c.t.Helper()
	_, err := c.tryGet(address, "/")
	return err == nil
}

// everyHello asks until as many different pods have answered.
func (c *cluster) everyHello(address string, pods int) []string {
	c.t.Helper()
	seen := map[string]bool{}
	var all []string
	for range 20 * pods {
		if says := c.get(address, "/"); !seen[says] {
			seen[says] = true
			all = append(all, says)
		}
		if len(all) == pods {
			return all
		}
	}
	c.t.Errorf("at %s only %d pods have answered: %s", address, len(all), all)
	return all
}
