package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Joined is what holds the guest and the pod together: descriptors, which are closed when the guest is off.
type Joined struct {
	Taps     [][]*os.File // of each card its tap's queues
	Vhosts   [][]*os.File // of each card as many of /dev/vhost-net; none where the kernel has none
	Services []*os.File   // of each bridge the port of its service; nil: none
	StandIns []*os.File   // of each bridge the port where vmentry answers for the guest; nil: none
}

// Files are the descriptors that QEMU needs, card by card: the tap's queues, and then those of vhost-net.
func (j *Joined) Files() []*os.File {
	var files []*os.File
	for i := range j.Taps {
		files = append(files, j.Taps[i]...)
		if i < len(j.Vhosts) {
			files = append(files, j.Vhosts[i]...)
		}
	}
	return files
}

// Close closes all descriptors, and with the last of them the taps are gone.
func (j *Joined) Close() {
	closeAll(j.Files())
	for _, s := range slices.Concat(j.Services, j.StandIns) {
		if s != nil {
			s.Close()
		}
	}
}

// Apply makes the plan true in the network namespace of the calling thread. It may be done again, after it was cut off at any
// point too: the pod's interfaces are joined last of all, when everything is ready for the guest, and what Release does
// undoes it all.
func (p Plan) Apply() (*Joined, error) {
	j := &Joined{}
	if len(p.Bridges) == 0 {
		return j, nil
	}
	if _, err := awaitNoTaps(); err != nil {
		return nil, err
	}
	rules, err := begin()
	if err != nil {
		return nil, err
	}
	defer rules.end()
	if err := p.filter(rules); err != nil {
		return nil, err
	}
	for _, b := range p.Bridges {
		if err := b.make(j); err != nil {
			j.Close()
			return nil, err
		}
	}
	for _, b := range p.Bridges {
		if err := p.join(b); err != nil {
			j.Close()
			return nil, errors.Join(err, Release())
		}
	}
	return j, nil
}

// filter makes the rules for the packets. They come first: without the links they do nothing.
func (p Plan) filter(rules *transaction) error {
	if p.NAT != nil {
		p.NAT.translate(rules, p.Bridges[0])
		if err := rules.commit(); err != nil {
			return fmt.Errorf("%w; the kernel needs nftables with NAT in the family inet (Linux 5.2, CONFIG_NFT_NAT, CONFIG_NFT_MASQ, CONFIG_NFT_FIB_INET)", err)
		}
		forgetDatagrams()
		return nil
	}
	filter(rules, p.Bridges)
	if err := rules.commit(); err != nil {
		return fmt.Errorf("%w; the kernel needs nftables with the families bridge and inet (CONFIG_NF_TABLES_BRIDGE, CONFIG_NF_TABLES_INET) and connection tracking", err)
	}
	return nil
}

// join connects a bridge with the guest and the outside.
func (p Plan) join(b BridgePlan) error {
	if p.NAT != nil {
		return p.NAT.join(b)
	}
	return b.join()
}

// make makes the bridge with the guest's and vmentry's own port. Nothing of the pod's is touched.
func (b BridgePlan) make(j *Joined) error {
	bridge, err := makeBridge(b.Name, b.MAC, b.MTU)
	if err != nil {
		return err
	}
	queues, err := b.makePort(bridge, b.Tap, guestPort)
	if err != nil {
		return err
	}
	j.Taps = append(j.Taps, queues)
	vhosts, err := b.Tap.openVhost(vhostDevice)
	if err != nil {
		return err
	}
	j.Vhosts = append(j.Vhosts, vhosts)
	service := []*os.File{nil}
	if b.Service != nil {
		if service, err = b.makePort(bridge, Tap{Name: b.Service.Name, MAC: b.Service.MAC, Queues: 1}, servicePort); err != nil {
			return err
		}
	}
	j.Services = append(j.Services, service[0])
	standIn := []*os.File{nil}
	if n := b.Intercept; n != nil {
		if standIn, err = b.makePort(bridge, Tap{Name: n.Tap, MAC: n.MAC, Queues: 1}, standInPort); err != nil {
			return err
		}
	}
	j.StandIns = append(j.StandIns, standIn[0])
	return b.Reach.set(bridge)
}

// portKind is what a port of the bridge is for.
type portKind int

const (
	guestPort   portKind = iota // QEMU's
	servicePort                 // vmentry's, to speak to the guest alone
	standInPort                 // vmentry's, to speak to the network alone
)

