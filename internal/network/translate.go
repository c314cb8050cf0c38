package network

import (
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Networks that have a meaning to every host.
var (
	loopback4  = netip.MustParsePrefix("127.0.0.0/8")
	loopback6  = netip.MustParsePrefix("::1/128")
	linkLocal6 = netip.MustParsePrefix("fe80::/10")
)

// Chains that others jump to.
const (
	ports   = "ports"   // leads to the guest what is said to it by the pod's addresses
	nowhere = "nowhere" // drops what the guest says to those who are not for it
)

// translate says which packets change their addresses, and which may pass between the guest, the pod and the outside. Only the
// first packet of a connection is asked about (nft(8), chain type nat): the answers to the pod's own connections stay the pod's.
func (n *NATPlan) translate(t *transaction, b BridgePlan) {
	r := t.replace(nftables.TableFamilyINet)
	n.refuseSpoofed(b, r.chain("spoofed", nftables.ChainTypeFilter, nftables.ChainHookPrerouting, -300)) // before connections are tracked
	n.toGuest(b, r.part(ports))
	incoming := r.chain("incoming", nftables.ChainTypeNAT, nftables.ChainHookPrerouting, destinationNAT)
	for _, uplink := range n.Uplinks {
		incoming.rule(from(uplink), jump(ports))
	}
	b.redirectDNS(incoming)
	r.chain("outgoing", nftables.ChainTypeNAT, nftables.ChainHookOutput, destinationNAT).rule(jump(ports))
	n.masquerade(b, r.chain("leaving", nftables.ChainTypeNAT, nftables.ChainHookPostrouting, 100))
	refuse(r.part(nowhere))
	n.forward(b, r.chain("forward", nftables.ChainTypeFilter, nftables.ChainHookForward, 0))
	n.guard(b, r.chain("input", nftables.ChainTypeFilter, nftables.ChainHookInput, 0))
}

// refuseSpoofed drops what the guest says in another's name: it would pass for a part of a connection that another has. The
// loopback network, to which routes lead by the bridge, is the pod's alone.
func (n *NATPlan) refuseSpoofed(b BridgePlan, spoofed *chain) {
	guest := from(b.Name)
	spoofed.rule(guest, receiver(loopback4), drop())
	for _, network := range n.Networks {
		spoofed.rule(guest, sender(network), accept())
	}
	// Before it has an address. Where br_netfilter is loaded (kube-proxy wants it), what only crosses the bridge comes by here as well.
	spoofed.rule(guest, sender(host(netip.IPv4Unspecified())), accept())
	if b.Reach.V6.IsValid() {
		spoofed.rule(guest, sender(linkLocal6), accept())
		spoofed.rule(guest, sender(host(netip.IPv6Unspecified())), accept())
	}
	spoofed.rule(guest, drop())
}

// toGuest leads ports of all the pod's addresses to the guest.
func (n *NATPlan) toGuest(b BridgePlan, ports *chain) {
	for _, network := range n.Networks { // what is said to the gateway is meant for it
		ports.rule(receiver(network), leave())
	}
	for _, s := range n.Resolvers {
		for _, p := range protocols {
			ports.rule(receiver(host(s)), protocol(p), targetPort(dnsPort), leave())
		}
	}
	ports.rule(toOthers(), leave())
	ports.rule(receiver(linkLocal6), leave()) // a router does not forward from there (RFC 4291, section 2.5.6)
	ports.rule(receiver(loopback6), leave())  // IPv6 has no route_localnet: the answers would be dropped
	for _, p := range n.OwnPorts {
		ports.rule(protocol(unix.IPPROTO_TCP), targetPort(p), leave())
	}
	if n.AllPorts {
		for _, guest := range b.Reach.Guest {
			for _, p := range protocols {
				ports.rule(ofFamily(guest), protocol(p), sendTo(guest))
			}
		}
	}
	for _, f := range n.Forwards {
		for _, target := range n.targets(f, b.Reach.Guest) {
			at := ofFamily(target)
			if f.HostIP.IsValid() && !f.HostIP.IsUnspecified() {
				at = receiver(host(f.HostIP))
			}
			ports.rule(at, protocol(protocolOf(f)), targetPort(f.HostPort), sendToPort(target, f.GuestPort))
		}
	}
}

// protocols are those that have ports.
var protocols = []byte{unix.IPPROTO_TCP, unix.IPPROTO_UDP}

func protocolOf(f Forward) byte {
	if f.Proto == "udp" {
		return unix.IPPROTO_UDP
	}
	return unix.IPPROTO_TCP
}

// masquerade gives packets an address to which the answer comes back.
func (n *NATPlan) masquerade(b BridgePlan, leaving *chain) {
	for _, network := range n.Networks {
		for _, uplink := range n.Uplinks {
			leaving.rule(to(uplink), sender(network), masquerade())
		}
	}
	leaving.rule(to(b.Name), sender(loopback4), masquerade())
}

// forward lets the guest out, and answers and what was translated in. The pod must not become a router for its neighbours by
// what the guest needs, so nothing else of the uplinks is forwarded.
func (n *NATPlan) forward(b BridgePlan, forward *chain) {
	forward.rule(from(b.Name), opening(), clampMSS())
	forward.rule(to(b.Name), opening(), clampMSS())
	forward.rule(from(b.Name), to(b.Name), accept())
	forward.rule(from(b.Name), jump(nowhere))
	for _, uplink := range n.Uplinks {
		forward.rule(from(b.Name), to(uplink), accept())
	}
	forward.rule(from(b.Name), drop())
	forward.rule(tracked(), accept())
	forward.rule(to(b.Name), translated(), accept())
	forward.rule(to(b.Name), drop())
	for _, uplink := range n.Uplinks {
		forward.rule(from(uplink), drop())
	}
}

// refuse drops what would open a connection to one of refusedNetworks; what belongs to another connection has to pass no list.
func refuse(nowhere *chain) {
	nowhere.rule(tracked(), leave())
	for _, p := range refusedNetworks {
		nowhere.rule(receiver(p), drop())
	}
}

// guard keeps the guest from what listens in the pod, and others from what listens for the guest. The gateway answers pings: some
// systems take a route for dead when it does not.
func (n *NATPlan) guard(b BridgePlan, input *chain) {
	input.rule(from(b.Name), icmp(echoRequest), accept())
	if b.Reach.V6.IsValid() {
		input.rule(from(b.Name), icmp6(echoRequest6), accept())
	}
	b.guard(input)
	for _, network := range n.Networks {
		input.rule(notFrom("lo"), receiver(network), drop())
	}
}

// forgetDatagrams makes the kernel ask the rules about senders of UDP that it knew before: it does not ask again about one that
// never pauses (nf_conntrack_udp_timeout). Where the kernel has no such list to change, senders have to pause. To find the namespace's own on the
// list it goes through those of the whole node, so it is asked before whether there are any.
func forgetDatagrams() {
	if sysctl("net/netfilter/nf_conntrack_count") == "0" {
		return
	}
	own, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return
	}
	for _, family := range []netlink.InetFamily{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, datagramsTo(own))
	}
}

// datagramsTo are the flows of UDP to some addresses.
type datagramsTo []netlink.Addr

// MatchConntrackFlow is for [netlink.ConntrackDeleteFilters].
func (own datagramsTo) MatchConntrackFlow(f *netlink.ConntrackFlow) bool {
	return f.Forward.Protocol == unix.IPPROTO_UDP && slices.ContainsFunc(own, func(a netlink.Addr) bool { return a.IP.Equal(f.Forward.DstIP) })
}
