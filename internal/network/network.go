// Package network joins the guest to the pod. Each mode has a file of its own; all of them make a [Plan].
package network

import (
	"crypto/sha256"
	"fmt"
	"net"
	"net/netip"
)

// Mode is how the guest is connected.
type Mode string

// The modes.
const (
	User Mode = "user" // QEMU's own user network: no privilege, and only forwarded ports reach the guest
	None Mode = "none" // not at all
)

// Forward is one port of the pod that leads to a port of the guest.
type Forward struct {
	Proto     string     // "tcp" or "udp"
	HostIP    netip.Addr // the zero value is every address
	HostPort  uint16
	GuestIP   netip.Addr // the zero value is the guest's own
	GuestPort uint16
}

// Input is what a plan is made from.
type Input struct {
	Mode     Mode
	HostName string
	Identity string           // of the pod: the same after a restart, another for each replica
	MAC      net.HardwareAddr // nil: made from the identity
	NICModel string
	Forwards []Forward
}

// Plan is how the guest will be connected.
type Plan struct {
	Mode Mode
	NICs []NIC
}

// NIC is one card of the guest.
type NIC struct {
	Model    string
	MAC      net.HardwareAddr
	HostName string
	Forwards []Forward
}

// MakePlan makes the plan. It cannot fail: what is wrong with the input was found when it was read.
func MakePlan(in Input) Plan {
	if in.Mode == None {
		return Plan{Mode: None}
	}
	return userPlan(in)
}

// MAC is a unicast, locally administered address (IEEE 802, the two low bits of the first octet) made from identity:
// always the same for the same identity, and another, but for a chance of one in 2⁴⁰, for another.
func MAC(identity string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("vmentry MAC " + identity))
	return net.HardwareAddr{0x52, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

// Lines prints the plan for people.
func (p Plan) Lines() []string {
	if p.Mode == None {
		return []string{"none: the guest has no network card"}
	}
	var lines []string
	for _, n := range p.NICs {
		lines = append(lines, fmt.Sprintf("%s: one %s card, %s", p.Mode, n.Model, n.MAC))
		if len(n.Forwards) == 0 {
			lines = append(lines, "no port of the pod leads to the guest")
		}
		for _, f := range n.Forwards {
			lines = append(lines, f.String())
		}
	}
	return lines
}

func (f Forward) String() string {
	host, guest := "*", "guest"
	if f.HostIP.IsValid() {
		host = f.HostIP.String()
	}
	if f.GuestIP.IsValid() {
		guest = f.GuestIP.String()
	}
	return fmt.Sprintf("%s %s:%d → %s:%d", f.Proto, host, f.HostPort, guest, f.GuestPort)
}
