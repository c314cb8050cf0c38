package network

import (
	"fmt"

	"github.com/vishvananda/netlink"
)

// Counters are what the kernel has counted on a link.
type Counters struct {
	RxBytes, RxPackets, RxDropped uint64
	TxBytes, TxPackets, TxDropped uint64
}

// Count reads the counters of a link.
func Count(name string) (Counters, error) {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return Counters{}, fmt.Errorf("cannot count on %s: %w", name, err)
	}
	s := link.Attrs().Statistics
	if s == nil {
		return Counters{}, fmt.Errorf("cannot count on %s: the kernel does not", name)
	}
	return Counters{s.RxBytes, s.RxPackets, s.RxDropped, s.TxBytes, s.TxPackets, s.TxDropped}, nil
}
