package network

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Keeper keeps true, while the guest lives, what [Plan.Apply] has made in bridge mode and what others may change: whoever sets the pod's
// interface down and up makes the kernel believe again that its addresses are the pod's, and a gateway may get another MAC (a
// node whose bridge has a new port, a router whose standby takes over).
type Keeper struct {
	Plan   Plan
	Joined *Joined
	// Moved is told that the router of the i-th bridge, as the guest knows it (see [Lease6.RouterMAC]), has another MAC.
	Moved func(i int, mac net.HardwareAddr)
	// Every is how often gateways are asked for their MAC.
	Every time.Duration
	Log   *slog.Logger
}

// Run returns when ctx ends, or with the reason why nothing can be kept. All that it does it does in the network namespace of
// the calling thread.
func (k Keeper) Run(ctx context.Context) error {
	uplinks, err := k.uplinks()
	if err != nil || len(uplinks) == 0 {
		return err
	}
	routes, err := k.watch(ctx, uplinks)
	if err != nil {
		return err
	}
	known := k.known()
	for tick := time.NewTicker(k.Every); ; {
		select {
		case <-ctx.Done():
			tick.Stop()
			return nil
		case update, open := <-routes:
			if open {
				k.disown(uplinks, update)
				continue
			}
			if ctx.Err() != nil {
				return nil
			}
			if routes, err = k.watch(ctx, uplinks); err != nil { // more has changed at once than the kernel keeps
				return err
			}
		case <-tick.C:
			k.look(known)
			k.ask()
		}
	}
}

// uplinks are the pod's interfaces by their indexes, with the bridge of each.
func (k Keeper) uplinks() (map[int]BridgePlan, error) {
	all := map[int]BridgePlan{}
	for _, b := range k.Plan.Bridges {
		if b.Uplink == "" || !b.Reach.V4.IsValid() {
			continue
		}
		link, err := find(b.Uplink)
		if err != nil {
			return nil, err
		}
		all[link.Attrs().Index] = b
	}
	return all, nil
}

// watch begins to listen for changes of the pod's routes, and undoes those that came before.
func (k Keeper) watch(ctx context.Context, uplinks map[int]BridgePlan) (<-chan netlink.RouteUpdate, error) {
	routes := make(chan netlink.RouteUpdate)
	if err := netlink.RouteSubscribe(routes, ctx.Done()); err != nil {
		return nil, fmt.Errorf("cannot watch the pod's routes: %w", err)
	}
	for _, b := range uplinks {
		link, err := find(b.Uplink)
		if err != nil {
			return nil, err
		}
		for _, a := range b.Reach.Guest {
			if err := b.disown(link, a); err != nil {
				return nil, err
			}
		}
	}
	return routes, nil
}

// disown undoes that the kernel takes an address of the guest's for the pod's.
func (k Keeper) disown(uplinks map[int]BridgePlan, update netlink.RouteUpdate) {
	b, is := uplinks[update.LinkIndex]
	if !is || update.Type != unix.RTM_NEWROUTE || update.Table != unix.RT_TABLE_LOCAL || update.Route.Type != unix.RTN_LOCAL || update.Dst == nil {
		return
	}
	address, _ := netip.AddrFromSlice(update.Dst.IP)
	if address = address.Unmap(); !slices.Contains(b.Reach.Guest, address) {
		return
	}
	link, err := find(b.Uplink)
	if err == nil {
		err = b.disown(link, address)
	}
	if err != nil {
		k.Log.Error("the pod answers for an address of the guest's", "interface", b.Uplink, "address", address, "error", err)
		return
	}
	k.Log.Info("somebody has set an interface of the guest's down and up: its address is the guest's again", "interface", b.Uplink, "address", address)
}

// known are the MACs of all gateways as the plan has them.
func (k Keeper) known() map[netip.Addr]net.HardwareAddr {
	all := map[netip.Addr]net.HardwareAddr{}
	for _, b := range k.Plan.Bridges {
		for _, g := range b.Routers {
			all[g.IP] = g.MAC
		}
	}
	return all
}

// noticed is how long a MAC counts that a gateway has used: longer than it takes to ask again.
const noticed = time.Minute

// noticedSet is the set that holds the MACs of the n-th router of a bridge.
func (b BridgePlan) noticedSet(n int) string { return fmt.Sprintf("%s-router%d", b.Name, n) }

// notice lets the filter note which MAC each gateway says it has: by ARP, and in neighbour advertisements.
func (b BridgePlan) notice(pre *chain) {
	if !b.Reach.V4.IsValid() {
		return
	}
	for n, g := range b.Routers {
		set := &nftables.Set{
			Table: pre.table, Name: b.noticedSet(n), KeyType: nftables.TypeEtherAddr, Dynamic: true, HasTimeout: true, Timeout: noticed, Size: 16,
		}
		pre.fail(pre.conn.AddSet(set, nil))
		pre.rule(from(b.Uplink), saying(g.IP), []expr.Any{
			&expr.Dynset{SrcRegKey: 1, SetName: set.Name, SetID: set.ID, Operation: unix.NFT_DYNSET_OP_UPDATE},
		})
	}
}

