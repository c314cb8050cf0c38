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
	Name      string
	MAC       net.HardwareAddr // never the guest's: frames for the bridge's own MAC end in the pod
	MTU       int              // bytes, of the bridge and all its ports
	Uplink    string           // the pod's interface; empty in nat mode, where the pod's kernel is between the two
	Guest     net.HardwareAddr // the card's MAC
	Tap       Tap
	Service   *Service   `json:",omitempty"` // nil: layer 2 alone
	Reach     Reach      // nothing of it is set where the uplink has no address
	DNS       *Forwarder `json:",omitempty"` // nil: the guest reaches its servers itself
	Outward   []Outward  `json:",omitempty"` // one for each family in which the pod can make connections
	Intercept *Intercept `json:",omitempty"` // nil: every port is the guest's
	Routers   []Gateway  `json:",omitempty"` // the uplink's, for a later start: in a bridge none can be asked
	Lasting   Lasting    `json:"-"`
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

// Names of the links that vmentry makes, with a number behind.
const (
	bridgePrefix  = "vm-br"
	tapPrefix     = "vm-tap"
	servicePrefix = "vm-dhcp"
	standInPrefix = "vm-http"
)

// ours says whether a link is one that vmentry makes.
func ours(name string) bool {
	for _, prefix := range []string{bridgePrefix, tapPrefix, servicePrefix, standInPrefix} {
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
		b := plan.bridge(in, uplinks, l, i, mac)
		plan.Bridges = append(plan.Bridges, b)
		plan.NICs = append(plan.NICs, NIC{Model: in.NICModel, MAC: mac, HostName: in.HostName, MTU: b.MTU, Tap: &b.Tap})
	}
	plan.warnOfRoutes(in.Pod)
	if in.Intercept != 0 {
		return plan, plan.interceptAll(in.Intercept)
	}
	return plan, nil
}

// warnOfRoutes warns where the guest is given addresses and no way beyond its networks.
func (p *Plan) warnOfRoutes(pod Pod) {
	var uplinks []string
	has4, has6 := false, false
	for _, b := range p.Bridges {
		if !pod.link(b.Uplink).Up {
			return // nobody knows, and that has been said
		}
		uplinks = append(uplinks, b.Uplink)
		if b.Service != nil {
			has4, has6 = has4 || b.Service.Lease.V4 != nil, has6 || b.Service.Lease.V6 != nil
		}
	}
	if has4 {
		p.warnDefaultRoute(pod, uplinks, true)
	}
	if has6 {
		p.warnDefaultRoute(pod, uplinks, false)
	}
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

// bridge plans the bridge of the i-th card, whose MAC is mac, to l, which is one of the uplinks.
func (p *Plan) bridge(in Input, uplinks []Link, l Link, i int, mac net.HardwareAddr) BridgePlan {
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
	b.Reach, b.Routers = reach(in.Pod, l, i, lease), l.Gateways
	b.Outward = outward(in.Pod, l, b.Reach, lease, uplinks)
	if in.DHCP {
		b.DNS = b.Reach.forwarder(in.Pod.Resolver, &lease)
		if b.DNS == nil && slices.ContainsFunc(in.Pod.Resolver.Servers, netip.Addr.IsLoopback) {
			p.warn("the guest cannot ask the DNS servers on the pod's loopback: it has IPv6 alone, which is off for interfaces that are made here, so that vmentry cannot forward (docker run --sysctl net.ipv6.conf.default.disable_ipv6=0)")
		}
		if v4 := lease.V4; v4 != nil && (b.DNS != nil || !v4.Router.IsValid()) { // else the guest finds it as it finds everything: by its router
			v4.Routes = append(v4.Routes, LeaseRoute{Dst: host(b.Reach.V4)})
		}
		b.Service = &Service{Name: fmt.Sprint(servicePrefix, i), MAC: madeMAC("service", l.MAC), V4: b.Reach.V4, Lease: lease}
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
	if b.DNS != nil {
		lines = append(lines, fmt.Sprintf("vmentry forwards DNS from %s", b.DNS.At)+list(" to ", b.DNS.Servers))
	}
	if b.Intercept != nil {
		lines = append(lines, b.Intercept.line())
	}
	if b.Reach.V4.IsValid() {
		lines = append(lines, "the pod reaches the guest from "+b.Reach.V4.String()+list(", ", some(b.Reach.V6)))
	}
	for _, o := range b.Outward {
		lines = append(lines, fmt.Sprintf("the pod's own connections leave as %s, through %s", o.As, o.Gateway.IP))
	}
	return append(lines, b.Lasting.lines(b.Uplink)...)
}

func (l Lasting) lines(uplink string) []string {
	var lines []string
	for _, a := range l.Addresses {
		lines = append(lines, fmt.Sprintf("%s's address %s, which would run out, becomes permanent", uplink, a.Prefix))
	}
	for _, r := range l.Routes {
		lines = append(lines, fmt.Sprintf("%s's route to %s, which would run out, becomes permanent", uplink, r.Dst))
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
