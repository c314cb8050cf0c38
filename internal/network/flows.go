package network

import (
	"net/netip"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// The pod's own connections to the outside, while its address is the guest's: a resolver on the pod's loopback asks its servers, a
// side car talks to the cluster. They leave from [Outward.From] over the bridge, where the filter gives them the guest's address and
// remembers the flow: address and ports of both sides, or the identifier of a ping. What answers exactly these, or says that it did
// not arrive, goes back to the pod, everything else to the guest.

// How long a flow may be silent: above TCP's usual keep-alive intervals of clusters, and for the others what connection tracking has
// (net/netfilter/nf_conntrack_proto_udp.c, …_icmp.c). For as long the guest cannot use the same port to the same server.
const (
	flowTimeout     = 10 * time.Minute
	flowTimeoutUDP  = 2 * time.Minute
	flowTimeoutPing = 30 * time.Second
)

// headers are where a family's headers have what a flow is known by, in bytes.
type headers struct {
	etherType uint16
	set       string // the name of the flows' set
	key       []nftables.SetDatatype
	source    uint32 // address in the IP header
	target    uint32
	protocol  uint32
	length    uint32 // of an address
	end       uint32 // of the header, without options
	first     byte   // of a header of that length: version, and IPv4's length
	mask      byte   // of first

	pings       byte // protocol
	echo, reply byte
	errors      []byte // ICMP messages that hold the beginning of the packet that they are about
}

// RFC 791, RFC 792; RFC 8200, RFC 4443. Time to live, ports and paths that are closed, packets that are too big.
var (
	headers4 = headers{
		etherType: unix.ETH_P_IP, set: "flows4", source: 12, target: 16, protocol: 9, length: 4, end: 20, first: 0x45, mask: 0xff,
		key:   []nftables.SetDatatype{nftables.TypeIPAddr, nftables.TypeInetService, nftables.TypeInetService, nftables.TypeInetProto},
		pings: unix.IPPROTO_ICMP, echo: 8, reply: 0, errors: []byte{3, 11, 12},
	}
	headers6 = headers{
		etherType: unix.ETH_P_IPV6, set: "flows6", source: 8, target: 24, protocol: 6, length: 16, end: 40, first: 0x60, mask: 0xf0,
		key:   []nftables.SetDatatype{nftables.TypeIP6Addr, nftables.TypeInetService, nftables.TypeInetService, nftables.TypeInetProto},
		pings: unix.IPPROTO_ICMPV6, echo: 128, reply: 129, errors: []byte{1, 2, 3, 4},
	}
)

func headersOf(a netip.Addr) headers {
	if a.Is4() {
		return headers4
	}
	return headers6
}

// Fields of TCP, UDP and pings, and where in an ICMP message the packet begins that it is about.
const (
	sourcePort, destinationPort = 0, 2
	pingIdentifier              = 4
	quoted                      = 8
)

// translate adds the rules that give the pod's connections the guest's address, and back.
func (o Outward) translate(b BridgePlan, pre, input, output *chain) {
	h := headersOf(o.From)
	flows := &nftables.Set{
		Table: pre.table, Name: h.set, Dynamic: true, HasTimeout: true, Timeout: flowTimeout, Concatenation: true, Size: 1 << 16,
		KeyType: nftables.MustConcatSetType(h.key...),
	}
	pre.fail(pre.conn.AddSet(flows, nil))
	for _, p := range protocols {
		timeout := flowTimeout
		if p == unix.IPPROTO_UDP {
			timeout = flowTimeoutUDP
		}
		o.leave(b, output, protocol(p), remember(flows, h.flow(h.target, destinationPort, sourcePort), timeout))
		o.comeBack(b, pre, input, protocol(p), known(flows, h.flow(h.source, sourcePort, destinationPort)))
	}
	// in a chain of its own: most of what the network sends is the guest's
	messages := pre.part(h.set + "-messages")
	pre.rule(from(b.Uplink), sentTo(o.As), protocol(h.pings), jump(messages.chain.Name))
	o.leave(b, output, message(h.pings, h.echo), remember(flows, h.flow(h.target, pingIdentifier, pingIdentifier), flowTimeoutPing))
	o.comeBack(b, messages, input, message(h.pings, h.reply), known(flows, h.flow(h.source, pingIdentifier, pingIdentifier)))
	o.comeBackErrors(b, flows, messages, input)
}

// leave lets out what the pod sends, as the guest's.
func (o Outward) leave(b BridgePlan, output *chain, what, remember []expr.Any) {
	h := headersOf(o.From)
	output.rule(to(b.Uplink), sentBy(o.From), what, remember, h.setAddress(h.source, o.As), setMAC(6, b.Guest), accept())
}

// comeBack leads what is for the pod to it, and lets nothing in that a neighbour on the wire sends there itself.
func (o Outward) comeBack(b BridgePlan, pre, input *chain, what, known []expr.Any) {
	h := headersOf(o.From)
	pre.rule(from(b.Uplink), sentTo(o.As), what, known, h.setAddress(h.target, o.From), toPod(b.MAC))
	input.rule(from(b.Uplink), sentTo(o.From), what, known, accept())
}

// comeBackErrors leads to the pod what ICMP says about its own packets. Which may come in is known to connection tracking (see [BridgePlan.guard]).
func (o Outward) comeBackErrors(b BridgePlan, flows *nftables.Set, messages, input *chain) {
	h := headersOf(o.From)
	errors := messages.part(h.set + "-errors")
	for _, kind := range h.errors {
		messages.rule(message(h.pings, kind), jump(errors.chain.Name))
		input.rule(from(b.Uplink), sentTo(o.From), message(h.pings, kind), accept())
	}
	for _, p := range append([]byte{h.pings}, protocols...) {
		key := h.quotedFlow(destinationPort, sourcePort)
		if p == h.pings {
			key = h.quotedFlow(pingIdentifier, pingIdentifier)
		}
		errors.rule(h.about(p), known(flows, key), h.setQuoted(o.From), h.setAddress(h.target, o.From), toPod(b.MAC))
	}
}

// remember notes the flow of a packet, whose key is loaded, and known matches one that was noted.
func remember(flows *nftables.Set, key []expr.Any, timeout time.Duration) []expr.Any {
	return append(key, &expr.Dynset{SrcRegKey: flowRegister, SetName: flows.Name, SetID: flows.ID, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: timeout})
}

func known(flows *nftables.Set, key []expr.Any) []expr.Any {
	return append(key, &expr.Lookup{SourceRegister: flowRegister, SetName: flows.Name, SetID: flows.ID})
}

// flowRegister is the first of the registers of four bytes that hold the key of the flows' set (NFT_REG32_00).
const flowRegister = 8

// flow loads the key of a packet: the other side's address, and two numbers of two bytes, at these offsets in the IP header and in the
// one behind.
func (h headers) flow(address, port, own uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: flowRegister, Base: expr.PayloadBaseNetworkHeader, Offset: address, Len: h.length},
		h.behind(0, port, 0), h.behind(1, own, 0),
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: flowRegister + h.length/4 + 2},
	}
}

