package network

import (
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
)

// NATPlan is what the pod's kernel translates between the pod's addresses and those of the guest. The guest is behind a bridge of
// its own, which is the only one of the plan and has no uplink.
type NATPlan struct {
	Uplinks   []string       // the pod's interfaces that take part: by them the guest is reached, and goes out
	Networks  []netip.Prefix // the guest's own: one of IPv4, and one of IPv6 where the pod can route it
	AllPorts  bool           // every TCP and UDP port leads to the guest, but OwnPorts; else those of Forwards
	OwnPorts  []uint16       `json:",omitempty"` // TCP ports of the pod's addresses that stay vmentry's
	Forwards  []Forward      `json:",omitempty"`
	Resolvers []netip.Addr   `json:",omitempty"` // DNS servers in the pod, on its loopback or at its own addresses, which stay the pod's
}

// privateNetworks are those that the guest may get, the first that is free: the one that user mode always has, one of each other
// private range (RFC 1918, section 3), and one of a range that is for measurements alone (RFC 2544, appendix C.2.2).
var privateNetworks = []netip.Prefix{
	netip.MustParsePrefix("10.0.2.0/24"),
	netip.MustParsePrefix("172.31.202.0/24"),
	netip.MustParsePrefix("192.168.202.0/24"),
	netip.MustParsePrefix("198.18.202.0/24"),
}

// Hosts of the guest's network, of either family, by the last byte of their address. They are those of user mode.
const (
	gatewayHost = 2  // the pod, on the bridge
	serviceHost = 3  // vmentry's DHCP server
	guestHost   = 15 // the guest
)

// userGuest is the guest in user mode. A forward to it is meant for the guest, whichever network that has.
var userGuest = hostOf(privateNetworks[0], guestHost)

// hostOf is the host of a network whose last byte is n.
func hostOf(network netip.Prefix, n byte) netip.Addr {
	bytes := network.Masked().Addr().AsSlice()
	bytes[len(bytes)-1] = n
	a, _ := netip.AddrFromSlice(bytes)
	return a
}

func natPlan(in Input) (Plan, error) {
	plan := Plan{Mode: NAT, NAT: &NATPlan{AllPorts: in.AllPorts, OwnPorts: in.OwnPorts, Forwards: in.Forwards}}
	links, err := plan.uplinks(in)
	if err != nil {
		return Plan{}, err
	}
	if in.Interfaces == nil {
		links, plan.Warnings = links[:1], nil // whatever else there is stays the pod's anyway
	}
	for _, l := range links {
		plan.NAT.Uplinks = append(plan.NAT.Uplinks, l.Name)
	}
	b, err := plan.privateBridge(in, links)
	if err != nil {
		return Plan{}, err
	}
	if err := plan.NAT.check(in.Pod, b.Reach.Guest); err != nil {
		return Plan{}, err
	}
	plan.Bridges = []BridgePlan{b}
	plan.NICs = []NIC{{Model: in.NICModel, MAC: b.Guest, HostName: in.HostName, MTU: b.MTU, Tap: &b.Tap}}
	return plan, nil
}

