package network

import (
	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// bridged is the priority of filters on a bridge (include/uapi/linux/netfilter_bridge.h, NF_BR_PRI_FILTER_BRIDGED). From 0 on they see nothing
// where br_netfilter is loaded, as on every node of Kubernetes: it takes the frames for iptables' hooks, and gives them back behind.
const bridged = -200

// filter says what may pass the bridges. With a lease, vmentry alone speaks of addresses to the guest, and the guest speaks of none to
// the cluster. Layer 2 alone is left alone.
func filter(t *transaction, bridges []BridgePlan) {
	r := t.replace(nftables.TableFamilyBridge)
	pre := r.chain("prerouting", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -300)
	forward := r.chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, bridged)
	input := r.chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, bridged)
	output := r.chain("output", nftables.ChainTypeFilter, nftables.ChainHookOutput, bridged)
	for _, b := range bridges {
		// what the network sends back to where it came from (hairpin mode) makes a guest believe that its address is taken
		pre.rule(from(b.Uplink), fromMAC(b.Guest), toGroup(), drop())
		if b.Service != nil {
			b.toService(pre)
			b.keepApart(forward)
		}
		if b.Intercept != nil {
			b.Intercept.filter(b, pre, forward, input, output)
		}
		if b.Reach.V4.IsValid() {
			b.receive(pre, input)
			b.send(output)
		}
		for _, o := range b.Outward {
			o.translate(b, pre, input, output)
		}
		b.notice(pre)
		for _, port := range b.ports() {
			input.rule(from(port), drop())
			output.rule(to(port), drop())
		}
	}
	r = t.replace(nftables.TableFamilyINet)
	guarded := r.chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, 0)
	redirect := r.chain("redirect", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, destinationNAT)
	for _, b := range bridges {
		b.guard(guarded)
		b.redirectDNS(redirect)
	}
}

func (b BridgePlan) ports() []string {
	ports := []string{b.Uplink, b.Tap.Name}
	if b.Service != nil {
		ports = append(ports, b.Service.Name)
	}
	if b.Intercept != nil {
		ports = append(ports, b.Intercept.Tap)
	}
	return ports
}

// toService sends what the guest says to a DHCP server or to routers to vmentry alone, whoever it was meant for: a lease is renewed with
// its server directly, at the pod's own address, where nothing else of the guest's may take it (see [BridgePlan.receive]).
func (b BridgePlan) toService(pre *chain) {
	divert := append(setMAC(0, b.Service.MAC), accept()...)
	guest := from(b.Tap.Name)
	pre.rule(guest, etherType(unix.ETH_P_IP), protocol(unix.IPPROTO_UDP), targetPort(dhcpServer), divert)
	pre.rule(guest, etherType(unix.ETH_P_IPV6), protocol(unix.IPPROTO_UDP), targetPort(dhcp6Server), divert)
	pre.rule(guest, etherType(unix.ETH_P_IPV6), icmp6(routerSolicitation), divert)
	if v6 := b.Service.Lease.V6; v6 != nil && v6.RouterMAC != nil {
		pre.rule(guest, etherType(unix.ETH_P_IPV6), soliciting(v6.Router), divert)
	}
}

// keepApart keeps the network's own DHCP and router advertisements from the guest, and the guest's from the network.
func (b BridgePlan) keepApart(forward *chain) {
	for _, way := range [][]expr.Any{from(b.Uplink), to(b.Uplink)} {
		udp4 := append(etherType(unix.ETH_P_IP), protocol(unix.IPPROTO_UDP)...)
		udp6 := append(etherType(unix.ETH_P_IPV6), protocol(unix.IPPROTO_UDP)...)
		for _, p := range []uint16{dhcpServer, dhcpClient} {
			forward.rule(way, udp4, targetPort(p), drop())
		}
		for _, p := range []uint16{dhcp6Server, dhcp6Client} {
			forward.rule(way, udp6, targetPort(p), drop())
		}
		for _, kind := range []byte{routerSolicitation, routerAdvertisement} {
			forward.rule(way, etherType(unix.ETH_P_IPV6), icmp6(kind), drop())
		}
	}
}

// receive lets the guest's frames for the pod's own addresses into the pod. The guest sends those to its router, which it takes for
// the way to every address.
func (b BridgePlan) receive(pre, input *chain) {
	guest, in := from(b.Tap.Name), b.Reach
	pre.rule(guest, sentTo(in.V4), toPod(b.MAC))
	input.rule(guest, asking(in.V4), accept())
	input.rule(guest, answering(), accept())
	for _, a := range in.Guest {
		if a.Is4() { // the guest must not answer for others whom the pod has asked
			input.rule(guest, sentBy(a), sentTo(in.V4), accept())
		}
	}
	if in.V6.IsValid() {
		input.rule(guest, etherType(unix.ETH_P_IPV6), soliciting(in.V6), accept())
		input.rule(guest, sentTo(in.V6), accept())
	}
}

// send lets the pod's frames for the guest out to it.
func (b BridgePlan) send(output *chain) {
	guest := to(b.Tap.Name)
	output.rule(guest, etherType(unix.ETH_P_ARP), accept())
	for _, a := range b.Reach.Guest {
		output.rule(guest, sentBy(b.Reach.own(a)), sentTo(a), accept())
	}
	if b.Reach.V6.IsValid() {
		output.rule(guest, etherType(unix.ETH_P_IPV6), icmp6(neighborSolicitation), accept())
		output.rule(guest, etherType(unix.ETH_P_IPV6), icmp6(neighborAdvert), accept())
	}
}

// guard keeps the guest, and whoever is on the wire, from what listens in the pod: the guest may answer, and ask for names where vmentry forwards them.
func (b BridgePlan) guard(input *chain) {
	guest := from(b.Name)
	input.rule(guest, tracked(), accept())
	if b.Reach.V6.IsValid() {
		input.rule(guest, icmp6(neighborSolicitation), accept())
		input.rule(guest, icmp6(neighborAdvert), accept())
	}
	if b.Intercept != nil {
		b.Intercept.guard(b, input)
	}
	if b.DNS != nil {
		for _, p := range protocols {
			input.rule(guest, protocol(p), targetPort(DNSPort), accept())
		}
	}
	input.rule(guest, drop())
}

// redirectDNS leads questions for port 53 to [DNSPort].
func (b BridgePlan) redirectDNS(pre *chain) {
	if b.DNS == nil {
		return
	}
	for _, p := range protocols {
		pre.rule(from(b.Name), sentTo(b.DNS.At), protocol(p), targetPort(dnsPort), []expr.Any{
			&expr.Immediate{Register: 1, Data: binaryutil.BigEndian.PutUint16(DNSPort)},
			&expr.Redir{RegisterProtoMin: 1},
		})
	}
}

const dnsPort = 53

// DNSPort is where vmentry listens on [Forwarder.At]: to listen on port 53 takes a right that NET_ADMIN does not include.
const DNSPort = 10053

// destinationNAT is the priority of chains that change where packets go (include/uapi/linux/netfilter_ipv4.h, NF_IP_PRI_NAT_DST).
const destinationNAT = -100
