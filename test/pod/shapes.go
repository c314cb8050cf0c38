package pod

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
)

// Shape is a kind of pod: how a network of the world makes it.
type Shape struct {
	Name string
	// DNS is the pod's resolv.conf.
	DNS string
	// Container is how its container runs.
	Container Container
	build     func(testing.TB, *Pod)
}

// What pods find in resolv.conf.
const (
	clusterSearch  = "search default.svc.cluster.local svc.cluster.local cluster.local\n"
	kubernetesDNS  = clusterSearch + "nameserver 10.96.0.10\noptions ndots:5\n"
	kubernetesDNS6 = clusterSearch + "nameserver fd00:96::a\noptions ndots:5\n"
	dualStackDNS   = clusterSearch + "nameserver 10.96.0.10\nnameserver fd00:96::a\noptions ndots:5\n"
	dockerDNS      = "nameserver 192.0.2.53\nnameserver 192.0.2.54\nsearch example.net\n"
	dockerOwnDNS   = "nameserver 127.0.0.11\nsearch example.net\noptions edns0 trust-ad ndots:0\n"
	podmanDNS      = "search dns.podman example.net\nnameserver 10.89.0.1\n"
)

// Addresses of the pods whose shape is not about addresses.
var (
	ipv4     = onBridge{mtu: 1500, address4: "10.40.0.5/24", gateway4: "10.40.0.1"}
	ipv6     = onBridge{mtu: 1500, address6: "fd00:40::5/64", gateway6: "fd00:40::1"}
	bothIPs  = onBridge{mtu: 1500, address4: "10.40.0.5/24", gateway4: "10.40.0.1", address6: "fd00:40::5/64", gateway6: "fd00:40::1"}
	ipv6Link = onBridge{mtu: 1500, address6: "fd00:40::5/64", gateway6: "fe80::1"}
)

// Shapes are all kinds of pod that are known.
func Shapes() []Shape {
	return []Shape{
		{Name: "CNI bridge", DNS: kubernetesDNS, build: cniBridge(conf{"hairpinMode": true,
			"ipam": hostLocal([]string{"0.0.0.0/0"}, "10.22.0.0/16")})},
		{Name: "CNI bridge, no hairpin, dual stack", DNS: dualStackDNS, build: cniBridge(conf{"hairpinMode": false,
			"ipam": hostLocal([]string{"0.0.0.0/0", "::/0"}, "10.22.4.0/24", "fd00:22:4::/64")})},
		{Name: "CNI bridge, IPv6 only", DNS: kubernetesDNS6, build: cniBridge(conf{
			"ipam": hostLocal([]string{"::/0"}, "fd00:22::/64")})},
		{Name: "CNI bridge, static, several routes", DNS: kubernetesDNS, build: cniBridge(conf{"ipam": conf{"type": "static",
			"addresses": []conf{{"address": "10.30.0.7/20", "gateway": "10.30.0.1"}},
			"routes":    []conf{{"dst": "0.0.0.0/0"}, {"dst": "10.96.0.0/12", "gw": "10.30.0.254"}, {"dst": "192.0.2.0/24"}}}})},
		{Name: "CNI bridge, no IPAM", DNS: kubernetesDNS, build: cniWithoutIPAM},
		{Name: "CNI ptp (GKE)", DNS: kubernetesDNS, build: cniPTP(conf{"mtu": 1460,
			"ipam": hostLocal([]string{"0.0.0.0/0"}, "10.64.1.0/24")})},
		{Name: "CNI ptp, dual stack", DNS: dualStackDNS, build: cniPTP(conf{
			"ipam": hostLocal([]string{"0.0.0.0/0", "::/0"}, "10.64.2.0/24", "fd00:64:2::/112")})},
		{Name: "CNI macvlan", DNS: kubernetesDNS, build: cniMacvlan},
		{Name: "Docker's bridge", DNS: dockerDNS, build: dockerBridge},
		{Name: "Docker's own network", DNS: dockerOwnDNS, build: dockerOwnNetwork},
		{Name: "Docker's own network, dual stack", DNS: dockerOwnDNS, build: dockerDualStack},
		{Name: "podman", DNS: podmanDNS, build: podman},
		{Name: "flannel", DNS: kubernetesDNS, build: flannel},
		{Name: "Calico", DNS: kubernetesDNS, build: calico},
		{Name: "Calico, dual stack", DNS: dualStackDNS, build: calicoDualStack},
		{Name: "Cilium", DNS: kubernetesDNS, build: cilium},
		{Name: "IPv6 only, global gateway", DNS: kubernetesDNS6, build: ipv6.build},
		{Name: "IPv6 only, link-local gateway", DNS: kubernetesDNS6, build: ipv6Link.build},
		{Name: "dual stack", DNS: dualStackDNS, build: bothIPs.build},
		{Name: "two interfaces", DNS: kubernetesDNS, build: twoInterfaces},
		{Name: "no default route", DNS: kubernetesDNS, build: onBridge{mtu: 1500, address4: "10.40.0.5/24"}.build},
		{Name: "MTU 576", DNS: kubernetesDNS, build: ipv4.withMTU(576).build},
		{Name: "MTU 1280", DNS: dualStackDNS, build: bothIPs.withMTU(1280).build},
		{Name: "MTU 9000", DNS: dualStackDNS, build: bothIPs.withMTU(9000).build},
		{Name: "IPv6 switched off", DNS: kubernetesDNS, build: withoutIPv6},
		{Name: "NET_ADMIN alone", DNS: dualStackDNS, Container: Container{Capabilities: NetAdmin}, build: bothIPs.withMTU(1450).build},
		{Name: "privileged", DNS: dualStackDNS, Container: Container{Capabilities: All}, build: bothIPs.withMTU(1450).build},
	}
}