// privateBridge plans the guest's own network, which links lead out of.
func (p *Plan) privateBridge(in Input, links []Link) (BridgePlan, error) {
	network, ok := freeNetwork(in)
	if !ok {
		return BridgePlan{}, natMistake("the pod's network overlaps with all that the guest could get%s; write bridge or user", list(": ", privateNetworks))
	}
	mac := in.MAC
	if mac == nil {
		mac = MAC(in.Identity)
	}
	b := BridgePlan{
		Name: fmt.Sprint(bridgePrefix, 0), MAC: madeMAC("bridge", mac), MTU: leastMTU(links), Guest: mac,
		Tap:   Tap{Name: fmt.Sprint(tapPrefix, 0), MAC: madeMAC("tap", mac), Queues: queues(in), Vhost: in.Pod.Vhost},
		Reach: Reach{V4: hostOf(network, gatewayHost)},
	}
	p.NAT.Networks = []netip.Prefix{network}
	lease := Lease{
		HostName: in.HostName, MTU: b.MTU, Search: in.Pod.Resolver.Search,
		V4: &Lease4{Address: netip.PrefixFrom(hostOf(network, guestHost), network.Bits())},
	}
	has4, has6 := addressed(links, true), addressed(links, false) && in.Pod.IPv6
	switch {
	case !has4 && !has6:
		return BridgePlan{}, natMistake("%s has no address that could be translated; name others in VM_INTERFACES, or write bridge", strings.Join(p.NAT.Uplinks, ", "))
	case !has4 && !in.Pod.Forwards6:
		return BridgePlan{}, natMistake("%s has addresses of IPv6 alone, which the pod does not forward: %s, or write bridge", strings.Join(p.NAT.Uplinks, ", "), howToForward6)
	}
	if has4 {
		lease.V4.Router = b.Reach.V4
		p.warnDefaultRoute(in.Pod, p.NAT.Uplinks, true)
	}
	switch {
	case !has6:
	case !in.Pod.Forwards6:
		p.warn("the guest gets no IPv6, because the pod does not forward it: %s", howToForward6)
	case b.MTU < minimumMTU6:
		p.warn("%s carries packets of %d bytes, too few for IPv6 (%d): the guest gets no IPv6", strings.Join(p.NAT.Uplinks, ", "), b.MTU, minimumMTU6)
	default:
		lease.V6 = p.addIPv6(in.Identity, &b)
		p.warnDefaultRoute(in.Pod, p.NAT.Uplinks, false)
	}
	b.Reach.Guest = append(b.Reach.Guest, lease.V4.Address.Addr())
	servers := p.NAT.nameServers(in.Pod, &lease)
	if in.DHCP {
		if len(servers) > 0 {
			b.DNS = &Forwarder{b.Reach.V4, servers}
			lease.V4.DNS = append([]netip.Addr{b.Reach.V4}, lease.V4.DNS...)
		}
		b.Service = &Service{Name: fmt.Sprint(servicePrefix, 0), MAC: madeMAC("service", mac), V4: hostOf(network, serviceHost), Lease: lease}
	}
	return b, nil
}

// howToForward6: unlike IPv4's, forwarding of IPv6 is a setting of the whole namespace (net/ipv6/ip6_output.c, ip6_forward), and no netlink
// message sets it.
const howToForward6 = "the platform must set net.ipv6.conf.all.forwarding=1 (docker run --sysctl, or the pod's securityContext.sysctls)"

func natMistake(format string, args ...any) *Mistake {
	return &Mistake{"VM_NETWORK", string(NAT), fmt.Sprintf(format, args...)}
}

// freeNetwork chooses the guest's network. It is the same at every start in the same pod, because what vmentry makes is not in
// what the pod has.
func freeNetwork(in Input) (netip.Prefix, bool) {
	taken := in.taken()
	i := slices.IndexFunc(privateNetworks, func(p netip.Prefix) bool { return !slices.ContainsFunc(taken, p.Overlaps) })
	if i < 0 {
		return netip.Prefix{}, false
	}
	return privateNetworks[i], true
}

// taken are the IPv4 networks that the guest may have to speak to. Default routes lead to whatever is left.
func (in Input) taken() []netip.Prefix {
	var taken []netip.Prefix
	for _, l := range in.Pod.Links {
		for _, a := range l.Addresses {
			taken = append(taken, a.Masked(), surroundings(a.Addr()))
		}
		for _, r := range l.Routes {
			if !r.Default() {
				taken = append(taken, r.Dst)
			}
			if r.Via.IsValid() {
				taken = append(taken, surroundings(r.Via))
			}
		}
	}
	for _, a := range slices.Concat(in.Pod.Resolver.Servers, in.Services) {
		taken = append(taken, surroundings(a))
	}
	return taken
}

