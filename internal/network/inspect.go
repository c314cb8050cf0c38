package network

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Files are what the platform has written for the container.
type Files struct {
	ResolvConf string
	Hosts      string
}

// Inspect reads the network namespace of the calling thread and the container's files, and changes nothing. Only what the guest
// takes over in a mode is waited for: addresses to become certain, and routers to say who they are. Its errors are the kernel's.
func Inspect(mode Mode, files Files) (Pod, error) {
	pod := Pod{
		Tun:       unusable("/dev/net/tun"),
		Vhost:     unusable(vhostDevice) == "",
		NetAdmin:  hasNetAdmin(),
		IPv6:      hasIPv6(),
		Forwards6: sysctl("net/ipv6/conf/all/forwarding") == "1",
	}
	links, err := retry(netlink.LinkList)
	if err != nil {
		return Pod{}, fmt.Errorf("cannot list the pod's interfaces: %w", err)
	}
	routes, err := retry(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return Pod{}, fmt.Errorf("cannot list the pod's routes: %w", err)
	}
	pod.Node = node(files.Hosts, links)
	names := map[int]string{}
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	pod.Remains = slices.ContainsFunc(links, func(l netlink.Link) bool { return ours(l.Attrs().Name) }) || pod.NetAdmin && hasTable()
	for _, l := range links {
		a := l.Attrs()
		if a.Flags&net.FlagLoopback != 0 || ours(a.Name) || hollow(a) {
			continue
		}
		link := Link{Name: a.Name, Kind: l.Type(), MAC: a.HardwareAddr, MTU: a.MTU, Up: a.Flags&net.FlagUp != 0}
		if master := names[a.MasterIndex]; ours(master) {
			link.Bridge = master
		} else {
			link.Master = master
		}
		if err := link.inspect(l, routes, mode); err != nil {
			return Pod{}, err
		}
		pod.Links = append(pod.Links, link)
	}
	pod.Resolver, err = readResolver(files.ResolvConf)
	return pod, err
}

// hollow is a tunnel's fallback device (tunl0, sit0, …), which the kernel puts into every namespace when the module is
// loaded: down, and without a hardware address of Ethernet's length.
func hollow(a *netlink.LinkAttrs) bool {
	return a.Flags&net.FlagUp == 0 && len(a.HardwareAddr) != 6
}

func (l *Link) inspect(link netlink.Link, routes []netlink.Route, mode Mode) error {
	addresses, err := certain(link, mode == Bridge || mode == NAT)
	if err != nil {
		return fmt.Errorf("cannot list the addresses of %s: %w", l.Name, err)
	}
	for _, a := range addresses {
		l.Addresses = append(l.Addresses, address(a))
	}
	for _, r := range routes {
		r, takes := through(r, link.Attrs().Index)
		if r, ok := route(r); ok && takes {
			l.Routes = append(l.Routes, r)
		}
	}
	if mode != Bridge {
		return nil
	}
	for _, is4 := range []bool{true, false} {
		if r := l.defaultRoute(is4); r != nil && r.Via.IsValid() {
			if mac := l.resolve(link, r.Via); mac != nil {
				l.Gateways = append(l.Gateways, Gateway{r.Via, mac})
			}
		}
	}
	return nil
}

// certainty is how long a link may take to find out that nobody else has an IPv6 address: a second to begin and one to listen (RFC 4862,
// section 5.4), and some more on a busy node.
const certainty = 5 * time.Second

// certain lists the addresses of a link when duplicate-address detection is done with them: a container may be started before that, and a
// guest would be without them. Without wait it lists them as they are.
func certain(link netlink.Link, wait bool) ([]netlink.Addr, error) {
	listening := wait && link.Attrs().RawFlags&unix.IFF_RUNNING != 0 && link.Attrs().MasterIndex == 0
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		addresses, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_ALL) })
		if err != nil || !listening || !slices.ContainsFunc(addresses, uncertain) || time.Since(began) > certainty {
			return addresses, err
		}
	}
}