// Named is the shape of the given name.
func Named(t testing.TB, name string) Shape {
	t.Helper()
	for _, s := range Shapes() {
		if s.Name == name {
			return s
		}
	}
	t.Fatalf("there is no shape %q", name)
	return Shape{}
}

// cniBridge is the plugin that most clusters of one node use, and many others.
func cniBridge(c conf) func(testing.TB, *Pod) {
	return func(t testing.TB, p *Pod) {
		p.cni(t, "eth0", "bridge", c.with(conf{"bridge": "cni0", "isGateway": true}))
	}
}

// cniWithoutIPAM gives the pod an interface without an address. The node has an address all the same, for a test to speak from.
func cniWithoutIPAM(t testing.TB, p *Pod) {
	p.cni(t, "eth0", "bridge", conf{"bridge": "cni0", "ipam": conf{}})
	p.Peer.script(t, "ip addr add 10.50.0.1/24 dev cni0; ip addr add fd00:50::1/64 dev cni0 nodad")
}

// cniPTP is what GKE uses: a veth pair without a bridge, where all but the gateway is behind the gateway.
func cniPTP(c conf) func(testing.TB, *Pod) {
	return func(t testing.TB, p *Pod) { p.cni(t, "eth0", "ptp", c.with(nil)) }
}

// cniMacvlan has the pod's interface on a card of the node, which itself cannot speak to it: the gateway is outside.
func cniMacvlan(t testing.TB, p *Pod) {
	p.node = newSpace(t, "host")
	p.Peer.script(t, fmt.Sprintf(`
		ip link add lan0 type veth peer name ens1 netns %s
		ip addr add 10.60.0.1/24 dev lan0
		ip link set lan0 up`, p.node))
	p.node.script(t, "ip link set ens1 up")
	p.cni(t, "eth0", "macvlan", conf{"master": "ens1", "mode": "bridge", "ipam": conf{"type": "host-local",
		"ranges": [][]conf{{{"subnet": "10.60.0.0/24", "gateway": "10.60.0.1"}}}, "routes": destinations([]string{"0.0.0.0/0"})}})
	p.Wires = []string{"lan0"}
}

// onBridge is a pod on a bridge of its node that has the gateway's addresses.
type onBridge struct {
	mtu                int
	address4, gateway4 string
	address6, gateway6 string
	mac                string // empty: random
	metric             int    // of the default route
}

