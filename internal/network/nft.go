package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"
)

// tableName is the nftables table that is vmentry's alone, one in each family that it uses. It is replaced as a whole in one
// transaction, so that there is never half of it.
const tableName = "vmentry"

// transaction makes tables anew, all of them or none.
type transaction struct {
	conn *nftables.Conn
	err  error
}

// answers is room for the kernel's answers in bytes: a word to each rule, which come all at once when the last was sent. The usual 208 KiB
// (net.core.rmem_default) are enough for the rules of two or three interfaces.
const answers = 4 << 20

func begin() (*transaction, error) {
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error { return c.SetReadBuffer(answers) }), nftables.AsLasting())
	if err != nil {
		return nil, fmt.Errorf("cannot speak to nftables: %w", err)
	}
	return &transaction{conn: conn}, nil
}

// replace makes the table of a family anew.
func (t *transaction) replace(family nftables.TableFamily) *ruleset {
	table := &nftables.Table{Family: family, Name: tableName}
	t.conn.AddTable(table) // so that there is one to delete
	t.conn.DelTable(table)
	return &ruleset{t, t.conn.AddTable(table)}
}

func (t *transaction) commit() error {
	if t.err != nil {
		return fmt.Errorf("cannot write the nftables table %s: %w", tableName, t.err)
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("cannot replace the nftables table %s: %w", tableName, err)
	}
	return nil
}

// end lets go of the connection, for which the kernel waits until nobody uses the old tables any more (RCU). Until then no link can be made
// in this network namespace (net/netfilter/nf_tables_api.c, nft_rcv_nl_event): who makes links ends the transaction behind them.
func (t *transaction) end() { go t.conn.CloseLasting() }

// ruleset is a table as it is being made.
type ruleset struct {
	*transaction
	table *nftables.Table
}

// deleteTable deletes the table of a family, if it is there.
func deleteTable(family nftables.TableFamily) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("cannot speak to nftables: %w", err)
	}
	conn.DelTable(&nftables.Table{Family: family, Name: tableName})
	if err := conn.Flush(); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EAFNOSUPPORT) {
		return fmt.Errorf("cannot delete the nftables table %s of family %s: %w", tableName, familyName(family), err)
	}
	return nil
}

// hasTable says whether there is a table of vmentry's. A kernel without nftables has none.
func hasTable() bool {
	conn, err := nftables.New()
	if err != nil {
		return false
	}
	tables, err := conn.ListTables()
	return err == nil && slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName })
}

func familyName(f nftables.TableFamily) string {
	if f == nftables.TableFamilyBridge {
		return "bridge"
	}
	return "inet"
}

// chain adds a base chain.
func (r *ruleset) chain(name string, kind nftables.ChainType, hook *nftables.ChainHook, priority int32) *chain {
	c := r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table, Type: kind, Hooknum: hook, Priority: nftables.ChainPriorityRef(nftables.ChainPriority(priority))})
	return &chain{r, c}
}

// fail remembers the first error.
func (t *transaction) fail(err error) {
	if t.err == nil {
		t.err = err
	}
}

// part adds a chain that others jump to.
func (r *ruleset) part(name string) *chain {
	return &chain{r, r.conn.AddChain(&nftables.Chain{Name: name, Table: r.table})}
}

type chain struct {
	*ruleset
	chain *nftables.Chain
}

// rule adds a rule: all parts must match for the last to be done.
func (c *chain) rule(parts ...[]expr.Any) {
	c.conn.AddRule(&nftables.Rule{Table: c.table, Chain: c.chain, Exprs: slices.Concat(parts...)})
}

// What a rule is made of. Register 1 is where a value is compared.

func load(key expr.MetaKey, want []byte) []expr.Any {
	return []expr.Any{&expr.Meta{Key: key, Register: 1}, equal(want)}
}

func equal(want []byte) expr.Any { return &expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: want} }

func unequal(than []byte) expr.Any {
	return &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: than}
}

func payload(base expr.PayloadBase, offset, length uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: base, Offset: offset, Len: length}
}

func interfaceName(name string) []byte {
	b := make([]byte, unix.IFNAMSIZ)
	copy(b, name)
	return b
}

// from and to are the ports, or links, by which a packet came in and will leave.
func from(link string) []expr.Any { return load(expr.MetaKeyIIFNAME, interfaceName(link)) }
func to(link string) []expr.Any   { return load(expr.MetaKeyOIFNAME, interfaceName(link)) }

// notFrom matches what came in by another link.
func notFrom(link string) []expr.Any {
	return []expr.Any{&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: 1}, &expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: interfaceName(link)}}
}

func etherType(t uint16) []expr.Any {
	return load(expr.MetaKeyPROTOCOL, binaryutil.BigEndian.PutUint16(t))
}

