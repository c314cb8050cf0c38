package k8s

import (
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/transcript"
)

// TestDeployment: ssh, and a second port, at the Service's address; scaled from one to three they are three machines, with an address and a host key each; all shut
// down when they are deleted.
func TestDeployment(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	k := c.secretKey("vm")
	c.apply("deployment")
	c.await("deployment/vm", ".status.readyReplicas", is("1"))
	service := c.field("service/vm", ".spec.clusterIP")
	guest := c.login(net.JoinHostPort(service, "22"), "core", k)
	guest.Wants("cat /etc/hello", "Hello from the ConfigMap.")
	guest.Wants("hostname", c.pods("vm")[0])
	guest.Wants("lsblk -bdno SIZE /dev/vda", fmt.Sprint(12<<30))
	guest.Says(`[ "$(awk '/MemTotal/ {print int($2/1024)}' /proc/meminfo)" -gt 3500 ]`)
	if got := c.hear(service, "443"); !strings.HasPrefix(got, "Hello from the ConfigMap.") {
		t.Errorf("port 443 says %q", got)
	}
	guest.Close()

	began := time.Now()
	c.kubectl("scale", "deployment", "vm", "--replicas=3")
	c.await("deployment/vm", ".status.readyReplicas", is("3"))
	t.Logf("scaled from 1 to 3 in %s", time.Since(began).Round(time.Second))
	pods := c.pods("vm")
	whose := map[string]string{}
	for _, pod := range pods {
		address := c.address(pod)
		guest := c.login(net.JoinHostPort(address, "2222"), "core", k)
		guest.Wants("hostname", pod)
		t.Logf("%s: address %s, host key %s", pod, address, guest.HostKey)
		for _, own := range []string{address, guest.HostKey, guest.Says("cat /etc/machine-id")} {
			if other, ok := whose[own]; ok {
				t.Errorf("%s and %s have both %s", other, pod, own)
			}
			whose[own] = pod
		}
		guest.Close()
	}
	answered := map[string]bool{}
	for give := time.Now().Add(transcript.Patience); len(answered) < 3; {
		_, host, _ := strings.Cut(c.hear(service, "443"), "\n")
		answered[strings.TrimSpace(host)] = true
		if time.Now().After(give) {
			t.Fatalf("behind the Service there are only %v", answered)
		}
	}
	c.deleteCleanly("deployment/vm", pods...)
}

// TestDeploymentEtcd: a Container Linux Config of 2017, with a drop-in whose variables the service has.
func TestDeploymentEtcd(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	k := c.secretKey("vm")
	c.apply("deployment-etcd")
	c.await("deployment/vm", ".status.readyReplicas", is("1"))
	service := c.field("service/vm", ".spec.clusterIP")
	guest := c.login(net.JoinHostPort(service, "22"), "core", k)
	guest.Says("systemctl is-system-running --wait")
	guest.Mentions("systemctl cat etcd2.service", "/etc/systemd/system/etcd2.service.d/10-cluster.conf")
	guest.Wants("systemctl is-enabled etcd2.service", "enabled")
	environment := c.kubectl("exec", outside, "--", "outside", "get", "http://"+net.JoinHostPort(service, "2379")+"/environment")
	for _, want := range []string{"ETCD_NAME=node1", "ETCD_ADVERTISE_CLIENT_URLS=http://0.0.0.0:2379", "ETCD_LISTEN_CLIENT_URLS=http://0.0.0.0:2379"} {
		if !strings.Contains(environment, want) {
			t.Errorf("etcd's environment has no %s:\n%s", want, environment)
		}
	}
}

// deploy applies what is built on the Deployment, with the tiny guest, and waits until there are so many replicas.
func (c *cluster) deploy(example string, replicas int, pairs ...string) {
	c.t.Helper()
	c.secretKey("vm")
	c.apply(example, append([]string{debian, tiny}, pairs...)...)
	c.await("deployment/vm", ".status.readyReplicas", is(fmt.Sprint(replicas)))
}