func (o onBridge) withMTU(mtu int) onBridge {
	o.mtu = mtu
	return o
}

func (o onBridge) build(t testing.TB, p *Pod) { o.interfaceOf(t, p, "eth0", "br0") }

// interfaceOf makes one of the pod's interfaces, on a bridge of the given name.
func (o onBridge) interfaceOf(t testing.TB, p *Pod, name, bridge string) {
	t.Helper()
	p.Peer.script(t, fmt.Sprintf(`
		ip link add %[1]s mtu %[3]d type bridge
		ip link add veth-%[1]s mtu %[3]d type veth peer name %[2]s mtu %[3]d netns %[4]s
		ip link set veth-%[1]s master %[1]s
		ip link set %[1]s up
		ip link set veth-%[1]s up`, bridge, name, o.mtu, p.Space))
	if o.mac != "" {
		p.Space.Run(t, "ip", "link", "set", name, "address", o.mac)
	}
	p.Space.Run(t, "ip", "link", "set", name, "up")
	o.addresses(t, p, bridge, name, o.address4, o.gateway4, "32")
	o.addresses(t, p, bridge, name, o.address6, o.gateway6, "64")
}

// addresses gives address to the pod, and gateway to the bridge. Without a gateway the bridge has the first address of the
// subnet, and the pod no default route.
func (o onBridge) addresses(t testing.TB, p *Pod, bridge, name, address, gateway, linkLocal string) {
	t.Helper()
	if address == "" {
		return
	}
	nodad := ""
	if strings.Contains(address, ":") {
		nodad = "nodad"
	}
	p.Space.Run(t, "sh", "-ec", fmt.Sprintf("ip addr add %s dev %s %s", address, name, nodad))
	subnet, length, _ := strings.Cut(address, "/")
	first := subnet[:strings.LastIndexAny(subnet, ".:")+1] + "1"
	p.Peer.script(t, fmt.Sprintf("ip addr add %s/%s dev %s %s", first, length, bridge, nodad))
	if gateway == "" {
		return
	}
	if gateway != first {
		p.Peer.script(t, fmt.Sprintf("ip addr add %s/%s dev %s %s", gateway, linkLocal, bridge, nodad))
	}
	metric := ""
	if o.metric > 0 {
		metric = fmt.Sprint("metric ", o.metric)
	}
	p.Space.script(t, fmt.Sprintf("ip route add default via %s dev %s %s", gateway, name, metric))
}

