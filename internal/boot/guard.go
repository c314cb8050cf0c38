package boot

import (
	"bufio"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/vmentry/vmentry/internal/confine"
	"github.com/vmentry/vmentry/internal/network"
)

// guard is who says where the guest gets to by QEMU's user network, whose sockets are the pod's. It is nil where the guest's packets are
// somebody else's.
func (p Plan) guard() *confine.Guard {
	if p.Network.Mode != network.User || p.Cell.Open {
		return nil
	}
	policy := outward{resolver: func() []netip.Addr { return network.Nameservers(networkFiles) }, proc: "/proc"}
	for _, n := range p.Network.NICs {
		for _, f := range n.Forwards {
			if f.Proto == "udp" {
				policy.answers = append(policy.answers, f.HostPort)
			}
		}
	}
	return &confine.Guard{User: p.Cell.User, Keep: p.Cell.Keep, Allow: policy.allow}
}

// post lets the guard begin.
func post(g *confine.Guard, log *slog.Logger) {
	if err := g.Start(); err != nil {
		log.Warn("the guest can reach what listens on the pod's loopback, and link-local addresses: nobody can say where QEMU connects to", "error", err)
	}
}

// dnsPort is where DNS servers listen.
const dnsPort = 53

// outward is where the guest may get to.
type outward struct {
	resolver func() []netip.Addr // the pod's DNS servers
	answers  []uint16            // UDP ports of the pod that lead to the guest
	proc     string              // /proc
}

// allow keeps the guest from what means this pod, or its node, to a socket of the pod's: loopback, and link-local addresses, at which clouds
// keep their metadata. The pod's DNS servers may be there: QEMU asks them for the guest. And clients on loopback get their answers.
func (o outward) allow(c confine.Connection) bool {
	if !inward(c.To.Addr()) {
		return true
	}
	if c.To.Port() == dnsPort && slices.Contains(o.resolver(), c.To.Addr().WithZone("")) {
		return true
	}
	return c.To.Addr().IsLoopback() && o.isAnswer(c)
}

// metadata are the addresses of clouds' metadata that are not link-local: Amazon's and Google's of IPv6.
var metadata = []netip.Addr{netip.MustParseAddr("fd00:ec2::254"), netip.MustParseAddr("fd20:ce::254")}

func inward(a netip.Addr) bool {
	return a.IsLoopback() || a.IsLinkLocalUnicast() || a.Is4() && a.As4()[0] == 0 || a == netip.IPv6Unspecified() || slices.Contains(metadata, a)
}

// isAnswer says whether a datagram comes from a port that leads to the guest, of HOSTFWD or a relay's on loopback. QEMU's other sockets are bound
// to no address.
func (o outward) isAnswer(c confine.Connection) bool {
	link, err := os.Readlink(fmt.Sprintf("%s/%d/fd/%d", o.proc, c.PID, c.FD))
	if err != nil {
		return false
	}
	inode, ok := strings.CutPrefix(link, "socket:[")
	if !ok {
		return false
	}
	table, err := os.Open(o.proc + "/net/udp")
	if err != nil {
		return false
	}
	defer table.Close()
	local := localOf(bufio.NewScanner(table), strings.TrimSuffix(inode, "]"))
	return local.IsValid() && (local.Addr().IsLoopback() || slices.Contains(o.answers, local.Port()))
}

// localOf finds a socket's local address in /proc/net/udp (proc_pid_net(5)).
func localOf(lines *bufio.Scanner, inode string) netip.AddrPort {
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 || fields[9] != inode {
			continue
		}
		host, port, _ := strings.Cut(fields[1], ":")
		a, err := strconv.ParseUint(host, 16, 32)
		b, errPort := strconv.ParseUint(port, 16, 16)
		if err != nil || errPort != nil {
			return netip.AddrPort{}
		}
		// a number as the machine, which is little-endian, keeps the address
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte{byte(a), byte(a >> 8), byte(a >> 16), byte(a >> 24)}), uint16(b))
	}
	return netip.AddrPort{}
}