// makePort makes a tap that is a port of the bridge.
func (b BridgePlan) makePort(bridge netlink.Link, t Tap, kind portKind) ([]*os.File, error) {
	files, err := openTap(t.Name, t.Queues, kind == guestPort)
	if err != nil {
		return nil, err
	}
	err = func() error {
		link, err := find(t.Name)
		if err != nil {
			return err
		}
		if err := netlink.LinkSetHardwareAddr(link, t.MAC); err != nil {
			return fmt.Errorf("cannot give %s the MAC %s: %w", t.Name, t.MAC, err)
		}
		if err := setUp(link, b.MTU); err != nil {
			return err
		}
		if err := setPort(link, bridge, kind == servicePort); err != nil {
			return err
		}
		// The bridge knows no MACs but those that it was told: all that the guest sends out would come here as well.
		if err := netlink.LinkSetFlood(link, kind == guestPort); err != nil {
			return fmt.Errorf("cannot keep frames for others from %s: %w", t.Name, err)
		}
		return setMACPort(t.MAC, link) // frames for it are for whoever holds the descriptor, not for the pod
	}()
	if err != nil {
		closeAll(files)
		return nil, err
	}
	return files, nil
}

// vhostDevice is the kernel's virtio-net.
const vhostDevice = "/dev/vhost-net"

// openVhost opens the device once for each queue.
func (t Tap) openVhost(device string) ([]*os.File, error) {
	var files []*os.File
	for t.Vhost && len(files) < t.Queues {
		f, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			closeAll(files)
			return nil, fmt.Errorf("cannot use the kernel's virtio-net: %w", err)
		}
		files = append(files, f)
	}
	return files, nil
}

// set gives the bridge the pod's own addresses.
func (r Reach) set(bridge netlink.Link) error {
	if !r.V4.IsValid() {
		return nil
	}
	if err := setAddress(bridge, host(r.V4)); err != nil {
		return err
	}
	if !r.V6.IsValid() {
		return nil
	}
	return setAddress(bridge, netip.PrefixFrom(r.V6, 64))
}

// join gives the uplink's frames to the guest.
func (b BridgePlan) join() error {
	uplink, err := find(b.Uplink)
	if err != nil {
		return err
	}
	bridge, err := find(b.Name)
	if err != nil {
		return err
	}
	tap, err := find(b.Tap.Name)
	if err != nil {
		return err
	}
	if err := b.Lasting.keep(uplink); err != nil {
		return err
	}
	if err := netlink.LinkSetUp(uplink); err != nil {
		return fmt.Errorf("cannot set %s up: %w", b.Uplink, err)
	}
	if err := setPort(uplink, bridge, true); err != nil {
		return err
	}
	// the uplink has the guest's MAC: without this the bridge would take the guest's frames for the pod's
	if err := setMACPort(uplink.Attrs().HardwareAddr, tap); err != nil {
		return err
	}
	if err := setMACPort(b.Guest, tap); err != nil {
		return err
	}
	if err := b.divert(uplink, bridge); err != nil || b.Intercept == nil {
		return err
	}
	return b.Intercept.route(b, bridge)
}

// keep makes permanent what would run out.
func (l Lasting) keep(uplink netlink.Link) error {
	for _, a := range l.Addresses {
		if err := netlink.AddrReplace(uplink, &netlink.Addr{IPNet: ipNet(a.Prefix), Flags: unix.IFA_F_NODAD}); err != nil {
			return fmt.Errorf("cannot make the address %s of %s permanent: %w", a.Prefix, uplink.Attrs().Name, err)
		}
	}
	for _, r := range l.Routes {
		lasting := &netlink.Route{LinkIndex: uplink.Attrs().Index, Dst: ipNet(r.Dst), Priority: r.Metric, MTU: r.MTU, Protocol: unix.RTPROT_STATIC}
		if r.Via.IsValid() {
			lasting.Gw = r.Via.AsSlice()
		}
		if err := netlink.RouteReplace(lasting); err != nil {
			return fmt.Errorf("cannot make the route to %s through %s permanent: %w", r.Dst, uplink.Attrs().Name, err)
		}
	}
	return nil
}

// divert sends what the pod says to the guest's addresses, and to the outside, over the bridge.
func (b BridgePlan) divert(uplink, bridge netlink.Link) error {
	for _, a := range b.Reach.Guest {
		if err := b.disown(uplink, a); err != nil {
			return err
		}
		r := &netlink.Route{LinkIndex: bridge.Attrs().Index, Dst: ipNet(host(a)), Src: b.Reach.own(a).AsSlice(), Table: outwardTable}
		if a.Is4() {
			r.Scope = netlink.SCOPE_LINK
		}
		if err := netlink.RouteReplace(r); err != nil {
			return fmt.Errorf("cannot make the route to %s over %s: %w", a, bridge.Attrs().Name, err)
		}
	}
	if err := b.remember(bridge); err != nil {
		return err
	}
	for _, o := range b.Outward {
		if err := o.route(bridge); err != nil {
			return err
		}
	}
	if b.Reach.V6.IsValid() {
		if err := addOutwardRule(netlink.FAMILY_V6); err != nil {
			return err
		}
	}
	return addOutwardRule(netlink.FAMILY_V4)
}

