package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// makeBridge makes a bridge, or finds it, that neither learns nor ages nor asks who listens to a multicast: one that has learnt the guest's
// MAC on the uplink, from a frame that came back, cuts the guest off.
func makeBridge(name string, mac net.HardwareAddr, mtu int) (netlink.Link, error) {
	no, never := false, uint32(0)
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.HardwareAddr, attrs.MTU = name, mac, mtu // with the MAC from its first moment: no frame shows another
	bridge := &netlink.Bridge{LinkAttrs: attrs, MulticastSnooping: &no, AgeingTime: &never}
	if err := netlink.LinkAdd(bridge); err != nil && !errors.Is(err, fs.ErrExist) {
		return nil, fmt.Errorf("cannot make the bridge %s: %w", name, err)
	}
	link, err := find(name)
	if err != nil {
		return nil, err
	}
	if link.Type() != "bridge" {
		return nil, fmt.Errorf("%s is there and no bridge (%s): something else than vmentry has made it", name, link.Type())
	}
	if err := netlink.LinkSetHardwareAddr(link, mac); err != nil {
		return nil, fmt.Errorf("cannot give %s the MAC %s: %w", name, mac, err)
	}
	if err := setUp(link, mtu); err != nil {
		return nil, err
	}
	return link, setIPv4(link, map[int]uint32{
		arpIgnore:   1, // the uplink's address is the guest's: the pod must not claim it
		acceptLocal: 1, // … and must take packets that come from it
	})
}

// setUp sets MTU and state of a link that vmentry made. Its own link-local address would be one more host on the pod's network.
func setUp(link netlink.Link, mtu int) error {
	name := link.Attrs().Name
	if err := noLinkLocal(link); err != nil {
		return fmt.Errorf("cannot keep %s from making itself an IPv6 address: %w", name, err)
	}
	if err := netlink.LinkSetMTU(link, mtu); err != nil {
		return fmt.Errorf("cannot set the MTU of %s to %d: %w", name, mtu, err)
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("cannot set %s up: %w", name, err)
	}
	return nil
}

// find is a link by its name.
func find(name string) (netlink.Link, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return nil, fmt.Errorf("cannot find the interface %s: %w", name, err)
	}
	return link, nil
}

// setPort makes a link a port of the bridge that does not learn. Isolated ports do not speak to each other.
func setPort(link, bridge netlink.Link, isolated bool) error {
	name := link.Attrs().Name
	err := netlink.LinkSetMaster(link, bridge)
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ELOOP) {
		return fmt.Errorf("%s cannot be joined to the guest: the kernel lets no interface of kind %s be part of a bridge (%w); write VM_NETWORK=nat, or leave it out of VM_INTERFACES", name, link.Type(), err)
	}
	if err != nil {
		return fmt.Errorf("cannot make %s a port of %s: %w", name, bridge.Attrs().Name, err)
	}
	if err := netlink.LinkSetLearning(link, false); err != nil {
		return fmt.Errorf("cannot keep the port %s from learning: %w", name, err)
	}
	if err := netlink.LinkSetIsolated(link, isolated); err != nil {
		return fmt.Errorf("cannot isolate the port %s: %w", name, err)
	}
	return nil
}

// setMACPort says that frames for a MAC leave the bridge through a port. An entry that the kernel made because the MAC is that of a
// port itself (the uplink's, in the guest's case) would keep them in the pod: it is replaced.
func setMACPort(mac net.HardwareAddr, port netlink.Link) error {
	err := netlink.NeighSet(&netlink.Neigh{
		LinkIndex: port.Attrs().Index, Family: unix.AF_BRIDGE, Flags: netlink.NTF_MASTER, State: netlink.NUD_NOARP, HardwareAddr: mac,
	})
	if err != nil {
		return fmt.Errorf("cannot send the frames for %s to %s: %w", mac, port.Attrs().Name, err)
	}
	return nil
}

// Settings of a link (include/uapi/linux/ip.h, IPV4_DEVCONF_…; what they do: Documentation/networking/ip-sysctl.rst).
const (
	forwarding    = 1
	arpAnnounce   = 18
	arpIgnore     = 19
	acceptLocal   = 23
	routeLocalnet = 26
)

// Modes of making link-local addresses (include/uapi/linux/if_link.h, IFLA_INET6_ADDR_GEN_MODE).
const addrGenNone = 1

// noLinkLocal keeps the kernel from giving a link an IPv6 link-local address.
func noLinkLocal(link netlink.Link) error {
	request, family := linkRequest(link, unix.AF_INET6)
	family.AddRtAttr(unix.IFLA_INET6_ADDR_GEN_MODE, []byte{addrGenNone})
	_, err := request.Execute(unix.NETLINK_ROUTE, 0)
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EINVAL) {
		return nil // a kernel without IPv6, or with IPv6 switched off for this link
	}
	return err
}

