package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Intercept is a TCP port of the guest's addresses that the pod serves instead. The guest never sees what is said to it. The filter of the
// bridge gives such packets the pod's own address there, and notes who has sent them and from which MAC; the answers go back to
// that MAC with the guest's addresses, whatever the pod's routes say. So it also works for whom the pod would not find, or would find on another way.
type Intercept struct {
	Port  uint16
	At    []Taken
	Table int              // of the routes of the answers
	Tap   string           // the port of the bridge at which vmentry says the guest's MAC
	MAC   net.HardwareAddr // of that port
}

// Taken is an address of the guest's whose port is taken, and the pod's own on the bridge that stands for it.
type Taken struct{ Guest, Own netip.Addr }

// What the pod answers at such a port is routed by a table of its bridge's own, before the pod's other routes (see [outwardPriority]).
const (
	interceptTable    = 7400 // and the bridge's number
	interceptPriority = 74
	maxInterceptTable = interceptTable + 255
)

// How long it is remembered who has sent something: at first no longer than anybody waits for an answer, so that a flood of strangers is soon forgotten.
const (
	peerTimeoutFirst = 30 * time.Second
	peerTimeout      = flowTimeout
)

// intercept plans it for the i-th bridge; nil where the guest's addresses are not known. IPv6's own address stands for one of the guest's
// alone (see [neutral]).
func (b BridgePlan) intercept(port uint16, i int) *Intercept {
	n := &Intercept{Port: port, Table: interceptTable + i, Tap: fmt.Sprint(standInPrefix, i), MAC: madeMAC("stand-in", b.MAC)}
	for _, six := range []bool{false, true} {
		first := slices.IndexFunc(b.Reach.Guest, func(a netip.Addr) bool { return a.Is6() == six })
		if first < 0 {
			continue
		}
		if guest := b.Reach.Guest[first]; b.Reach.own(guest).IsValid() {
			n.At = append(n.At, Taken{guest, b.Reach.own(guest)})
		}
	}
	if len(n.At) == 0 {
		return nil
	}
	return n
}

// interceptAll plans it for every bridge.
func (p *Plan) interceptAll(port uint16) error {
	served := 0
	for i := range p.Bridges {
		b := &p.Bridges[i]
		if b.Intercept = b.intercept(port, i); b.Intercept == nil {
			continue
		}
		served += len(b.Intercept.At)
		for _, a := range b.Reach.Guest {
			if !slices.ContainsFunc(b.Intercept.At, func(t Taken) bool { return t.Guest == a }) {
				p.warn("port %d of %s stays the guest's: of several IPv6 addresses the first is vmentry's", port, a)
			}
		}
	}
	if served == 0 {
		return &Mistake{"VM_HTTP_INTERCEPT", "true", "the pod has no address at which it could be served; leave it out"}
	}
	return nil
}

func (n *Intercept) line() string {
	var at []netip.Addr
	for _, t := range n.At {
		at = append(at, t.Guest)
	}
	return fmt.Sprintf("vmentry has TCP port %d", n.Port) + list(" of ", at) + ", and the guest all others"
}

// peers is the name of the map that holds a peer's MAC by its address and port.
func (t Taken) peers(b BridgePlan) string {
	return b.Name + "-peers" + map[bool]string{true: "4", false: "6"}[t.Guest.Is4()]
}

// peerMAC is the register that a peer's MAC is in, behind those of the key (NFT_REG32_08).
const peerMAC = flowRegister + 8