// surroundings are the network that an address is presumed to be one of. A pod does not see how large its cluster's networks are:
// those of services may be a /12 and no larger (kube-apiserver, --service-cluster-ip-range), and a node's pods have a small piece of
// a large network. So all of the /12 around a private address is left alone.
func surroundings(a netip.Addr) netip.Prefix {
	if a.Is4() && a.IsPrivate() {
		p, _ := a.Prefix(12)
		return p
	}
	return host(a.WithZone(""))
}

// leastMTU is in bytes.
func leastMTU(links []Link) int {
	least := links[0].pathMTU()
	for _, l := range links[1:] {
		least = min(least, l.pathMTU())
	}
	return least
}

// addressed says whether any of the links has an address of the family.
func addressed(links []Link, is4 bool) bool {
	return slices.ContainsFunc(links, func(l Link) bool { return len(l.addresses(is4)) > 0 })
}

// addIPv6 gives the guest a network of IPv6, with the bridge's link-local address as its router.
func (p *Plan) addIPv6(identity string, b *BridgePlan) *Lease6 {
	network := localNetwork(identity)
	p.NAT.Networks = append(p.NAT.Networks, network)
	guest := hostOf(network, guestHost)
	b.Reach.V6 = hostOf(network, gatewayHost)
	b.Reach.Guest = append(b.Reach.Guest, guest)
	return &Lease6{Addresses: []netip.Addr{guest}, Router: LinkLocal(b.MAC), OnLink: []netip.Prefix{network}}
}

// localNetwork is a network that no other pod is likely to have (RFC 4193, section 3.2), made from the pod's identity instead of by chance:
// it must be the same after a restart.
func localNetwork(identity string) netip.Prefix {
	sum := sha256.Sum256([]byte("vmentry network " + identity))
	return netip.PrefixFrom(netip.AddrFrom16([16]byte{0xfd, sum[0], sum[1], sum[2], sum[3], sum[4]}), 64)
}

// nameServers gives the guest those of the pod's DNS servers that it reaches, and returns the others: vmentry has to forward to them.
func (n *NATPlan) nameServers(pod Pod, lease *Lease) (others []netip.Addr) {
	for _, s := range pod.Resolver.Servers {
		switch {
		case s.IsLoopback():
			n.Resolvers = append(n.Resolvers, s)
			others = append(others, s)
		case pod.has(s):
			if n.AllPorts { // else it is the pod's, unless HOSTFWD says otherwise
				n.Resolvers = append(n.Resolvers, s)
			}
			others = append(others, s)
		case IsRefused(s):
			others = append(others, s)
		case s.Is4() && lease.V4.Router.IsValid():
			lease.V4.DNS = append(lease.V4.DNS, s)
		case s.Is6() && lease.V6 != nil:
			lease.V6.DNS = append(lease.V6.DNS, s)
		default:
			others = append(others, s)
		}
	}
	return others
}

// check finds what is wrong with the forwards here. A port of theirs that something else in the pod listens on is no mistake, and
// not looked for: the guest has it, as the user said, whoever comes and goes.
func (n *NATPlan) check(pod Pod, guests []netip.Addr) error {
	for _, f := range n.Forwards {
		problem := ""
		switch {
		case f.Proto == "tcp" && slices.Contains(n.OwnPorts, f.HostPort):
			problem = "vmentry itself listens on that port (VM_HTTP); write another for one of the two"
		case f.HostIP.IsValid() && !f.HostIP.IsUnspecified() && !f.HostIP.IsLoopback() && !pod.has(f.HostIP):
			problem = "the pod has no such address; leave it out"
		case f.HostIP == netip.IPv6Loopback():
			problem = "the kernel leads nothing from there to another machine; write 127.0.0.1"
		case len(n.targets(f, guests)) > 0:
		case f.HostIP.Is6():
			problem = "the guest has no IPv6: " + howToForward6
		default:
			problem = fmt.Sprintf("the guest's network is %s; leave its address out", n.Networks[0])
		}
		if problem != "" {
			return &Mistake{"HOSTFWD", f.String(), problem}
		}
	}
	return nil
}