// saying matches a frame in which a host says that it has an address, and loads the MAC that it says.
func saying(a netip.Addr) []expr.Any {
	if a.Is4() { // a request says it as well as a reply (RFC 826)
		return slices.Concat(etherType(unix.ETH_P_ARP), []expr.Any{
			payload(expr.PayloadBaseNetworkHeader, 14, 4), equal(a.AsSlice()), payload(expr.PayloadBaseNetworkHeader, 8, 6),
		})
	}
	return slices.Concat(etherType(unix.ETH_P_IPV6), icmp6(neighborAdvert), []expr.Any{
		payload(expr.PayloadBaseTransportHeader, 8, 16), equal(a.AsSlice()), payload(expr.PayloadBaseLLHeader, 6, 6),
	})
}

// look takes over what the filter has noted.
func (k Keeper) look(known map[netip.Addr]net.HardwareAddr) {
	for i, b := range k.Plan.Bridges {
		for n, g := range b.Routers {
			mac := b.lastNoticed(n)
			if mac == nil || mac.String() == known[g.IP].String() {
				continue
			}
			if err := k.move(i, g.IP, mac); err != nil {
				k.Log.Warn("a gateway has another MAC, and the pod's own connections do not find it", "gateway", g.IP, "MAC", mac, "error", err)
				continue
			}
			k.Log.Info("a gateway has another MAC", "gateway", g.IP, "MAC", mac, "before", known[g.IP])
			known[g.IP] = mac
		}
	}
}

// lastNoticed is the MAC that the n-th router used last; nil: none was seen.
func (b BridgePlan) lastNoticed(n int) net.HardwareAddr {
	conn, err := nftables.New()
	if err != nil {
		return nil
	}
	table := &nftables.Table{Family: nftables.TableFamilyBridge, Name: tableName}
	elements, err := conn.GetSetElements(&nftables.Set{Table: table, Name: b.noticedSet(n), KeyType: nftables.TypeEtherAddr})
	if err != nil || len(elements) == 0 {
		return nil
	}
	last := slices.MaxFunc(elements, func(a, b nftables.SetElement) int { return int(a.Expires - b.Expires) })
	if len(last.Key) < 6 {
		return nil
	}
	return net.HardwareAddr(last.Key[:6])
}

// move makes a gateway's MAC another.
func (k Keeper) move(i int, gateway netip.Addr, mac net.HardwareAddr) error {
	b := k.Plan.Bridges[i]
	bridge, err := find(b.Name)
	if err != nil {
		return err
	}
	moved := []netip.Addr{gateway}
	for _, o := range b.Outward {
		if o.From.Is4() == gateway.Is4() && o.Gateway.IP != gateway {
			moved = append(moved, o.Gateway.IP)
		}
	}
	for _, ip := range moved {
		if ip.Is6() && !b.Reach.V6.IsValid() {
			continue
		}
		if err := (Gateway{ip, mac}).set(bridge); err != nil {
			return err
		}
	}
	if s := b.Service; gateway.Is6() && s != nil && s.Lease.V6 != nil && s.Lease.V6.RouterMAC != nil {
		k.Moved(i, mac)
	}
	return nil
}

// ask asks the gateways for their MACs in the guest's name, by the guest's own port: the guest hears the answers too, as those to its own
// questions. What cannot be asked now is asked the next time.
func (k Keeper) ask() {
	for i, b := range k.Plan.Bridges {
		for _, g := range b.Routers {
			guest := slices.IndexFunc(b.Reach.Guest, func(a netip.Addr) bool { return a.Is4() == g.IP.Is4() })
			if guest < 0 {
				continue
			}
			frame := arpRequest(b.Guest, b.Reach.Guest[guest], g.IP)
			if g.IP.Is6() {
				frame = solicitation(b.Guest, b.Reach.Guest[guest], g.IP)
			}
			if err := inject(k.Joined.Taps[i][0], frame); err != nil {
				k.Log.Debug("a gateway cannot be asked for its MAC", "gateway", g.IP, "error", err)
			}
		}
	}
}

// inject writes a frame to a tap as the guest would: behind a header of virtio that asks for nothing, whose length whoever holds the
// tap has chosen (TUNSETVNETHDRSZ).
func inject(tap *os.File, frame []byte) error {
	raw, err := tap.SyscallConn()
	if err != nil {
		return err
	}
	length, failed := 0, error(nil)
	err = raw.Control(func(fd uintptr) { length, failed = unix.IoctlGetInt(int(fd), unix.TUNGETVNETHDRSZ) })
	if err == nil {
		err = failed
	}
	if err == nil {
		_, err = tap.Write(append(make([]byte, length), frame...))
	}
	return err
}
