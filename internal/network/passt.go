package network

import (
	"fmt"
	"net/netip"
	"path/filepath"
	"strconv"
)

// PasstProgram is the passt that is installed (https://passt.top, its manual is passt(1)).
type PasstProgram struct {
	Path     string
	HostName bool // it can tell the guest its host name; versions of before 2025, such as Debian 12's, cannot
}

// Helper is a program that runs beside QEMU, from before its start until after its end.
type Helper struct {
	Name    string
	Path    string
	Args    []string
	Socket  string // it listens there for QEMU
	PIDFile string // it writes this file when it is ready

	Loopback netip.Addr // where the pod itself reaches the ports that it forwards
}

// Files of the passt mode in the run directory.
const (
	PasstSocket  = "passt.sock"
	PasstPIDFile = "passt.pid"
)

// passtMTU is what a virtio card's guest is told. passt carries bytes and datagrams, and no packets: the frames between it and the
// guest never reach the pod's network, and large ones cost least. It is the largest that leaves a multiple of four in a
// frame of IPv4 (and later versions' default). Other cards cannot take it.
const (
	passtMTU  = 65520
	otherMTU  = 1500
	nobody    = "none"
	everybody = "all"
)

// passtPlan shares the pod's addresses with the guest: it has the same ones by passt's own DHCP, router advertisements and
// DHCPv6, and what it sends leaves from sockets of the pod.
func passtPlan(in Input) (Plan, error) {
	if err := passtForwards(in.Forwards); err != nil {
		return Plan{}, err
	}
	h := Helper{
		Name:    "passt",
		Path:    in.Passt.Path,
		Socket:  filepath.Join(in.RunDir, PasstSocket),
		PIDFile: filepath.Join(in.RunDir, PasstPIDFile),

		Loopback: in.Pod.loopback(),
	}
	h.Args = []string{
		"--foreground", "--quiet",
		"--no-map-gw", // else the guest reaches the pod's loopback at the address of its gateway
		"--one-off",   // its end is QEMU's: when vmentry is killed nobody else ends it
		"--socket", h.Socket, "--pid", h.PIDFile,
	}
	if in.Root {
		// else it becomes nobody, who may not write in the run directory, and whom root without capabilities cannot become
		h.Args = append(h.Args, "--runas", "0:0")
	}
	mtu := passtMTU
	if in.NICModel != "virtio" {
		mtu = otherMTU
	}
	h.Args = append(h.Args, "--mtu", strconv.Itoa(mtu))
	if in.Passt.HostName && in.HostName != "" {
		h.Args = append(h.Args, "--hostname", in.HostName)
	}
	h.Args = append(h.Args, in.ports("--tcp-ports", "tcp", in.OwnPorts)...)
	h.Args = append(h.Args, in.ports("--udp-ports", "udp", nil)...)
	plan := Plan{Mode: Passt, Helper: &h, NICs: []NIC{{
		Model: in.NICModel, MAC: in.mac(), HostName: in.HostName, Socket: h.Socket, Forwards: in.Forwards, AllPorts: in.AllPorts,
	}}}
	if !in.Passt.HostName {
		plan.warn("%s is older than 2025: with Debian 12's, connections to a service of the guest that speaks first do not come about", in.Passt.Path)
	}
	return plan, nil
}

// passtForwards finds what passt cannot do: it has one port of the guest for each of the pod, whatever the address, and knows no
// address of the guest.
func passtForwards(forwards []Forward) error {
	type port struct {
		proto string
		port  uint16
	}
	seen := map[port]Forward{}
	for _, f := range forwards {
		if f.GuestIP.IsValid() {
			return &Mistake{"HOSTFWD", f.String(), "passt knows the guest by no address; leave out the guest's"}
		}
		p := port{f.Proto, f.HostPort}
		if other, twice := seen[p]; twice {
			return &Mistake{"HOSTFWD", f.String(), fmt.Sprintf("passt has a port once, whatever its address, and there is %s already; leave out one of the two, or the address", other)}
		}
		seen[p] = f
	}
	return nil
}

// ports is what passt forwards of a protocol. Ports that vmentry serves itself are not the guest's.
func (in Input) ports(option, proto string, own []uint16) []string {
	var args []string
	if in.AllPorts {
		for _, p := range own {
			args = append(args, option, fmt.Sprintf("~%d", p))
		}
		if args == nil {
			args = []string{option, everybody}
		}
		return args
	}
	for _, f := range in.Forwards {
		if f.Proto != proto {
			continue
		}
		spec := fmt.Sprintf("%d:%d", f.HostPort, f.GuestPort)
		if f.HostIP.IsValid() {
			spec = f.HostIP.String() + "/" + spec
		}
		args = append(args, option, spec)
	}
	if args == nil {
		return []string{option, nobody} // without a word passt forwards UDP where it forwards TCP
	}
	return args
}

// Unsupervised is h for a shell: passt itself goes to the background when it is ready.
func (h Helper) Unsupervised() []string {
	args := []string{h.Path}
	for i := 0; i < len(h.Args); i++ {
		switch h.Args[i] {
		case "--foreground":
		case "--pid":
			i++
		default:
			args = append(args, h.Args[i])
		}
	}
	return args
}

// Through is where in the pod a connection to a TCP port of the guest can be made; the zero value: nowhere.
func (p Plan) Through(port uint16) netip.AddrPort {
	for _, n := range p.NICs {
		if n.AllPorts {
			return netip.AddrPortFrom(p.Helper.Loopback, port)
		}
		for _, f := range n.Forwards {
			if f.Proto == "tcp" && f.GuestPort == port {
				return netip.AddrPortFrom(p.Helper.near(f.HostIP), f.HostPort)
			}
		}
	}
	return netip.AddrPort{}
}

// near is the address at which the pod itself reaches what listens on host.
func (h Helper) near(host netip.Addr) netip.Addr {
	switch {
	case !host.IsValid():
		return h.Loopback
	case host == netip.IPv6Unspecified():
		return netip.IPv6Loopback()
	case host.IsUnspecified():
		return localhost
	}
	return host
}

// loopback is the pod's address for itself: passt listens on no address of a family that the pod does not have.
func (p Pod) loopback() netip.Addr {
	for _, l := range p.Links {
		if len(l.addresses(true)) > 0 {
			return localhost
		}
	}
	if p.hasIPv6() {
		return netip.IPv6Loopback()
	}
	return localhost
}

var localhost = netip.AddrFrom4([4]byte{127, 0, 0, 1})