// TestNodePort: a guest at a port of each node's address.
func TestNodePort(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	c.deploy("nodeport", 1)
	for _, node := range strings.Fields(c.kubectl("get", "nodes", "--output", `jsonpath={.items[*].status.addresses[?(@.type=="InternalIP")].address}`)) {
		if got := c.hear(node, "30022"); got != tinySays {
			t.Errorf("%s, port 30022 says %q", node, got)
		}
	}
}

// TestExternalIPs: a guest at addresses that are nobody's. Nodes that are asked lead there, so that the pod outside finds it.
func TestExternalIPs(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	c.deploy("external-ips", 1)
	for _, address := range []string{"192.0.2.10", "192.0.2.11"} {
		if got := c.hear(address, "22"); got != tinySays {
			t.Errorf("%s says %q", address, got)
		}
	}
}

// TestResources: the guest's size follows the container's.
func TestResources(t *testing.T) {
	c := newCluster(t)
	c.deploy("resources", 1)
	pod := c.pods("vm")[0]
	c.shows(pod, "vmtest: cpus 1\n")
	status := c.kubectl("exec", pod, "--", "vmentry", "status", "-o", "json")
	var memory int
	if _, after, ok := strings.Cut(status, `"memory_bytes":`); ok {
		fmt.Sscan(after, &memory)
	}
	if memory < 1<<30 || memory >= 1536<<20 {
		t.Errorf("of 1536 MiB the guest has %d MiB:\n%s", memory>>20, status)
	}
	c.shows(pod, " 4294967296 ro=0 ") // the disk
}

// TestNodeSelection: without a node that has the label the pod waits, with one it runs there.
func TestNodeSelection(t *testing.T) {
	c := newCluster(t)
	if nodes := c.kubectl("get", "nodes", "--selector", "kvm=true", "--output", "name"); nodes != "" {
		t.Skipf("nodes with the label kvm=true are there already: %s", nodes)
	}
	c.secretKey("vm")
	c.apply("node-selection", debian, tiny)
	c.await("pods", `.items[0].status.conditions[?(@.type=="PodScheduled")].message`, func(s string) bool { return strings.Contains(s, "node affinity/selector") })
	node := strings.Fields(c.kubectl("get", "nodes", "--output", "jsonpath={.items[*].metadata.name}"))[0]
	c.kubectl("label", "node", node, "kvm=true")
	t.Cleanup(func() { c.kubectl("label", "node", node, "kvm-") })
	c.await("deployment/vm", ".status.readyReplicas", is("1"))
	if on := c.field("pod/"+c.pods("vm")[0], ".spec.nodeName"); on != node {
		t.Errorf("it runs on %s, and %s has the label", on, node)
	}
}