// disown makes the pod forget that an address of the guest's is the uplink's too: the kernel would take what is for it for its own.
func (b BridgePlan) disown(uplink netlink.Link, a netip.Addr) error {
	if err := deleteRoute(localRoute(uplink, a)); err != nil {
		return fmt.Errorf("cannot let the pod forget that it has the address %s: %w", a, err)
	}
	return nil
}

// localRoute is the kernel's own route for an address of a link (the table local).
func localRoute(link netlink.Link, a netip.Addr) *netlink.Route {
	r := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: ipNet(host(a)), Table: unix.RT_TABLE_LOCAL, Type: unix.RTN_LOCAL, Protocol: unix.RTPROT_KERNEL}
	if a.Is4() {
		r.Scope, r.Src = netlink.SCOPE_HOST, a.AsSlice()
	}
	return r
}

func deleteRoute(r *netlink.Route) error {
	err := netlink.RouteDel(r)
	if errors.Is(err, unix.ESRCH) { // it is gone already
		return nil
	}
	return err
}

// Release gives the pod its addresses back and takes away what an earlier start has made, however far it had come. Without
// anything to release it does nothing. Where the earlier start's guest is still alive it is [ErrInUse], and nothing is done.
func Release() error {
	links, err := awaitNoTaps()
	if err != nil {
		return err
	}
	bridges := map[int]bool{}
	for _, l := range links {
		bridges[l.Attrs().Index] = l.Type() == "bridge" && strings.HasPrefix(l.Attrs().Name, bridgePrefix)
	}
	for _, l := range links {
		if bridges[l.Attrs().MasterIndex] && !ours(l.Attrs().Name) {
			if err := returnAddresses(l); err != nil {
				return err
			}
		}
	}
	if err := stopForwarding(links); err != nil {
		return err
	}
	if err := errors.Join(forgetOutward(), forgetIntercept(), deleteTable(nftables.TableFamilyBridge), deleteTable(nftables.TableFamilyINet)); err != nil {
		return err
	}
	for _, l := range links { // the last of all, and the uplinks leave with it: by a bridge a later start sees that there is something to release
		if !bridges[l.Attrs().Index] {
			continue
		}
		if err := netlink.LinkDel(l); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			return fmt.Errorf("cannot delete the bridge %s: %w", l.Attrs().Name, err)
		}
	}
	return nil
}

// stopForwarding gives the pod's interfaces the namespace's own setting (net.ipv4.ip_forward) again: without the rules that come with
// nat mode, a pod that forwards would be its neighbours' router. What a link had before is not known after a crash, and differs from
// that only where somebody has set it for the one link.
func stopForwarding(links []netlink.Link) error {
	value := uint32(0)
	if sysctl("net/ipv4/ip_forward") == "1" {
		value = 1
	}
	for _, l := range links {
		if a := l.Attrs(); ours(a.Name) || a.Flags&net.FlagLoopback != 0 || hollow(a) {
			continue
		}
		if err := setIPv4(l, map[int]uint32{forwarding: value}); err != nil {
			return err
		}
	}
	return nil
}

// returnAddresses makes the addresses of an uplink the pod's.
func returnAddresses(uplink netlink.Link) error {
	name := uplink.Attrs().Name
	addresses, err := retry(func() ([]netlink.Addr, error) { return netlink.AddrList(uplink, netlink.FAMILY_ALL) })
	if err != nil {
		return fmt.Errorf("cannot list the addresses of %s: %w", name, err)
	}
	have, err := retry(func() ([]netlink.Route, error) {
		local := &netlink.Route{LinkIndex: uplink.Attrs().Index, Table: unix.RT_TABLE_LOCAL}
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, local, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_OIF)
	})
	if err != nil {
		return fmt.Errorf("cannot list the local routes of %s: %w", name, err)
	}
	for _, a := range addresses {
		if slices.ContainsFunc(have, func(r netlink.Route) bool { return r.Type == unix.RTN_LOCAL && r.Dst != nil && r.Dst.IP.Equal(a.IP) }) {
			continue
		}
		ip, _ := netip.AddrFromSlice(a.IP)
		if err := netlink.RouteAdd(localRoute(uplink, ip.Unmap())); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("cannot give the pod its address %s back: %w", a.IP, err)
		}
	}
	return nil
}