func protocol(p byte) []expr.Any { return load(expr.MetaKeyL4PROTO, []byte{p}) }

// targetPort matches a UDP or TCP port; the protocol must have been matched.
func targetPort(p uint16) []expr.Any {
	return []expr.Any{payload(expr.PayloadBaseTransportHeader, 2, 2), equal(binaryutil.BigEndian.PutUint16(p))}
}

func icmp(kind byte) []expr.Any {
	return slices.Concat(protocol(unix.IPPROTO_ICMP), []expr.Any{payload(expr.PayloadBaseTransportHeader, 0, 1), equal([]byte{kind})})
}

func icmp6(kind byte) []expr.Any {
	return slices.Concat(protocol(unix.IPPROTO_ICMPV6), []expr.Any{payload(expr.PayloadBaseTransportHeader, 0, 1), equal([]byte{kind})})
}

// soliciting matches a neighbour solicitation for an address (RFC 4861, section 4.3).
func soliciting(target netip.Addr) []expr.Any {
	return slices.Concat(icmp6(neighborSolicitation), []expr.Any{payload(expr.PayloadBaseTransportHeader, 8, 16), equal(target.AsSlice())})
}

// asking matches an ARP request for an IPv4 address, answering an ARP reply (RFC 826).
func asking(target netip.Addr) []expr.Any {
	return slices.Concat(etherType(unix.ETH_P_ARP), []expr.Any{payload(expr.PayloadBaseNetworkHeader, 24, 4), equal(target.AsSlice())})
}

func answering() []expr.Any {
	return slices.Concat(etherType(unix.ETH_P_ARP), []expr.Any{payload(expr.PayloadBaseNetworkHeader, 6, 2), equal([]byte{0, 2})})
}

// sentBy and sentTo match the addresses in the IP header of a frame.
func sentBy(a netip.Addr) []expr.Any { return ipField(a, 12, 8) }
func sentTo(a netip.Addr) []expr.Any { return ipField(a, 16, 24) }

func ipField(a netip.Addr, offset4, offset6 uint32) []expr.Any {
	if a.Is4() {
		return slices.Concat(etherType(unix.ETH_P_IP), []expr.Any{payload(expr.PayloadBaseNetworkHeader, offset4, 4), equal(a.AsSlice())})
	}
	return slices.Concat(etherType(unix.ETH_P_IPV6), []expr.Any{payload(expr.PayloadBaseNetworkHeader, offset6, 16), equal(a.AsSlice())})
}

// sender and receiver match the network that the addresses of a packet are of, in the family inet.
func sender(p netip.Prefix) []expr.Any   { return ipNetwork(p, 12, 8) }
func receiver(p netip.Prefix) []expr.Any { return ipNetwork(p, 16, 24) }

func ipNetwork(p netip.Prefix, offset4, offset6 uint32) []expr.Any {
	network := p.Masked().Addr().AsSlice()
	size, offset := uint32(len(network)), offset6
	if p.Addr().Is4() {
		offset = offset4
	}
	parts := append(ofFamily(p.Addr()), payload(expr.PayloadBaseNetworkHeader, offset, size))
	if !p.IsSingleIP() {
		parts = append(parts, &expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: size, Mask: ipNet(p).Mask, Xor: make([]byte, size)})
	}
	return append(parts, equal(network))
}

// ofFamily matches packets of an address's family, in the family inet.
func ofFamily(a netip.Addr) []expr.Any {
	return load(expr.MetaKeyNFPROTO, []byte{nfFamily(a)})
}

// fromMAC matches the sender's hardware address.
func fromMAC(mac net.HardwareAddr) []expr.Any {
	return []expr.Any{payload(expr.PayloadBaseLLHeader, 6, 6), equal(mac)}
}

// toGroup matches frames to more than one receiver: the lowest bit of the first octet is set.
func toGroup() []expr.Any {
	return []expr.Any{
		payload(expr.PayloadBaseLLHeader, 0, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{1}, Xor: []byte{0}},
		equal([]byte{1}),
	}
}

// setMAC changes a hardware address of the frame: the receiver's at offset 0, the sender's at 6.
func setMAC(offset uint32, mac net.HardwareAddr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: mac},
		&expr.Payload{OperationType: expr.PayloadWrite, SourceRegister: 1, Base: expr.PayloadBaseLLHeader, Offset: offset, Len: 6},
	}
}

// toPod makes a frame one that the pod itself receives, at the bridge's MAC.
func toPod(bridge net.HardwareAddr) []expr.Any {
	return append(setMAC(0, bridge),
		&expr.Immediate{Register: 1, Data: []byte{unix.PACKET_HOST}},
		&expr.Meta{Key: expr.MetaKeyPKTTYPE, SourceRegister: true, Register: 1},
	)
}

