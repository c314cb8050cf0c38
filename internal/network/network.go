// Package network joins the guest to the pod: inspect → plan → apply. [Inspect] reads the pod's network namespace, [MakePlan]
// turns what it found and what the user wants into a [Plan], and [Plan.Apply] makes it so. Each mode has a file of its own.
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
	User   Mode = "user"   // QEMU's own user network: no privilege, and only forwarded ports reach the guest
	Passt  Mode = "passt"  // the guest shares the pod's addresses: passt makes sockets of the pod from the guest's traffic
	NAT    Mode = "nat"    // the guest has addresses of its own, and the pod's kernel translates
	Bridge Mode = "bridge" // the guest takes the pod's addresses
	None   Mode = "none"   // not at all
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
	Mode       Mode
	HostName   string
	Identity   string           // of the pod: the same after a restart, another for each replica
	MAC        net.HardwareAddr // of the first card; nil: the mode's default
	NICModel   string
	CPUs       int // of the guest: a card may have a queue for each
	Forwards   []Forward
	AllPorts   bool         // nobody has said which ports lead to the guest: as many as the mode can
	OwnPorts   []uint16     // TCP ports that vmentry listens on
	Intercept  uint16       // in bridge mode, the TCP port of the guest's addresses that the pod serves instead; 0: none
	Services   []netip.Addr // addresses of the cluster's services
	Interfaces []string     // the pod's interfaces that the guest gets, in order; nil: the mode's default
	DHCP       bool         // vmentry tells the guest its addresses
	Pod        Pod

	Unsupervised bool // vmentry does not stay beside QEMU

	// For passt alone.
	Passt  PasstProgram
	RunDir string
	Root   bool // vmentry runs as root
}

// Plan is how the guest will be connected.
type Plan struct {
	Mode     Mode
	NICs     []NIC
	Bridges  []BridgePlan `json:",omitempty"` // one for each card in bridge and nat mode
	NAT      *NATPlan     `json:",omitempty"` // in nat mode
	Relays   []Relay      `json:",omitempty"`
	Helper   *Helper      `json:",omitempty"`
	Release  bool         `json:",omitempty"` // an earlier start has left its network behind, maybe with the pod's addresses: that is undone first
	Warnings []string     `json:",omitempty"`
}

// NIC is one card of the guest.
type NIC struct {
	Model    string
	MAC      net.HardwareAddr
	HostName string
	IPv4Only bool `json:",omitempty"` // user mode: the guest is offered no IPv6, because it would lead nowhere
	Forwards []Forward
	AllPorts bool   `json:",omitempty"` // every port of the pod leads to the guest
	MTU      int    `json:",omitempty"` // bytes, as the card tells it to the guest; 0: the card says nothing
	Tap      *Tap   `json:",omitempty"` // with neither this nor the next: QEMU's user network
	Socket   string `json:",omitempty"` // where a helper listens for QEMU
}

// Tap is the pod's end of a card.
type Tap struct {
	Name   string
	MAC    net.HardwareAddr
	Queues int  // 1 to [maxQueues]: pairs of a receive and a transmit queue
	Vhost  bool // the kernel moves the frames (vhost-net), not QEMU
}

// MakePlan makes the plan. What it finds wrong comes as a [Mistake].
func MakePlan(in Input) (Plan, error) {
	plan := Plan{Mode: in.Mode}
	if err := in.spareNode(); err != nil {
		return plan, err
	}
	var err error
	switch in.Mode {
	case User:
		plan = userPlan(in)
	case Passt:
		plan, err = passtPlan(in)
	case NAT:
		plan, err = natPlan(in)
	case Bridge:
		plan, err = bridgePlan(in)
	}
	plan.Release = in.Pod.Joined()
	return plan, err
}

// Mistake is something that the user asked for and that this pod does not have.
type Mistake struct {
	Variable string
	Value    string
	Problem  string // what is wrong, and what would be right
}

func (m *Mistake) Error() string {
	return fmt.Sprintf("%s=%s: %s", m.Variable, m.Value, m.Problem)
}

// MAC is a unicast, locally administered address (IEEE 802, the two low bits of the first octet) made from identity:
// always the same for the same identity, and another, but for a chance of one in 2⁴⁰, for another.
func MAC(identity string) net.HardwareAddr {
	sum := sha256.Sum256([]byte("vmentry MAC " + identity))
	return net.HardwareAddr{0x52, sum[0], sum[1], sum[2], sum[3], sum[4]}
}

// mac is the address of the guest's first card.
func (in Input) mac() net.HardwareAddr {
	if in.MAC != nil {
		return in.MAC
	}
	return MAC(in.Identity)
}

// Lines prints the plan for people.
func (p Plan) Lines() []string {
	var lines []string
	if p.Release {
		lines = append(lines, "what an earlier start has made of the pod's network is undone first")
	}
	if p.Mode == None {
		return append(lines, "none: the guest has no network card")
	}
	for i, n := range p.NICs {
		lines = append(lines, fmt.Sprintf("%s: one %s card, %s", p.Mode, n.Model, n.MAC))
		switch {
		case n.AllPorts:
			lines = append(lines, "every port of the pod that passt can have leads to the same port of the guest")
		case n.Tap == nil:
			lines = append(lines, forwardLines(n.Forwards, p.Relays)...)
		}
		if i < len(p.Bridges) {
			lines = append(lines, p.Bridges[i].lines(n)...)
		}
	}
	if p.NAT != nil {
		lines = append(lines, p.NAT.lines()...)
	}
	for _, w := range p.Warnings {
		lines = append(lines, "warning: "+w)
	}
	return lines
}

func forwardLines(forwards []Forward, relays []Relay) []string {
	if len(forwards)+len(relays) == 0 {
		return []string{"no port of the pod leads to the guest"}
	}
	var lines []string
	for _, f := range forwards {
		lines = append(lines, f.String())
	}
	for _, r := range relays {
		lines = append(lines, r.String())
	}
	return lines
}

func (f Forward) String() string {
	host, guest := "*", "guest"
	switch {
	case f.HostIP.Is6():
		host = "[" + f.HostIP.String() + "]"
	case f.HostIP.IsValid():
		host = f.HostIP.String()
	}
	if f.GuestIP.IsValid() {
		guest = f.GuestIP.String()
	}
	return fmt.Sprintf("%s %s:%d → %s:%d", f.Proto, host, f.HostPort, guest, f.GuestPort)
}