// dockerBridge is what `docker run` makes: a MAC made from the address, IPv6 off on the interface.
func dockerBridge(t testing.TB, p *Pod) {
	onBridge{mtu: 1500, mac: "02:42:ac:11:00:02", address4: "172.17.0.2/16", gateway4: "172.17.0.1"}.build(t, p)
	p.Space.Run(t, "sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
}

// dockerOwnNetwork is what `docker network create` makes: as the default one, with a resolver in the container's own namespace.
func dockerOwnNetwork(t testing.TB, p *Pod) {
	onBridge{mtu: 1500, mac: "02:42:ac:12:00:02", address4: "172.18.0.2/16", gateway4: "172.18.0.1"}.build(t, p)
	p.Space.Run(t, "sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=1")
	p.resolver(t, "127.0.0.11:53")
}

// dockerDualStack is what `docker network create --ipv6` makes: IPv6 is on for the one interface, and off for all that come later.
func dockerDualStack(t testing.TB, p *Pod) {
	p.Space.Run(t, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	p.Space.Run(t, "sysctl", "-qw", "net.ipv6.conf.lo.disable_ipv6=0")
	p.Peer.script(t, fmt.Sprintf(`
		ip link add br0 type bridge
		ip link add veth0 type veth peer name eth0 address 02:42:ac:13:00:02 netns %s
		ip link set veth0 master br0
		ip addr add 172.19.0.1/16 dev br0
		ip addr add fd00:d0c::1/64 dev br0 nodad
		ip link set br0 up
		ip link set veth0 up`, p.Space))
	p.Space.Run(t, "sysctl", "-qw", "net.ipv6.conf.eth0.disable_ipv6=0")
	p.Space.script(t, `
		ip link set eth0 up
		ip addr add 172.19.0.2/16 dev eth0
		ip addr add fd00:d0c::2/64 dev eth0 nodad
		ip route add default via 172.19.0.1
		ip route add default via fd00:d0c::1`)
	p.resolver(t, "127.0.0.11:53")
}

// podman is what netavark makes, with its resolver at the gateway.
func podman(t testing.TB, p *Pod) {
	onBridge{mtu: 1500, address4: "10.89.0.7/24", gateway4: "10.89.0.1", metric: 100}.build(t, p)
}

// flannel's pods reach the other nodes' pods by a route of their own, and lose 50 bytes to VXLAN.
func flannel(t testing.TB, p *Pod) {
	onBridge{mtu: 1450, address4: "10.244.1.7/24", gateway4: "10.244.1.1"}.build(t, p)
	p.Space.Run(t, "ip", "route", "add", "10.244.0.0/16", "via", "10.244.1.1")
}

// calico gives the pod a single address, and a gateway that is nobody's: the node answers for it as it does for everything
// (proxy ARP), and all of the node's interfaces to pods have the same MAC.
func calico(t testing.TB, p *Pod) {
	p.Peer.script(t, fmt.Sprintf(`
		ip link add cali0 mtu 1450 type veth peer name eth0 mtu 1450 netns %s
		ip link set cali0 address ee:ee:ee:ee:ee:ee
		sysctl -qw net.ipv4.conf.cali0.proxy_arp=1 net.ipv4.neigh.cali0.proxy_delay=0
		ip link set cali0 up
		ip route add 10.244.9.17/32 dev cali0`, p.Space))
	p.Space.script(t, `
		ip link set eth0 up
		ip addr add 10.244.9.17/32 dev eth0
		ip route add 169.254.1.1 dev eth0 scope link
		ip route add default via 169.254.1.1`)
}

// calicoDualStack has the node's link-local address, made from that MAC, as its gateway besides.
func calicoDualStack(t testing.TB, p *Pod) {
	calico(t, p)
	p.Peer.script(t, "ip -6 route add fd00:244::9:11/128 dev cali0")
	p.Space.script(t, `
		ip addr add fd00:244::9:11/128 dev eth0 nodad
		ip route add default via fe80::ecee:eeff:feee:eeee dev eth0`)
}

// cilium gives the pod a single address, a route to the node's, and the room for its overlay as the routes' MTU.
func cilium(t testing.TB, p *Pod) {
	p.Peer.script(t, fmt.Sprintf(`
		ip link add lxc0 type veth peer name eth0 netns %s
		ip link add cilium_host type veth peer name cilium_net
		ip addr add 10.0.1.44/32 dev cilium_host
		ip link set cilium_host up
		ip link set cilium_net up
		ip link set lxc0 up
		ip addr add 10.0.1.44/32 dev lxc0
		ip route add 10.0.1.118/32 dev lxc0 mtu 1450`, p.Space))
	p.Space.script(t, `
		ip link set eth0 up
		ip addr add 10.0.1.118/32 dev eth0
		ip route add 10.0.1.44 dev eth0 scope link
		ip route add default via 10.0.1.44 dev eth0 mtu 1450`)
}

// twoInterfaces is what Multus makes: a second network, without a gateway.
func twoInterfaces(t testing.TB, p *Pod) {
	flannel(t, p)
	onBridge{mtu: 1400, address4: "192.168.50.5/24"}.interfaceOf(t, p, "net1", "br1")
}

// withoutIPv6 is a node where IPv6 was switched off by its administrator.
func withoutIPv6(t testing.TB, p *Pod) {
	p.Space.Run(t, "sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1", "net.ipv6.conf.default.disable_ipv6=1")
	flannel(t, p)
}

// Addresses for a guest in a pod without any: free ones on the network of its node.
var (
	Unserved4 = netip.MustParsePrefix("10.50.0.5/24")
	Unserved6 = netip.MustParsePrefix("fd00:50::5/64")
)