// portOfSender matches the port of whoever has sent UDP or TCP; the protocol must have been matched.
func portOfSender(p uint16) []expr.Any {
	return []expr.Any{payload(expr.PayloadBaseTransportHeader, 0, 2), equal(binaryutil.BigEndian.PutUint16(p))}
}

// connecting matches the first TCP segment of a connection, which has the flag SYN and not ACK (RFC 9293, section 3.5).
func connecting() []expr.Any {
	return []expr.Any{
		payload(expr.PayloadBaseTransportHeader, 13, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{0x12}, Xor: []byte{0}},
		equal([]byte{0x02}),
	}
}

// arpRequests matches ARP requests, notARPSender those ARP messages that do not come from an IPv4 address (RFC 826).
func arpRequests() []expr.Any {
	return []expr.Any{payload(expr.PayloadBaseNetworkHeader, 6, 2), equal([]byte{0, 1})}
}

func notARPSender(a netip.Addr) []expr.Any {
	return []expr.Any{payload(expr.PayloadBaseNetworkHeader, 14, 4), unequal(a.AsSlice())}
}

// notSentBy6 matches IPv6 packets from another address.
func notSentBy6(a netip.Addr) []expr.Any {
	return []expr.Any{payload(expr.PayloadBaseNetworkHeader, 8, 16), unequal(a.AsSlice())}
}

func accept() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictAccept}} }
func drop() []expr.Any   { return []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}} }

// tracked matches packets of connections that the pod has made or answered.
func tracked() []expr.Any {
	return anyBit(&expr.Ct{Key: expr.CtKeySTATE, Register: 1}, expr.CtStateBitESTABLISHED|expr.CtStateBitRELATED)
}

// translated matches packets of connections whose receiver was changed (IPS_DST_NAT in include/uapi/linux/netfilter/nf_conntrack_common.h).
func translated() []expr.Any { return anyBit(&expr.Ct{Key: expr.CtKeySTATUS, Register: 1}, 1<<5) }

// anyBit matches when what is loaded, a number of four bytes, has one of the bits.
func anyBit(load expr.Any, bits uint32) []expr.Any {
	return []expr.Any{
		load,
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(bits), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
	}
}

// toOthers matches packets that are not for an address of the pod's, whichever it has by now.
func toOthers() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: 1, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// opening matches TCP segments that open a connection: those with the flag SYN.
func opening() []expr.Any {
	return slices.Concat(protocol(unix.IPPROTO_TCP), []expr.Any{
		payload(expr.PayloadBaseTransportHeader, 13, 1),
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 1, Mask: []byte{2}, Xor: []byte{0}},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: []byte{0}},
	})
}

// clampMSS makes the largest segment that is announced (TCP option 2, RFC 9293, section 3.7.1) as small as the routes of both directions
// want it; the kernel never makes it larger.
func clampMSS() []expr.Any {
	return []expr.Any{
		&expr.Rt{Key: expr.RtTCPMSS, Register: 1},
		&expr.Byteorder{Op: expr.ByteorderHton, SourceRegister: 1, DestRegister: 1, Len: 2, Size: 2},
		&expr.Exthdr{Op: expr.ExthdrOpTcpopt, Type: 2, Offset: 2, Len: 2, SourceRegister: 1},
	}
}

// sendTo changes the receiver of a connection, sendToPort the port as well.
func sendTo(a netip.Addr) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: a.AsSlice()},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(nfFamily(a)), RegAddrMin: 1},
	}
}

func sendToPort(a netip.Addr, port uint16) []expr.Any {
	return []expr.Any{
		&expr.Immediate{Register: 1, Data: a.AsSlice()},
		&expr.Immediate{Register: 2, Data: binaryutil.BigEndian.PutUint16(port)},
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: uint32(nfFamily(a)), RegAddrMin: 1, RegProtoMin: 2, Specified: true},
	}
}

func nfFamily(a netip.Addr) byte {
	if a.Is4() {
		return unix.NFPROTO_IPV4
	}
	return unix.NFPROTO_IPV6
}

// masquerade makes an address of the link by which a connection leaves its sender.
func masquerade() []expr.Any { return []expr.Any{&expr.Masq{}} }

// jump goes on in another chain; leave goes back from there.
func jump(chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: chain}}
}

func leave() []expr.Any { return []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}} }

// Pings (RFC 792; RFC 4443, section 4.1).
const (
	echoRequest  = 8
	echoRequest6 = 128
)

// ICMPv6 messages (RFC 4861, section 4).
const (
	routerSolicitation   = 133
	routerAdvertisement  = 134
	neighborSolicitation = 135
	neighborAdvert       = 136
)

// DHCP's ports: RFC 2131, section 4.1; RFC 8415, section 7.2.
const (
	dhcpServer, dhcpClient   = 67, 68
	dhcp6Server, dhcp6Client = 547, 546
)
