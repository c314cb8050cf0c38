package network

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// What the pod sends to the guest and to the outside is routed by a table of its own, which comes after the kernel's local one (0) and before
// the main one (32766).
const (
	outwardTable    = 75
	outwardPriority = 75
)

// remember sets the hardware addresses of the gateways for good: a question of the pod's own would tell the network that the guest's
// address is elsewhere, and a later start reads them here.
func (b BridgePlan) remember(bridge netlink.Link) error {
	known := slices.Clone(b.Routers)
	for _, o := range b.Outward {
		known = append(known, o.Gateway)
	}
	for _, g := range known {
		if g.IP.Is6() && !b.Reach.V6.IsValid() {
			continue // a bridge without IPv6 has no place for it
		}
		if err := g.set(bridge); err != nil {
			return err
		}
	}
	return nil
}

// set makes the gateway's hardware address what it is for good.
func (g Gateway) set(bridge netlink.Link) error {
	err := netlink.NeighSet(&netlink.Neigh{LinkIndex: bridge.Attrs().Index, IP: g.IP.AsSlice(), HardwareAddr: g.MAC, State: netlink.NUD_PERMANENT})
	if err != nil {
		return fmt.Errorf("cannot set the hardware address of the gateway %s on %s: %w", g.IP, bridge.Attrs().Name, err)
	}
	return nil
}

// route sends all that the pod says in a family over the bridge to its gateway, but what is for the networks of its other interfaces.
func (o Outward) route(bridge netlink.Link) error {
	for _, network := range o.Kept {
		if err := netlink.RouteReplace(&netlink.Route{Dst: ipNet(network), Table: outwardTable, Type: unix.RTN_THROW}); err != nil {
			return fmt.Errorf("cannot leave the route to %s as it is: %w", network, err)
		}
	}
	r := &netlink.Route{LinkIndex: bridge.Attrs().Index, Dst: ipNet(everywhere(o.From)), Gw: o.Gateway.IP.AsSlice(), Src: o.From.AsSlice(), Table: outwardTable}
	if o.From.Is4() {
		r.Flags = int(netlink.FLAG_ONLINK)
	}
	if err := netlink.RouteReplace(r); err != nil {
		return fmt.Errorf("cannot make the pod's route through %s over %s: %w", o.Gateway.IP, bridge.Attrs().Name, err)
	}
	return nil
}

// everywhere is the default route of an address's family.
func everywhere(a netip.Addr) netip.Prefix {
	if a.Is4() {
		return netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	}
	return netip.PrefixFrom(netip.IPv6Unspecified(), 0)
}

// addOutwardRule makes the kernel look into the table, once.
func addOutwardRule(family int) error {
	have, err := hasOutwardRule(family)
	if err != nil || have {
		return err
	}
	if err := netlink.RuleAdd(outwardRule(family)); err != nil {
		return fmt.Errorf("cannot make the routing rule %d to table %d: %w", outwardPriority, outwardTable, err)
	}
	return nil
}

// hasOutwardRule says whether the rule is there. One of somebody else's with the same priority and table, that holds for some packets
// only, is not it, though to the kernel that is the same when a rule is added or deleted (net/core/fib_rules.c, rule_exists).
func hasOutwardRule(family int) (bool, error) {
	rules, err := listRules(family)
	ours := outwardRule(family).String()
	return slices.ContainsFunc(rules, func(r netlink.Rule) bool { return r.String() == ours }), err
}

// listRules are the routing rules of a family; none where the kernel does not speak it.
func listRules(family int) ([]netlink.Rule, error) {
	rules, err := retry(func() ([]netlink.Rule, error) { return netlink.RuleList(family) })
	if errors.Is(err, unix.EAFNOSUPPORT) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("cannot list the routing rules: %w", err)
	}
	return rules, nil
}

// deleteRule deletes a routing rule, if it is there.
func deleteRule(rule *netlink.Rule) error {
	if err := netlink.RuleDel(rule); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("cannot delete the routing rule %d: %w", rule.Priority, err)
	}
	return nil
}

func outwardRule(family int) *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family, rule.Priority, rule.Table = family, outwardPriority, outwardTable
	return rule
}

// forgetOutward takes away, if they are there, the routing rules, and the routes that do not go with the bridge.
func forgetOutward() error {
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		have, err := hasOutwardRule(family)
		if err != nil {
			return err
		}
		if !have {
			continue
		}
		if err := deleteRule(outwardRule(family)); err != nil {
			return err
		}
	}
	kept, err := retry(func() ([]netlink.Route, error) {
		throw := &netlink.Route{Table: outwardTable, Type: unix.RTN_THROW}
		return netlink.RouteListFiltered(netlink.FAMILY_ALL, throw, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_TYPE)
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
