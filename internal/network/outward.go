package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// The pod's own connections to the outside, while its address is the guest's: a resolver on the pod's loopback asks its servers, a
// side car talks to the cluster. They leave from [Inside.V4] over the bridge, where the filter gives them the guest's addresses and
// remembers address and ports of both sides; what answers exactly these goes back to the pod, everything else to the guest.

// flowsSet holds the connections: the other side's address and port, the own port, the protocol.
const flowsSet = "flows"

// How long a connection may be silent: above TCP's usual keep-alive intervals of clusters, and for UDP what connection tracking has
// (net/netfilter/nf_conntrack_proto_udp.c). For as long the guest cannot use the same port to the same server.
const (
	flowTimeout    = 10 * time.Minute
	flowTimeoutUDP = 2 * time.Minute
)

// What the pod sends to the guest and to the outside over IPv4 is routed by a table of its own, which comes after the kernel's local one (0)
// and before the main one (32766).
const (
	outwardTable    = 75
	outwardPriority = 75
)

// outward says whether the pod can make connections to the outside.
func (in Inside) outward() bool { return in.Gateway.IsValid() }

// translate adds the rules that give the pod's connections the guest's addresses, and back.
func (in Inside) translate(b BridgePlan, pre, input, output *chain) {
	i := slices.IndexFunc(in.Guest, netip.Addr.Is4)
	if !in.outward() || i < 0 {
		return
	}
	guest := in.Guest[i]
	flows := &nftables.Set{
		Table: pre.table, Name: flowsSet, Dynamic: true, HasTimeout: true, Timeout: flowTimeout, Concatenation: true, Size: 1 << 16,
		KeyType: nftables.MustConcatSetType(nftables.TypeIPAddr, nftables.TypeInetService, nftables.TypeInetService, nftables.TypeInetProto),
	}
	pre.fail(pre.conn.AddSet(flows, nil))
	remember := func(timeout time.Duration) []expr.Any {
		return append(flow(16, 2, 0), &expr.Dynset{SrcRegKey: flowRegister, SetName: flowsSet, SetID: flows.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: timeout})
	}
	known := append(flow(12, 0, 2), &expr.Lookup{SourceRegister: flowRegister, SetName: flowsSet, SetID: flows.ID})
	output.rule(to(b.Uplink), sentBy(in.V4), protocol(unix.IPPROTO_TCP), remember(flowTimeout), setIPv4Field(12, guest), setMAC(6, b.Guest), accept())
	output.rule(to(b.Uplink), sentBy(in.V4), protocol(unix.IPPROTO_UDP), remember(flowTimeoutUDP), setIPv4Field(12, guest), setMAC(6, b.Guest), accept())
	pre.rule(from(b.Uplink), sentTo(guest), known, setIPv4Field(16, in.V4), toPod(b.MAC))
	input.rule(from(b.Uplink), sentTo(in.V4), known, accept()) // and nothing that a neighbour on the wire sends there itself
}

// flowRegister is the first of the four registers of four bytes that hold the key of flowsSet (NFT_REG32_00).
const flowRegister = 8

// flow loads the key of a packet: the other side's address and the two ports, at these offsets in the IPv4 and the TCP or UDP header.
func flow(address, port, own uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: flowRegister, Base: expr.PayloadBaseNetworkHeader, Offset: address, Len: 4},
		&expr.Payload{DestRegister: flowRegister + 1, Base: expr.PayloadBaseTransportHeader, Offset: port, Len: 2},
		&expr.Payload{DestRegister: flowRegister + 2, Base: expr.PayloadBaseTransportHeader, Offset: own, Len: 2},
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: flowRegister + 3},
	}
}

// setIPv4Field changes an address in the IPv4 header, and with it the header's checksum and that of TCP or UDP.
func setIPv4Field(offset uint32, a netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: a.AsSlice()},
		&expr.Payload{
			OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: 4,
			CsumType: expr.CsumTypeInet, CsumOffset: 10, CsumFlags: unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR,
		},
	}
}

// remember sets the hardware addresses of the gateways for good: an ARP request of the pod's would tell the network that the guest's address
// is elsewhere, and a later start reads them here.
func (in Inside) remember(bridge netlink.Link) error {
	for _, g := range in.Known {
		if g.IP.Is6() && !in.V6.IsValid() {
			continue // a bridge without IPv6 has no place for it
		}
		err := netlink.NeighSet(&netlink.Neigh{LinkIndex: bridge.Attrs().Index, IP: g.IP.AsSlice(), HardwareAddr: g.MAC, State: netlink.NUD_PERMANENT})
		if err != nil {
			return fmt.Errorf("cannot set the hardware address of the gateway %s on %s: %w", g.IP, bridge.Attrs().Name, err)
		}
	}
	return nil
}

// routeOutward sends all that the pod says over the bridge to its gateway, but what is for the networks of its other interfaces.
func (in Inside) routeOutward(bridge netlink.Link) error {
	if in.outward() {
		for _, network := range in.Kept {
			if err := netlink.RouteReplace(&netlink.Route{Dst: ipNet(network), Table: outwardTable, Type: unix.RTN_THROW}); err != nil {
				return fmt.Errorf("cannot leave the route to %s as it is: %w", network, err)
			}
		}
		everywhere := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
		err := netlink.RouteReplace(&netlink.Route{
			LinkIndex: bridge.Attrs().Index, Dst: ipNet(everywhere), Gw: in.Gateway.AsSlice(), Src: in.V4.AsSlice(), Table: outwardTable, Flags: int(netlink.FLAG_ONLINK),
		})
		if err != nil {
			return fmt.Errorf("cannot make the pod's route through %s over %s: %w", in.Gateway, bridge.Attrs().Name, err)
		}
	}
	have, err := hasOutwardRule()
	if err != nil || have {
		return err
	}
	if err := netlink.RuleAdd(outwardRule()); err != nil {
		return fmt.Errorf("cannot make the routing rule %d to table %d: %w", outwardPriority, outwardTable, err)
	}
	return nil
}

// hasOutwardRule says whether the rule is there. One of somebody else's with the same priority and table, that holds for some packets
// only, is not it, though to the kernel that is the same when a rule is added or deleted (net/core/fib_rules.c, rule_exists).
func hasOutwardRule() (bool, error) {
	rules, err := retry(func() ([]netlink.Rule, error) { return netlink.RuleList(netlink.FAMILY_V4) })
	if errors.Is(err, unix.EAFNOSUPPORT) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot list the routing rules: %w", err)
	}
	ours := outwardRule().String()
	return slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.String() == ours }), nil
}

func outwardRule() *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table = netlink.FAMILY_V4, outwardPriority, outwardTable
	return rule
}

// forgetOutward takes away, if they are there, the routing rule, and the routes that do not go with the bridge.
func forgetOutward() error {
	have, err := hasOutwardRule()
	if err != nil {
		return err
	}
	if have {
		if err := netlink.RuleDel(outwardRule()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot delete the routing rule %d: %w", outwardPriority, err)
		}
	}
	kept, err := retry(func() ([]netlink.Route, error) {
		throw := &netlink.Route{Table: outwardTable, Type: unix.RTN_THROW}
		return netlink.RouteListFiltered(netlink.FAMILY_V4, throw, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
	})
	if err != nil {
		return fmt.Errorf("cannot list the routes of table %d: %w", outwardTable, err)
	}
	for _, r := range kept {
		if err := deleteRoute(&r); err != nil {
			return fmt.Errorf("cannot delete the route to %s of table %d: %w", r.Dst, outwardTable, err)
		}
	}
	return nil
}
