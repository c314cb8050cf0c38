package network

import (
	"bufio"
	"fmt"
	"os"
	"strings"

	"github.com/vishvananda/netlink"
)

// hostNetworkHeader is the first line of the /etc/hosts that the kubelet writes for a pod with hostNetwork: true, and for no other
// (pkg/kubelet/kubelet_pods.go, managedHostsHeaderWithHostNetwork).
const hostNetworkHeader = "# Kubernetes-managed hosts file (host network)."

// node says by what the network namespace is known to be a node's own: bridge and nat mode would take the node's address, or all of its
// ports. Only what a pod cannot have counts, because a pod that is taken for a node could not start at all. So it is not enough that
// there are bridges and other namespaces' interfaces (a pod may have containers of its own in it), or that it is the first
// namespace of the kernel (runtimes that give each pod a virtual machine have nothing else in there): a node is where both is so.
func node(hosts string, links []netlink.Link) string {
	switch name := hostOfContainers(links); {
	case firstLine(hosts) == hostNetworkHeader:
		return "the kubelet says so in " + hosts
	case name != "" && initialNamespace():
		return "it is the machine's first network namespace, and has " + name
	}
	return ""
}

// firstLine is empty where there is none.
func firstLine(path string) string {
	f, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan()
	return strings.TrimSpace(lines.Text())
}

// hostOfContainers is the first interface that a container engine makes for others: a bridge, or an end of a pair whose other end is in
// another namespace. Empty: there is none.
func hostOfContainers(links []netlink.Link) string {
	for _, l := range links {
		a := l.Attrs()
		if ours(a.Name) {
			continue
		}
		if l.Type() == "bridge" || l.Type() == "veth" && a.NetNsID >= 0 {
			return a.Name
		}
	}
	return ""
}

// initialNamespace says whether the kernel was booted with this namespace. Most settings of net/core are there alone (net/core/sysctl_net_core.c,
// net_core_table).
func initialNamespace() bool { return sysctl("net/core/netdev_max_backlog") != "" }

// spareNode refuses what would cut a node off. An interface that the node does not go out by, and that was named, may be a guest's.
func (in Input) spareNode() error {
	if in.Pod.Node == "" || in.Mode != Bridge && in.Mode != NAT {
		return nil
	}
	const how = "leave out hostNetwork: true (docker run --network host), or write user or passt"
	if in.Mode == NAT {
		return natMistake("this container has the network of its node (%s), whose ports the guest would take; %s", in.Pod.Node, how)
	}
	if in.Interfaces == nil {
		return &Mistake{"VM_NETWORK", string(in.Mode), fmt.Sprintf("this container has the network of its node (%s), whose address the guest would take; %s", in.Pod.Node, how)}
	}
	for _, name := range in.Interfaces {
		if l := in.Pod.link(name); l != nil && (l.defaultRoute(true) != nil || l.defaultRoute(false) != nil) {
			return &Mistake{"VM_INTERFACES", strings.Join(in.Interfaces, ","), fmt.Sprintf("this container has the network of its node (%s), which goes out by %s; name another interface, or %s", in.Pod.Node, name, how)}
		}
	}
	return nil
}