// targets are the addresses of the guest that a forward leads to: at most one of each family.
func (n *NATPlan) targets(f Forward, guests []netip.Addr) []netip.Addr {
	var targets []netip.Addr
	for _, guest := range guests {
		if f.HostIP.IsValid() && f.HostIP.Is4() != guest.Is4() {
			continue
		}
		switch {
		case !f.GuestIP.IsValid() || f.GuestIP == userGuest && guest.Is4():
			targets = append(targets, guest)
		case f.GuestIP.Is4() == guest.Is4() && slices.ContainsFunc(n.Networks, func(p netip.Prefix) bool { return p.Contains(f.GuestIP) }):
			targets = append(targets, f.GuestIP)
		}
	}
	return targets
}

// join lets the guest's packets pass, in both directions, when all else is ready.
func (n *NATPlan) join(b BridgePlan) error {
	bridge, err := find(b.Name)
	if err != nil {
		return err
	}
	tap, err := find(b.Tap.Name)
	if err != nil {
		return err
	}
	if err := setMACPort(b.Guest, tap); err != nil {
		return err
	}
	err = setIPv4(bridge, map[int]uint32{
		forwarding:    1,
		routeLocalnet: 1, // what the pod's own processes say to 127.0.0.1 goes to the guest, and its answers come back
		arpAnnounce:   2, // the guest is asked by the gateway, not by an address of the pod's that is not of its network
		acceptLocal:   0, // nothing that it says comes from an address of the pod's
	})
	if err != nil {
		return err
	}
	if err := n.setRoutes(b, bridge); err != nil {
		return err
	}
	for _, name := range n.Uplinks {
		uplink, err := find(name)
		if err != nil {
			return err
		}
		// The kernel asks the link by which a packet has come in (net/ipv4/route.c, ip_route_input_slow), so this is enough without
		// net.ipv4.ip_forward, which only the platform could set.
		if err := setIPv4(uplink, map[int]uint32{forwarding: 1}); err != nil {
			return err
		}
	}
	return nil
}

// setRoutes makes the ways to the guest's networks, beside the addresses of the gateway.
func (n *NATPlan) setRoutes(b BridgePlan, bridge netlink.Link) error {
	r := &netlink.Route{LinkIndex: bridge.Attrs().Index, Dst: ipNet(n.Networks[0]), Src: b.Reach.V4.AsSlice(), Scope: netlink.SCOPE_LINK}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("cannot make the route to %s over %s: %w", n.Networks[0], b.Name, err)
	}
	if !b.Reach.V6.IsValid() {
		return nil
	}
	return setAddress(bridge, netip.PrefixFrom(LinkLocal(b.MAC), 64)) // the guest's router
}

// lines prints for people what leads to the guest and where it may go.
func (n *NATPlan) lines() []string {
	var lines []string
	if n.AllPorts {
		line := "every TCP and UDP port of " + strings.Join(n.Uplinks, ", ") + " leads to the guest"
		for _, p := range n.OwnPorts {
			line += fmt.Sprintf(", but TCP %d", p)
		}
		for _, s := range n.Resolvers {
			if !s.IsLoopback() {
				line += fmt.Sprintf(", but port 53 of %s, the pod's own DNS server", s)
			}
		}
		lines = append(lines, line)
	} else {
		lines = append(lines, forwardLines(n.Forwards, nil)...)
	}
	return append(lines, fmt.Sprintf("the guest goes out by %s with the pod's addresses, and not to those of clouds' metadata", strings.Join(n.Uplinks, ", ")))
}