// uncertain says whether it is being found out that nobody else has a global address.
func uncertain(a netlink.Addr) bool {
	return a.Flags&(unix.IFA_F_TENTATIVE|unix.IFA_F_DADFAILED|unix.IFA_F_OPTIMISTIC) == unix.IFA_F_TENTATIVE && !a.IP.IsLinkLocalUnicast()
}

func address(a netlink.Addr) Address {
	ip, _ := netip.AddrFromSlice(a.IP)
	ip = ip.Unmap()
	bits, _ := a.Mask.Size()
	return Address{
		Prefix:    netip.PrefixFrom(ip, bits),
		LinkLocal: ip.Is6() && ip.IsLinkLocalUnicast(),
		Unusable:  a.Flags&(unix.IFA_F_DADFAILED|unix.IFA_F_TENTATIVE) != 0 && a.Flags&unix.IFA_F_OPTIMISTIC == 0,
		Temporary: ip.Is6() && a.Flags&unix.IFA_F_TEMPORARY != 0, // of IPv4 the flag says that it is a secondary one
		Expires:   a.Flags&unix.IFA_F_PERMANENT == 0,
		Peer:      a.Peer != nil && !a.Peer.IP.Equal(a.IP),
	}
}

// through says whether a route takes a link, and which way: of several ways at once (multipath) the first that does.
func through(r netlink.Route, link int) (netlink.Route, bool) {
	for _, hop := range r.MultiPath {
		if hop.LinkIndex == link {
			r.LinkIndex, r.Gw, r.Via = link, hop.Gw, hop.Via
			break
		}
	}
	return r, r.LinkIndex == link
}

// route translates a route; what is no business of a guest's (multicast, link-local, blackholes) is not ok.
func route(r netlink.Route) (Route, bool) {
	if r.Type != unix.RTN_UNICAST {
		return Route{}, false
	}
	dst := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if r.Family == netlink.FAMILY_V6 {
		dst = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	if r.Dst != nil {
		ip, _ := netip.AddrFromSlice(r.Dst.IP)
		bits, _ := r.Dst.Mask.Size()
		dst = netip.PrefixFrom(ip.Unmap(), bits)
	}
	if dst.Addr().Is6() && (dst.Addr().IsLinkLocalUnicast() || dst.Addr().IsMulticast()) {
		return Route{}, false
	}
	via, _ := netip.AddrFromSlice(r.Gw)
	if v, ok := r.Via.(*netlink.Via); ok { // IPv4 through an IPv6 router (RFC 5549)
		via, _ = netip.AddrFromSlice(v.Addr)
	}
	return Route{
		Dst: dst, Via: via.Unmap(), Metric: r.Priority, MTU: r.MTU,
		Advertised: r.Protocol == unix.RTPROT_RA,
	}, true
}

// patience is how long a gateway may take to say its hardware address. The kernel asks three times, a second apart (arp(7), mcast_solicit and
// retrans_time), and the first time is lost on a link that has come up just now.
const patience = 3 * time.Second

// resolve asks the kernel for a gateway's hardware address, and makes it ask the gateway where it does not know; nil if nobody
// answers. A datagram to the discard port (RFC 863) makes the kernel ask. In an earlier start's bridge nobody hears an answer, but there is what
// that one knew (see [BridgePlan]).
func (l Link) resolve(link netlink.Link, ip netip.Addr) net.HardwareAddr {
	if l.Bridge != "" {
		if bridge, err := find(l.Bridge); err == nil {
			if mac := neighbor(bridge, ip); mac != nil {
				return mac
			}
		}
	}
	if mac := neighbor(link, ip); mac != nil {
		return mac
	}
	if !l.Up || link.Attrs().MasterIndex != 0 {
		return nil // nobody would answer
	}
	if ip.Is6() && ip.IsLinkLocalUnicast() {
		ip = ip.WithZone(link.Attrs().Name)
	}
	conn, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 9)))
	if err != nil {
		return nil
	}
	defer conn.Close()
	conn.Write([]byte{0})
	pause := 100 * time.Microsecond // most answer at once
	for began := time.Now(); time.Since(began) < patience; pause = min(2*pause, 5*time.Millisecond) {
		if mac := neighbor(link, ip.WithZone("")); mac != nil {
			return mac
		}
		time.Sleep(pause)
	}
	return nil
}