// TestDisruptionBudget: of two guests one may be evicted, and not the other, until there is another one.
func TestDisruptionBudget(t *testing.T) {
	c := newCluster(t)
	c.deploy("disruption-budget", 2)
	c.await("poddisruptionbudget/vm", ".status.disruptionsAllowed", is("1"))
	evict := func(pod string) (string, error) {
		cmd := c.command("create", "--raw", "/api/v1/namespaces/"+c.namespace+"/pods/"+pod+"/eviction", "--filename", "-")
		cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": %q, "namespace": %q}}`, pod, c.namespace))
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	pods := c.pods("vm")
	log := c.follow(pods[0])
	log.Await(t, "QEMU started")
	if out, err := evict(pods[0]); err != nil {
		t.Fatalf("the first: %v: %s", err, out)
	}
	if out, err := evict(pods[1]); err == nil || !strings.Contains(out, "disruption budget") {
		t.Errorf("the second: %v: %s", err, out)
	}
	log.Await(t, "shut down as asked")
	c.await("poddisruptionbudget/vm", ".status.disruptionsAllowed", is("1"))
	if out, err := evict(pods[1]); err != nil {
		t.Errorf("the second, when there is another: %v: %s", err, out)
	}
}

// TestNetworkPolicy: the pods that may connect can; where the cluster enforces policies, others cannot.
func TestNetworkPolicy(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	c.deploy("network-policy", 1)
	address := c.address(c.pods("vm")[0])
	c.kubectl("label", "pod", outside, "access=vm")
	if got := c.hear(address, "2222"); got != tinySays {
		t.Errorf("who may connect hears %q", got)
	}
	c.kubectl("label", "pod", outside, "access-")
	reach := func() bool {
		out, _ := c.command("exec", outside, "--", "timeout", "5", "outside", "call", net.JoinHostPort(address, "2222")).Output()
		return strings.TrimSpace(string(out)) == tinySays
	}
	if !c.enforcesPolicies() {
		t.Skip("who may connect can. This cluster enforces no NetworkPolicy: whether others cannot is not seen here")
	}
	for give := time.Now().Add(transcript.Patience); reach(); time.Sleep(time.Second) {
		if time.Now().After(give) {
			t.Fatal("who may not connect can")
		}
	}
}

// enforcesPolicies says whether the cluster's network enforces policies, by one that nothing may reach: given some time, a pod with it cannot be reached.
func (c *cluster) enforcesPolicies() bool {
	c.t.Helper()
	c.feed(fmt.Sprintf(`{"apiVersion": "v1", "kind": "List", "items": [
		{"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "shut"}, "spec": {"podSelector": {"matchLabels": {"app": "shut"}}, "policyTypes": ["Ingress"]}},
		{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "shut", "labels": {"app": "shut"}}, "spec": {"terminationGracePeriodSeconds": 0, "containers": [
			{"name": "serve", "image": %q, "imagePullPolicy": "IfNotPresent", "command": ["outside", "serve", "/tiny", ":80"]}]}}]}`, reference(tiny)), "apply", "--filename", "-")
	c.ready("shut")
	url := "http://" + c.address("shut") + "/"
	for range 10 {
		if err := c.command("exec", outside, "--", "timeout", "5", "outside", "get", url).Run(); err != nil {
			return true
		}
		time.Sleep(2 * time.Second)
	}
	return false
}

// TestReplicasBridge: three guests with their pods' addresses, and a Service in front of them.
func TestReplicasBridge(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	c.secretKey("replicas")
	c.apply("replicas-bridge.yaml", debian, tiny)
	c.await("deployment/replicas", ".status.readyReplicas", is("3"))
	pods := c.pods("replicas")
	if len(pods) != 3 {
		t.Fatalf("pods: %v", pods)
	}
	c.areTheirPods(pods)
	if got := c.hear(c.field("service/replicas", ".spec.clusterIP"), "22"); got != tinySays {
		t.Errorf("the Service says %q", got)
	}
	c.deleteCleanly("deployment/replicas", pods...)
}

// TestHeadless: guests whose host names are their pods', by ordinal, one after the other, each with an address of its own that the Service gives its name to.
func TestHeadless(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	c.secretKey("k8s")
	c.apply("headless.yaml", debian, tiny)
	c.await("statefulset/k8s", ".status.readyReplicas", is("3"))
	pods := []string{"k8s-0", "k8s-1", "k8s-2"}
	c.areTheirPods(pods)
	dns := c.kubectl("--namespace", "kube-system", "get", "service", "kube-dns", "--ignore-not-found", "--output", "name") != ""
	names := c.kubectl("get", "endpointslices", "--selector", "kubernetes.io/service-name=k8s", "--output", "jsonpath={range .items[*].endpoints[*]}{.hostname}={.addresses[0]} {end}") + " "
	for _, pod := range pods {
		c.shows(pod, " hostname "+pod+" ")
		if !strings.Contains(names, pod+"="+c.address(pod)+" ") {
			t.Errorf("the Service gives no name to %s: %s", pod, names)
		}
		if dns {
			if got := c.hear(pod+".k8s", "22"); got != tinySays {
				t.Errorf("%s.k8s says %q", pod, got)
			}
		}
	}
}
