package network

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
)

// TestHostOfContainers: what the engines of a node make, and not what a pod has itself.
func TestHostOfContainers(t *testing.T) {
	named := func(name string, netns int) netlink.LinkAttrs {
		a := netlink.NewLinkAttrs()
		a.Name, a.NetNsID = name, netns
		return a
	}
	tests := []struct {
		name  string
		links []netlink.Link
		want  string
	}{
		{"Docker without a container", []netlink.Link{&netlink.Device{LinkAttrs: named("eth0", -1)}, &netlink.Bridge{LinkAttrs: named("docker0", -1)}}, "docker0"},
		{"Calico", []netlink.Link{&netlink.Device{LinkAttrs: named("eth0", -1)}, &netlink.Veth{LinkAttrs: named("cali12345678901", 0)}}, "cali12345678901"},
		{"a pod that is a virtual machine", []netlink.Link{&netlink.Device{LinkAttrs: named("eth0", -1)}}, ""},
		{"vmentry's own", []netlink.Link{&netlink.Device{LinkAttrs: named("eth0", -1)}, &netlink.Bridge{LinkAttrs: named("vm-br0", -1)}}, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := hostOfContainers(tt.links); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestNode: a pod with all that a node has is a pod, unless the kubelet says otherwise.
func TestNode(t *testing.T) {
	pod(t)
	for _, command := range []string{"link add docker0 type bridge", "link add calico type veth peer name other netns " + peerName} {
		run(t, "ip", strings.Fields(command)...)
	}
	for text, node := range map[string]bool{
		"# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n": true,
		"# Kubernetes-managed hosts file.\n127.0.0.1 localhost\n":                false,
		"127.0.0.1 localhost\n# Kubernetes-managed hosts file (host network).\n": false,
		"": false,
	} {
		hosts := filepath.Join(t.TempDir(), "hosts")
		if err := os.WriteFile(hosts, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		p, err := Inspect(User, Files{Hosts: hosts})
		if err != nil {
			t.Fatal(err)
		}
		if (p.Node != "") != node {
			t.Errorf("with %q it is a node's: %q", text, p.Node)
		}
	}
	if initialNamespace() {
		t.Error("this namespace is taken for the machine's first")
	}
}

// TestSpareNode: a node's own network is not given away; an interface that it does not need may be.
func TestSpareNode(t *testing.T) {
	links := []Link{
		{Name: "eth0", MAC: podMAC, MTU: 1500, Up: true, Routes: []Route{{Dst: netip.MustParsePrefix("0.0.0.0/0"), Via: netip.MustParseAddr("10.7.0.1")}}},
		{Name: "eth1", MAC: podMAC, MTU: 1500, Up: true},
	}
	tests := []struct {
		name       string
		node       string
		mode       Mode
		interfaces []string
		wrong      string // what the mistake begins with
	}{
		{"a pod", "", Bridge, nil, ""},
		{"bad: a node", "the kubelet says so", Bridge, nil, "VM_NETWORK=bridge: this container has the network of its node (the kubelet says so), whose address the guest would take"},
		{"bad: the node's way out", "the kubelet says so", Bridge, []string{"eth1", "eth0"}, "VM_INTERFACES=eth1,eth0: this container has the network of its node (the kubelet says so), which goes out by eth0"},
		{"a node's spare interface", "the kubelet says so", Bridge, []string{"eth1"}, ""},
		{"bad: a node's ports", "the kubelet says so", NAT, []string{"eth1"}, "VM_NETWORK=nat: this container has the network of its node (the kubelet says so), whose ports"},
		{"user mode on a node", "the kubelet says so", User, nil, ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := MakePlan(Input{Mode: tt.mode, NICModel: "virtio", Interfaces: tt.interfaces, Pod: Pod{Links: links, Node: tt.node}})
			if tt.wrong == "" && err != nil || tt.wrong != "" && (err == nil || !strings.HasPrefix(err.Error(), tt.wrong)) {
				t.Errorf("got %v, want %q", err, tt.wrong)
			}
		})
	}
}