func neighbor(link netlink.Link, ip netip.Addr) net.HardwareAddr {
	family := netlink.FAMILY_V4
	if ip.Is6() {
		family = netlink.FAMILY_V6
	}
	neighbors, err := retry(func() ([]netlink.Neigh, error) { return netlink.NeighList(link.Attrs().Index, family) })
	if err != nil {
		return nil
	}
	i := slices.IndexFunc(neighbors, func(n netlink.Neigh) bool {
		return n.IP.Equal(ip.AsSlice()) && n.State&(unix.NUD_FAILED|unix.NUD_INCOMPLETE) == 0 && len(n.HardwareAddr) == 6
	})
	if i < 0 {
		return nil
	}
	return neighbors[i].HardwareAddr
}

// retry repeats a dump that the kernel could not finish because the table changed meanwhile (NLM_F_DUMP_INTR).
func retry[T any](list func() ([]T, error)) ([]T, error) {
	for range 10 {
		all, err := list()
		if !errors.Is(err, netlink.ErrDumpInterrupted) {
			return all, err
		}
	}
	return list()
}

// unusable says why a device cannot be opened; empty when it can.
func unusable(device string) string {
	fd, err := unix.Open(device, unix.O_RDWR|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is not there"
	case err != nil:
		return "cannot be opened: " + err.Error()
	}
	unix.Close(fd)
	return ""
}

// hasNetAdmin reads the effective capabilities of this process (capabilities(7)).
func hasNetAdmin() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_NET_ADMIN) != 0
}

// hasIPv6 says whether the kernel has IPv6 and new interfaces get it. Docker switches it off for a namespace as a whole, and then on for each
// interface that has an IPv6 address, which leaves conf/all at 1.
func hasIPv6() bool { return sysctl("net/ipv6/conf/default/disable_ipv6") == "0" }

// sysctl is a setting of the kernel, those of the network being the namespace's; empty where there is no such setting.
func sysctl(name string) string {
	value, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(value))
}

// readResolver reads a resolv.conf(5): the last of several search lists counts, a line that is no such thing does not. No
// file is an empty one.
func readResolver(path string) (Resolver, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Resolver{}, nil
	}
	if err != nil {
		return Resolver{}, err
	}
	defer f.Close()
	var r Resolver
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) < 2 {
			continue
		}
		switch words[0] {
		case "nameserver":
			if ip, ok := server(words[1]); ok {
				r.Servers = append(r.Servers, ip)
			}
		case "search", "domain":
			r.Search = nil
			for _, w := range words[1:] {
				if w = strings.TrimSuffix(w, "."); w != "" {
					r.Search = append(r.Search, w)
				}
			}
		}
	}
	return r, lines.Err()
}

// Nameservers are the pod's DNS servers, as the resolver's file has them now.
func Nameservers(files Files) []netip.Addr {
	r, err := readResolver(files.ResolvConf)
	if err != nil {
		return nil
	}
	return r.Servers
}

// server reads the address of a DNS server. No address at all (0.0.0.0, ::) means this host (resolv.conf(5) says so of an empty file, and
// connect(2) does it).
func server(word string) (netip.Addr, bool) {
	ip, err := netip.ParseAddr(word)
	ip = ip.Unmap()
	switch {
	case err != nil || ip.IsMulticast() || ip == netip.AddrFrom4([4]byte{255, 255, 255, 255}):
		return netip.Addr{}, false
	case ip == netip.IPv4Unspecified():
		ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	case ip == netip.IPv6Unspecified():
		ip = netip.IPv6Loopback()
	}
	return ip, true
}