// quotedFlow is flow for the packet that an ICMP error is about, which went the other way.
func (h headers) quotedFlow(port, own uint32) []expr.Any {
	return []expr.Any{
		&expr.Payload{DestRegister: flowRegister, Base: expr.PayloadBaseTransportHeader, Offset: quoted + h.target, Len: h.length},
		h.behind(0, port, quoted+h.end), h.behind(1, own, quoted+h.end),
		&expr.Payload{DestRegister: flowRegister + h.length/4 + 2, Base: expr.PayloadBaseTransportHeader, Offset: quoted + h.protocol, Len: 1},
	}
}

// behind loads the n-th number of the key, which is at an offset in the header that begins at base.
func (h headers) behind(n, offset, base uint32) expr.Any {
	return &expr.Payload{DestRegister: flowRegister + h.length/4 + n, Base: expr.PayloadBaseTransportHeader, Offset: base + offset, Len: 2}
}

// message matches a kind of ICMP message.
func message(protocol, kind byte) []expr.Any {
	if protocol == unix.IPPROTO_ICMP {
		return icmp(kind)
	}
	return icmp6(kind)
}

// about matches an ICMP error that is about a packet of a protocol, whose IP header has no options.
func (h headers) about(protocol byte) []expr.Any {
	return []expr.Any{
		payload(expr.PayloadBaseTransportHeader, quoted, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{h.mask}, Xor: []byte{0}},
		equal([]byte{h.first}),
		payload(expr.PayloadBaseTransportHeader, quoted+h.protocol, 1), equal([]byte{protocol}),
	}
}

// setAddress changes an address in the IP header. With IPv4's goes the header's checksum and that of TCP or UDP; IPv6's has been chosen
// so that none changes (see [neutral]).
func (h headers) setAddress(offset uint32, a netip.Addr) []expr.Any {
	write := &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: h.length}
	if a.Is4() {
		write.CsumType, write.CsumOffset, write.CsumFlags = expr.CsumTypeInet, 10, unix.NFT_PAYLOAD_L4CSUM_PSEUDOHDR
	}
	return []expr.Any{&expr.Immediate{Register: 1, Data: a.AsSlice()}, write}
}

// setQuoted changes the sender of the packet that an ICMP error is about, so that the kernel finds the socket. Of IPv4 the checksum of
// that packet's header goes with it, and both together leave the sum over the whole message as it was.
func (h headers) setQuoted(a netip.Addr) []expr.Any {
	write := &expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: quoted + h.source, Len: h.length}
	if a.Is4() {
		write.CsumType, write.CsumOffset = expr.CsumTypeInet, quoted+10
	}
	return []expr.Any{&expr.Immediate{Register: 1, Data: a.AsSlice()}, write}
}