// filter adds the rules that lead packets to the pod and its answers back.
func (n *Intercept) filter(b BridgePlan, pre, forward, input, output *chain) {
	for _, t := range n.At {
		h := headersOf(t.Own)
		peers := &nftables.Set{
			Table: pre.table, Name: t.peers(b), IsMap: true, Dynamic: true, HasTimeout: true, Timeout: peerTimeout, Concatenation: true, Size: 1 << 16,
			KeyType: nftables.MustConcatSetType(h.key[:2]...), DataType: nftables.TypeEtherAddr,
		}
		pre.fail(pre.conn.AddSet(peers, nil))
		arriving := slices.Concat(from(b.Uplink), sentTo(t.Guest), protocol(unix.IPPROTO_TCP), targetPort(n.Port))
		peer := h.peer(h.source, sourcePort)
		toOwn := slices.Concat(h.setAddress(h.target, t.Own), toPod(b.MAC))
		pre.rule(arriving, connecting(), peer, rememberPeer(peers, peerTimeoutFirst), toOwn)
		// of a connection that the guest has made from this port, nothing is known
		pre.rule(arriving, peer, knownPeer(peers), rememberPeer(peers, peerTimeout), toOwn)
		// the guest reaches nothing of the pod's
		input.rule(from(b.Tap.Name), sentTo(t.Own), protocol(unix.IPPROTO_TCP), targetPort(n.Port), drop())
		input.rule(from(b.Uplink), sentTo(t.Own), protocol(unix.IPPROTO_TCP), targetPort(n.Port), peer, knownPeer(peers), accept())
		output.rule(to(b.Uplink), sentBy(t.Own), protocol(unix.IPPROTO_TCP), portOfSender(n.Port),
			h.peer(h.target, destinationPort), knownPeer(peers), sendToPeer(), h.setAddress(h.source, t.Guest), setMAC(6, b.Guest), accept())
		n.filterErrors(b, t, peers, pre, input)
		n.standIn(b, t, pre)
	}
	n.keepApart(b, forward)
}

// filterErrors leads to the pod what ICMP says about its answers.
func (n *Intercept) filterErrors(b BridgePlan, t Taken, peers *nftables.Set, pre, input *chain) {
	h := headersOf(t.Own)
	peer := []expr.Any{
		&expr.Payload{DestRegister: flowRegister, Base: expr.PayloadBaseTransportHeader, Offset: quoted + h.target, Len: h.length},
		h.behind(0, destinationPort, quoted+h.end),
	}
	answered := []expr.Any{payload(expr.PayloadBaseTransportHeader, quoted+h.end+sourcePort, 2), equal(binaryutil.BigEndian.PutUint16(n.Port))}
	for _, kind := range h.errors {
		pre.rule(from(b.Uplink), sentTo(t.Guest), message(h.pings, kind), h.about(unix.IPPROTO_TCP), answered, peer, knownPeer(peers),
			h.setQuoted(t.Own), h.setAddress(h.target, t.Own), toPod(b.MAC))
		input.rule(from(b.Uplink), sentTo(t.Own), message(h.pings, kind), accept())
	}
}

// standIn has the questions of others for the guest's MAC come to vmentry (see [StandIn]). Those of hosts that only want to know whether somebody
// has the address, and what else is said to all, are the guest's.
func (n *Intercept) standIn(b BridgePlan, t Taken, pre *chain) {
	stranger := slices.Concat(arpRequests(), notARPSender(netip.IPv4Unspecified()), notARPSender(t.Guest))
	question := asking
	if t.Guest.Is6() {
		stranger, question = notSentBy6(netip.IPv6Unspecified()), func(a netip.Addr) []expr.Any {
			return append(etherType(unix.ETH_P_IPV6), soliciting(a)...)
		}
	}
	pre.rule(from(b.Uplink), question(t.Guest), stranger, setMAC(0, n.MAC))
}

// keepApart keeps all else from vmentry's port, and what it answers from the guest.
func (n *Intercept) keepApart(b BridgePlan, forward *chain) {
	forward.rule(to(n.Tap), toGroup(), drop())
	forward.rule(from(n.Tap), to(b.Tap.Name), drop())
}

// guard lets in what the filter has led to the pod.
func (n *Intercept) guard(b BridgePlan, input *chain) {
	for _, t := range n.At {
		input.rule(from(b.Name), receiver(host(t.Own)), protocol(unix.IPPROTO_TCP), targetPort(n.Port), accept())
	}
}

// peer loads the key of the other side: its address, and its port, at these offsets in their headers.
func (h headers) peer(address, port uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: flowRegister, Base: expr.PayloadBaseNetworkHeader, Offset: address, Len: h.length},
		h.behind(0, port, 0),
	}
}