// setIPv4 sets per-link settings (include/uapi/linux/ip.h, IPV4_DEVCONF_…) by netlink: /proc/sys is read-only in containers.
func setIPv4(link netlink.Link, values map[int]uint32) error {
	request, family := linkRequest(link, unix.AF_INET)
	conf := family.AddRtAttr(unix.IFLA_INET_CONF, nil)
	for setting, value := range values {
		conf.AddRtAttr(setting, nl.Uint32Attr(value))
	}
	if _, err := request.Execute(unix.NETLINK_ROUTE, 0); err != nil {
		return fmt.Errorf("cannot change the IPv4 settings of %s: %w", link.Attrs().Name, err)
	}
	return nil
}

// linkRequest is a change of a link's settings of one protocol family, to be filled in.
func linkRequest(link netlink.Link, family int) (*nl.NetlinkRequest, *nl.RtAttr) {
	request := nl.NewNetlinkRequest(unix.RTM_SETLINK, unix.NLM_F_ACK)
	msg := nl.NewIfInfomsg(unix.AF_UNSPEC)
	msg.Index = int32(link.Attrs().Index)
	request.AddData(msg)
	spec := nl.NewRtAttr(unix.IFLA_AF_SPEC, nil)
	inner := spec.AddRtAttr(family, nil)
	request.AddData(spec)
	return request, inner
}

// tapWait is how long a tap of the same name may still be there: that of a QEMU that was killed and is on its way out. Where vmentry itself
// holds one, which goes before QEMU does, nothing is on its way out: aliveWait is for one that was killed just now.
const (
	tapWait   = 10 * time.Second
	aliveWait = time.Second
)

// ErrInUse says that a VM lives in this network namespace, of a vmentry that is not this one.
var ErrInUse = errors.New("another VM has the pod's network")

// awaitNoTaps waits until nobody holds a tap of vmentry's, and returns the links that there are then: where one is held a guest is alive, and
// its network must not be touched.
func awaitNoTaps() ([]netlink.Link, error) {
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		links, err := retry(netlink.LinkList)
		if err != nil {
			return nil, fmt.Errorf("cannot list the pod's interfaces: %w", err)
		}
		held, patience := "", tapWait
		for _, l := range links {
			name := l.Attrs().Name
			if l.Type() != "tuntap" || !ours(name) {
				continue
			}
			held = name
			if strings.HasPrefix(name, servicePrefix) || strings.HasPrefix(name, standInPrefix) {
				patience = aliveWait
			}
		}
		if held == "" {
			return links, nil
		}
		if time.Since(began) > patience {
			return nil, fmt.Errorf("%w: a process holds the tap %s", ErrInUse, held)
		}
	}
}

// openTap makes a tap device of so many queues and returns the descriptor of each. The device is gone when the last of
// them is closed, so nothing of it can be left behind. With header each frame has a virtio-net header before it, so that checksums
// and segmentation can be left to whoever is last (Documentation/networking/tuntap.rst).
func openTap(name string, queues int, header bool) ([]*os.File, error) {
	flags := uint16(unix.IFF_TAP | unix.IFF_NO_PI)
	if header {
		flags |= unix.IFF_VNET_HDR
	}
	if queues > 1 {
		flags |= unix.IFF_MULTI_QUEUE
	}
	var files []*os.File
	for len(files) < queues {
		first := uint16(0)
		if len(files) == 0 {
			first = unix.IFF_TUN_EXCL // else it would be one more queue of somebody else's device
		}
		f, err := openQueue(name, flags|first)
		if err != nil {
			closeAll(files)
			return nil, err
		}
		files = append(files, f)
	}
	return files, nil
}

func openQueue(name string, flags uint16) (*os.File, error) {
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	request.SetUint16(flags)
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("cannot open /dev/net/tun: %w", err)
	}
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
		if err == nil {
			return os.NewFile(uintptr(fd), name), nil // only now: a tun descriptor without a device cannot be waited for
		}
		if !errors.Is(err, unix.EBUSY) || time.Since(began) > tapWait {
			unix.Close(fd)
			return nil, fmt.Errorf("cannot make the tap %s (TUNSETIFF): %w", name, err)
		}
	}
}

func closeAll(files []*os.File) {
	for _, f := range files {
		f.Close()
	}
}

// setAddress gives a link an address, once.
func setAddress(link netlink.Link, p netip.Prefix) error {
	flags := 0
	if p.Addr().Is6() {
		flags = unix.IFA_F_NODAD // nobody else can have it, and it is needed at once
	}
	err := netlink.AddrReplace(link, &netlink.Addr{IPNet: ipNet(p), Flags: flags})
	if err != nil {
		return fmt.Errorf("cannot give %s the address %s: %w", link.Attrs().Name, p, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// host is the prefix of an address alone.
func host(a netip.Addr) netip.Prefix { return netip.PrefixFrom(a, a.BitLen()) }
