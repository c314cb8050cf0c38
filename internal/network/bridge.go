package network

import (
	"cmp"
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// BridgePlan is a bridge that joins one card of the guest to one interface of the pod. The interface keeps its name, MAC, addresses and
// routes, so that the container runtime finds what it made, and an earlier start's work can be seen from it alone; only the
// frames that it receives go to the guest, whose MAC is the pod's.
type BridgePlan struct {
	Name    string
	MAC     net.HardwareAddr // never the guest's: frames for the bridge's own MAC end in the pod
	MTU     int              // bytes, of the bridge and all its ports
	Uplink  string           // the pod's interface; empty in nat mode, where the pod's kernel is between the two
	Guest   net.HardwareAddr // the card's MAC
	Tap     Tap
	Service *Service `json:",omitempty"` // nil: layer 2 alone
	Inside  Inside   // nothing of it is set where the uplink has no address
	Lasting Lasting  `json:"-"`
}

// Lasting is what the uplink has for a time and nobody will renew any more: a later start must still find it.
type Lasting struct {
	Addresses []Address
	Routes    []Route
}

// Service is the port of the bridge through which vmentry itself speaks to the guest, DHCP above all. A tap needs no right but
// NET_ADMIN, which raw sockets do.
type Service struct {
	Name  string
	MAC   net.HardwareAddr
	V4    netip.Addr // the DHCP server's: the pod's own on the bridge, or one that nobody else has
	Lease Lease
}

// Lease is what the guest is told of its network: exactly what the pod had.
type Lease struct {
	HostName string
	MTU      int
	Search   []string
	V4       *Lease4 `json:",omitempty"`
	V6       *Lease6 `json:",omitempty"`
}

// Lease4 is the IPv4 part.
type Lease4 struct {
	Address netip.Prefix
	Others  []netip.Prefix // more addresses of the pod's interface, which DHCP cannot say
	Router  netip.Addr     // the zero value: none. May be outside of Address's network
	Routes  []LeaseRoute
	DNS     []netip.Addr
}

// LeaseRoute is a route that is not the default one.
type LeaseRoute struct {
	Dst netip.Prefix
	Via netip.Addr // the zero value: on the link
}

// Lease6 is the IPv6 part.
type Lease6 struct {
	Addresses []netip.Addr
	Router    netip.Addr       // link-local; the zero value: none
	RouterMAC net.HardwareAddr // where the router is known to the pod by this alone: vmentry answers for it
	OnLink    []netip.Prefix
	Routes    []netip.Prefix // through Router, beside the default route
	DNS       []netip.Addr
}

// Inside is how the pod itself reaches the guest: from addresses of its own on the bridge, that the guest sees as its peer's.
type Inside struct {
	V4      netip.Addr     // link-local (RFC 3927); no other host ever sees it
	V6      netip.Addr     // the zero value where the pod has no IPv6
	Guest   []netip.Addr   // the guest's
	Gateway netip.Addr     // of the pod's own connections to the outside; the zero value: it can make none
	Kept    []netip.Prefix `json:",omitempty"` // where those do not go: networks of interfaces that are not the guest's
	Known   []Gateway      `json:",omitempty"` // what a later start finds out here, since in a bridge no gateway can be asked
	DNS     netip.Addr     // at this one of the two vmentry forwards DNS; the zero value: it does not
	Servers []netip.Addr   `json:",omitempty"` // to these, which only the pod reaches
}

// Names of the links that vmentry makes, with a number behind.
const (
	bridgePrefix  = "vm-br"
	tapPrefix     = "vm-tap"
	servicePrefix = "vm-dhcp"
)

// ours says whether a link is one that vmentry makes.
func ours(name string) bool {
	for _, prefix := range []string{bridgePrefix, tapPrefix, servicePrefix} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

// maxQueues is how many queues a card gets at most: more of them have to be served, and a guest's few processors gain nothing.
const maxQueues = 8

// What a link must carry at least, in bytes, for IPv4 hosts (RFC 791, section 3.1) and for IPv6 (RFC 8200, section 5), and what a tap can at
// most (drivers/net/tun.c: 65535 less an Ethernet header). Networks that are no wires (slirp4netns, passt) have more.
const (
	minimumMTU4 = 576
	minimumMTU6 = 1280
	maximumMTU  = 65521
)

func bridgePlan(in Input) (Plan, error) {
	plan := Plan{Mode: Bridge}
	uplinks, err := plan.uplinks(in)
	if err != nil {
		return Plan{}, err
	}
	for i, l := range uplinks {
		l.MTU = min(l.MTU, maximumMTU)
		mac := l.MAC
		if i == 0 && in.MAC != nil {
			mac = in.MAC
			if mac.String() != l.MAC.String() {
				plan.warn("VM_MAC=%s is not the MAC that the cluster gave %s (%s): networks that check it (Cilium, Calico, clouds) drop the guest's frames", mac, l.Name, l.MAC)
			}
		}
		if in.NICModel != "virtio" && l.MTU != 1500 {
			plan.warn("%s carries frames of %d bytes, and a card of model %s does not tell the guest: it depends on its DHCP client", l.Name, l.MTU, in.NICModel)
		}
		b := plan.bridge(in, l, i, mac)
		if b.Inside.outward() {
			b.Inside.Kept = in.Pod.keeps(uplinks)
		}
		plan.Bridges = append(plan.Bridges, b)
		plan.NICs = append(plan.NICs, NIC{Model: in.NICModel, MAC: mac, HostName: in.HostName, MTU: b.MTU, Tap: &b.Tap})
	}
	return plan, nil
}

func (p *Plan) warn(format string, args ...any) {
	p.Warnings = append(p.Warnings, fmt.Sprintf(format, args...))
}

// uplinks are the interfaces that the guest gets. Without a choice: all that can be had, eth0 first and the others as the kernel has them,
// which is the order in which they were made.
func (p *Plan) uplinks(in Input) ([]Link, error) {
	if len(in.Pod.Links) == 0 {
		return nil, &Mistake{"VM_NETWORK", string(in.Mode), "this container has no interface but lo; give it a network, or write user or none"}
	}
	if in.Interfaces != nil {
		return chosen(in)
	}
	var links []Link
	for _, l := range in.Pod.Links {
		unfit := l.unfit()
		if unfit == "" && !l.Up && len(l.Addresses) == 0 {
			unfit = "is down and has no address"
		}
		if unfit != "" {
			p.warn("%s stays the pod's: it %s", l.Name, unfit)
			continue
		}
		links = append(links, l)
	}
	if len(links) == 0 {
		return nil, &Mistake{"VM_NETWORK", string(in.Mode), fmt.Sprintf("no interface of this container can be a guest's (%s); write user or none", strings.Join(p.Warnings, "; "))}
	}
	slices.SortStableFunc(links, func(a, b Link) int { return -cmp.Compare(first(a), first(b)) })
	return links, nil
}

// chosen are the interfaces of VM_INTERFACES.
func chosen(in Input) ([]Link, error) {
	mistake := func(format string, args ...any) error {
		return &Mistake{"VM_INTERFACES", strings.Join(in.Interfaces, ","), fmt.Sprintf(format, args...)}
	}
	var have []string
	for _, l := range in.Pod.Links {
		have = append(have, l.Name)
	}
	var links []Link
	for _, name := range in.Interfaces {
		l := in.Pod.link(name)
		if l == nil {
			return nil, mistake("the pod has no interface %s; it has %s", name, strings.Join(have, ", "))
		}
		if unfit := l.unfit(); unfit != "" {
			return nil, mistake("%s cannot be the guest's: it %s", name, unfit)
		}
		links = append(links, *l)
	}
	return links, nil
}

// unfit says why the interface cannot be a port of a bridge (net/bridge/br_if.c, br_add_if), or is of no use as one. Pods have tunnels of VPNs,
// and bridges of containers in them.
func (l Link) unfit() string {
	switch {
	case len(l.MAC) != 6:
		return fmt.Sprintf("has no Ethernet (it is of kind %s)", l.Kind)
	case l.Kind == "bridge":
		return "is a bridge itself"
	case l.Kind == "ifb": // the kernel's, in every namespace where its module is loaded
		return "leads nowhere (it is of kind ifb)"
	case l.Master != "":
		return "is a part of " + l.Master
	case l.MTU < minimumMTU4:
		return fmt.Sprintf("carries frames of %d bytes, too few for IPv4 (%d)", l.MTU, minimumMTU4)
	}
	return ""
}

// first is 1 for the interface that container runtimes make first, else 0.
func first(l Link) int {
	if l.Name == "eth0" {
		return 1
	}
	return 0
}

// bridge plans the bridge of the i-th card, whose MAC is mac.
func (p *Plan) bridge(in Input, l Link, i int, mac net.HardwareAddr) BridgePlan {
	if !l.Up {
		p.warn("%s is down: what routes it has when it is up is not known, and the guest is not told them", l.Name)
	}
	b := BridgePlan{
		Name: fmt.Sprint(bridgePrefix, i), MAC: madeMAC("bridge", l.MAC), MTU: l.MTU,
		Uplink: l.Name, Guest: mac,
		Tap: Tap{Name: fmt.Sprint(tapPrefix, i), MAC: madeMAC("tap", l.MAC), Queues: queues(in), Vhost: in.Pod.Vhost},
	}
	lease, usable := p.lease(in, l)
	if !usable {
		if in.DHCP {
			p.warn("%s has no address: the guest gets the wire and nothing else, as with VM_DHCP=false", l.Name)
		}
		return b
	}
	b.Lasting.Addresses = slices.DeleteFunc(slices.Clone(l.Addresses), func(a Address) bool { return !a.Expires || a.LinkLocal || a.Unusable || a.Temporary })
	b.Lasting.Routes = slices.DeleteFunc(slices.Clone(l.Routes), func(r Route) bool { return !r.Advertised })
	b.Inside = inside(in.Pod, l, i, &lease)
	if in.DHCP {
		b.Service = &Service{Name: fmt.Sprint(servicePrefix, i), MAC: madeMAC("service", l.MAC), V4: b.Inside.V4, Lease: lease}
	} else {
		b.Inside.DNS, b.Inside.Servers = netip.Addr{}, nil
	}
	return b
}

// queues is how many queues a card has: one for each of the guest's CPUs where the card can have several.
func queues(in Input) int {
	if in.NICModel != "virtio" {
		return 1
	}
	return max(1, min(in.CPUs, maxQueues))
}

// madeMAC is a MAC that belongs to a link of ours and to the pod's interface that it serves: the same at every start, since the guest
// remembers whom it has spoken to.
func madeMAC(what string, of net.HardwareAddr) net.HardwareAddr {
	sum := sha256.Sum256(append([]byte("vmentry "+what+" "), of...))
	return net.HardwareAddr{0xfe, sum[0], sum[1], sum[2], sum[3], sum[4]} // 0xfe: a bridge takes no higher one for its own
}

// lease is what the guest is told; not usable when the interface has no address to give.
func (p *Plan) lease(in Input, l Link) (lease Lease, usable bool) {
	lease = Lease{HostName: in.HostName, MTU: l.pathMTU(), Search: in.Pod.Resolver.Search}
	if addresses := l.addresses(true); len(addresses) > 0 {
		lease.V4 = p.lease4(in, l, addresses)
	}
	if addresses := l.addresses(false); len(addresses) > 0 {
		if l.MTU < minimumMTU6 {
			p.warn("%s carries frames of %d bytes, too few for IPv6 (%d): the guest gets no IPv6", l.Name, l.MTU, minimumMTU6)
		} else {
			lease.V6 = p.lease6(in, l, addresses)
			lease.MTU = max(lease.MTU, minimumMTU6) // the route with less is IPv4's
		}
	}
	return lease, lease.V4 != nil || lease.V6 != nil
}

func (p *Plan) lease4(in Input, l Link, addresses []Address) *Lease4 {
	lease := &Lease4{Address: addresses[0].Prefix, DNS: in.Pod.Resolver.on(l, true)}
	if addresses[0].Peer || !l.reaches(lease.Address.Masked()) {
		lease.Address = host(lease.Address.Addr()) // the guest must not take for its neighbours whom the pod reaches by a router
	}
	for _, a := range addresses[1:] {
		lease.Others = append(lease.Others, a.Prefix)
		p.warn("%s has a second address, %s: DHCP carries one (%s). Guests with cloud-init are told both, others need files of their own", l.Name, a.Prefix, lease.Address)
	}
	if r := l.defaultRoute(true); r != nil && in.best(l, *r) {
		switch {
		case r.Via.Is4():
			lease.Router = r.Via
		case !r.Via.IsValid(): // the whole world is on the link
			lease.Routes = append(lease.Routes, LeaseRoute{Dst: r.Dst})
		default:
			p.warn("%s has its default route through an IPv6 router (%s), which DHCP cannot say: the guest gets no IPv4 default route", l.Name, r.Via)
		}
	}
	for _, r := range l.Routes {
		if r.Dst.Addr().Is4() && !r.Default() && (r.Via.Is4() || !r.Via.IsValid()) && !implied(r, lease.Address) {
			lease.Routes = append(lease.Routes, LeaseRoute{r.Dst, r.Via})
		}
	}
	for _, s := range lease.DNS { // a guest may take link-local addresses for its neighbours: the cluster's cache on the node is behind the router
		if s.IsLinkLocalUnicast() && lease.Router.IsValid() {
			lease.Routes = append(lease.Routes, LeaseRoute{netip.PrefixFrom(s, 32), lease.Router})
		}
	}
	return lease
}

// implied says whether the guest has a route as soon as it has the address.
func implied(r Route, address netip.Prefix) bool {
	return !r.Via.IsValid() && r.Dst == address.Masked()
}

// best says whether no other of the pod's interfaces has a better default route of that family, or an equal one before it: a guest
// cannot be told which of two is.
func (in Input) best(l Link, r Route) bool {
	before := true
	for _, other := range in.Pod.Links {
		if other.Name == l.Name {
			before = false
			continue
		}
		o := other.defaultRoute(r.Dst.Addr().Is4())
		if o != nil && (o.Metric < r.Metric || before && o.Metric == r.Metric) {
			return false
		}
	}
	return true
}

func (p *Plan) lease6(in Input, l Link, addresses []Address) *Lease6 {
	lease := &Lease6{DNS: in.Pod.Resolver.on(l, false)}
	for _, a := range addresses {
		lease.Addresses = append(lease.Addresses, a.Addr())
	}
	gateway := netip.Addr{}
	if r := l.defaultRoute(false); r != nil && in.best(l, *r) {
		lease.Router, lease.RouterMAC = router6(l, r.Via)
		switch {
		case lease.Router.IsValid():
			gateway = r.Via
		case r.Via.IsValid():
			p.warn("the router of %s, %s, does not say its MAC: the guest gets no IPv6 default route", l.Name, r.Via)
		default:
			p.warn("%s has an IPv6 default route without a router, which a router advertisement cannot say: the guest gets none", l.Name)
		}
	}
	for _, r := range l.Routes {
		switch {
		case r.Dst.Addr().Is4() || r.Default():
		case !r.Via.IsValid():
			if !r.Dst.IsSingleIP() { // the gateway or the pod itself: the guest knows both otherwise
				lease.OnLink = append(lease.OnLink, r.Dst)
			}
		case r.Via == gateway:
			lease.Routes = append(lease.Routes, r.Dst)
		default:
			p.warn("the route to %s through %s cannot be given to the guest: router advertisements speak for its default router alone", r.Dst, r.Via)
		}
	}
	return lease
}

// router6 is the gateway as a guest must see it: router advertisements come from link-local addresses alone (RFC 4861, section 4.2). One
// that the pod knows by another address gets one made from its MAC (RFC 4291, appendix A), for which vmentry then answers.
func router6(l Link, gateway netip.Addr) (netip.Addr, net.HardwareAddr) {
	if !gateway.IsValid() || gateway.IsLinkLocalUnicast() {
		return gateway, nil
	}
	mac := l.mac(gateway)
	if mac == nil {
		return netip.Addr{}, nil
	}
	return LinkLocal(mac), mac
}

// LinkLocal is the link-local IPv6 address that belongs to a MAC.
func LinkLocal(mac net.HardwareAddr) netip.Addr {
	return netip.AddrFrom16([16]byte{0xfe, 0x80, 8: mac[0] ^ 2, mac[1], mac[2], 0xff, 0xfe, mac[3], mac[4], mac[5]})
}

// inside chooses the pod's own addresses on the i-th bridge, and lets the guest ask vmentry where the pod's DNS server listens on
// the pod's loopback.
func inside(pod Pod, l Link, i int, lease *Lease) Inside {
	in := Inside{V4: pod.free(i), Known: l.Gateways}
	if lease.V6 != nil && pod.IPv6 {
		in.V6 = LinkLocal(madeMAC("bridge", l.MAC))
		in.Guest = append(in.Guest, lease.V6.Addresses...)
	}
	if lease.V4 != nil {
		in.Guest = append(in.Guest, lease.V4.Address.Addr())
		if l.mac(lease.V4.Router) != nil {
			in.Gateway = lease.V4.Router
		}
	}
	for _, s := range pod.Resolver.Servers {
		if s.IsLoopback() {
			in.Servers = append(in.Servers, s)
		}
	}
	if len(in.Servers) > 0 {
		in.DNS = lease.forwardDNS(in)
	}
	if v4 := lease.V4; v4 != nil && (in.DNS.IsValid() || !v4.Router.IsValid()) { // else the guest finds it as it finds everything: by its router
		v4.Routes = append(v4.Routes, LeaseRoute{Dst: host(in.V4)})
	}
	return in
}

// forwardDNS puts vmentry's own address in the place of servers on the pod's loopback, and returns the address; the zero value where it has
// none of the guest's family.
func (l *Lease) forwardDNS(in Inside) netip.Addr {
	if l.V6 != nil {
		l.V6.DNS = slices.DeleteFunc(l.V6.DNS, netip.Addr.IsLoopback)
	}
	switch {
	case l.V4 != nil:
		l.V4.DNS = append([]netip.Addr{in.V4}, slices.DeleteFunc(l.V4.DNS, netip.Addr.IsLoopback)...)
		return in.V4
	case in.V6.IsValid():
		l.V6.DNS = append([]netip.Addr{in.V6}, l.V6.DNS...)
	}
	return in.V6
}

// lines prints a bridge for people, and what the guest at its card n is told.
func (b BridgePlan) lines(n NIC) []string {
	joins := "has"
	if b.Uplink != "" {
		joins = "joins " + b.Uplink + ", which keeps its name, MAC and addresses, and"
	}
	lines := []string{fmt.Sprintf("bridge %s %s the guest's %s (MTU %d, queues %d%s)",
		b.Name, joins, b.Tap.Name, b.MTU, b.Tap.Queues, map[bool]string{true: ", vhost-net"}[b.Tap.Vhost])}
	if b.Service == nil {
		lines = append(lines, "nothing is said to the guest: layer 2 alone")
	} else {
		lines = append(lines, b.Service.Lease.lines()...)
	}
	if b.Inside.DNS.IsValid() {
		lines = append(lines, fmt.Sprintf("vmentry forwards DNS from %s", b.Inside.DNS)+list(" to ", b.Inside.Servers))
	}
	if b.Inside.V4.IsValid() {
		lines = append(lines, "the pod reaches the guest from "+b.Inside.V4.String()+list(", ", some(b.Inside.V6)))
	}
	return lines
}

func (lease Lease) lines() []string {
	var lines []string
	if v4 := lease.V4; v4 != nil {
		line := "the guest gets " + v4.Address.String()
		if v4.Router.IsValid() {
			line += ", router " + v4.Router.String()
		}
		lines = append(lines, line+list(", DNS ", v4.DNS))
		for _, r := range v4.Routes {
			line := "the guest gets the route " + r.Dst.String()
			if r.Via.IsValid() {
				line += " via " + r.Via.String()
			}
			lines = append(lines, line)
		}
	}
	if v6 := lease.V6; v6 != nil {
		line := "the guest gets" + list(" ", v6.Addresses)
		if v6.Router.IsValid() {
			line += ", router " + v6.Router.String()
		}
		lines = append(lines, line+list(", on the link ", v6.OnLink)+list(", routes ", v6.Routes)+list(", DNS ", v6.DNS))
	}
	return lines
}

func some(a netip.Addr) []netip.Addr {
	if !a.IsValid() {
		return nil
	}
	return []netip.Addr{a}
}

// list is "title a, b", and nothing for nothing.
func list[T fmt.Stringer](title string, all []T) string {
	if len(all) == 0 {
		return ""
	}
	words := make([]string, len(all))
	for i, v := range all {
		words[i] = v.String()
	}
	return title + strings.Join(words, ", ")
}