// rememberPeer notes by which MAC the peer whose key is loaded has sent the frame.
func rememberPeer(peers *nftables.Set, timeout time.Duration) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: peerMAC, Base: expr.PayloadBaseLLHeader, Offset: 6, Len: 6},
		&expr.Dynset{SrcRegKey: flowRegister, SrcRegData: peerMAC, SetName: peers.Name, SetID: peers.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: timeout},
	}
}

// knownPeer matches a peer that was noted, whose key is loaded, and loads its MAC.
func knownPeer(peers *nftables.Set) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: flowRegister, DestRegister: peerMAC, IsDestRegSet: true, SetName: peers.Name, SetID: peers.ID}}
}

// sendToPeer makes the MAC that was loaded the receiver's.
func sendToPeer() []expr.Any {
	return []expr.Any{&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: peerMAC, Base: expr.PayloadBaseLLHeader, Offset: 0, Len: 6}}
}

// route sends what the pod says from its own addresses over their bridge: that port's answers, whomever they are for. In them the filter puts the
// receiver's MAC in the place of the router's. The rule does not name the port, or the kernel would not find what it has learnt of a
// path's MTU (net/ipv4/route.c, build_sk_flow_key); so all else that comes from these addresses has its routes here, too.
func (n *Intercept) route(b BridgePlan, bridge netlink.Link) error {
	for _, t := range n.At {
		router := b.router(t.Own)
		if err := router.set(bridge); err != nil {
			return err
		}
		for _, r := range n.routes(b, bridge, t.Own, router.IP) {
			if err := netlink.RouteReplace(r); err != nil {
				return fmt.Errorf("cannot make the route to %s over %s in table %d: %w", r.Dst, b.Name, n.Table, err)
			}
		}
		if err := netlink.RuleAdd(n.rule(t)); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cannot make the routing rule %d to table %d: %w", interceptPriority, n.Table, err)
		}
	}
	return nil
}

// routes are those of one of the pod's own addresses: to the guest, to the link, and by a router.
func (n *Intercept) routes(b BridgePlan, bridge netlink.Link, own, router netip.Addr) []*netlink.Route {
	index := bridge.Attrs().Index
	all := []*netlink.Route{{LinkIndex: index, Dst: ipNet(everywhere(own)), Gw: router.AsSlice(), Table: n.Table, Flags: int(netlink.FLAG_ONLINK)}}
	near := []netip.Prefix{linkLocal6}
	for _, a := range b.Reach.Guest {
		near = append(near, host(a))
	}
	for _, network := range near {
		if network.Addr().Is4() == own.Is4() {
			all = append(all, &netlink.Route{LinkIndex: index, Dst: ipNet(network), Table: n.Table, Scope: netlink.SCOPE_LINK})
		}
	}
	return all
}

// router is by whom the pod's own connections go out; where nobody is known, one that is not there, at IPv4's dummy address (RFC 7600, section 6)
// or a link-local one.
func (b BridgePlan) router(own netip.Addr) Gateway {
	for _, o := range b.Outward {
		if o.From == own {
			return o.Gateway
		}
	}
	mac := madeMAC("nobody", b.MAC)
	if own.Is4() {
		return Gateway{netip.AddrFrom4([4]byte{192, 0, 0, 8}), mac}
	}
	return Gateway{LinkLocal(mac), mac}
}

// rule is the routing rule for what the pod says from its own address.
func (n *Intercept) rule(t Taken) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family = netlink.FAMILY_V4
	if t.Own.Is6() {
		rule.Family = netlink.FAMILY_V6
	}
	rule.Priority, rule.Table, rule.Src = interceptPriority, n.Table, ipNet(host(t.Own))
	return rule
}

// forgetIntercept takes the routing rules away, whatever the port was. The routes go with the bridge.
func forgetIntercept() error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		rules, err := listRules(family)
		if err != nil {
			return err
		}
		for _, r := range rules {
			if r.Priority != interceptPriority || r.Table < interceptTable || r.Table > maxInterceptTable || r.Src == nil {
				continue
			}
			r.Family = family
			if err := deleteRule(&r); err != nil {
				return err
			}
		}
	}
	return nil
}
