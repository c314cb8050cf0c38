package boot

import (
	"bufio"
	"encoding/hex"
	"fmt"
	"io"
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
		log.Warn("the guest can reach what listens on the pod's loopback, and clouds' metadata: nobody can say where QEMU connects to", "error", err)
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

// allow keeps the guest from the networks that are not for it. The pod's DNS servers may be there: QEMU asks them for the guest. And clients on
// loopback get their answers.
func (o outward) allow(c confine.Connection) bool {
	if !network.IsRefused(c.To.Addr()) {
		return true
	}
	if c.To.Port() == dnsPort && slices.Contains(o.resolver(), c.To.Addr().WithZone("")) {
		return true
	}
	return c.To.Addr().IsLoopback() && o.isAnswer(c)
}

// isAnswer says whether a datagram comes from a port that leads to the guest, of HOSTFWD or a relay's on loopback, and goes to a socket of the pod's that may
// have asked there. One that is connected to that port has, and hears nobody else. One that is connected to nobody has where it is a client's: at a port that
// the kernel has chosen, and at no address of its own. What listens on loopback is neither.
func (o outward) isAnswer(c confine.Connection) bool {
	link, err := os.Readlink(fmt.Sprintf("%s/%d/fd/%d", o.proc, c.PID, c.FD))
	if err != nil {
		return false
	}
	sockets := o.datagramSockets()
	i := slices.IndexFunc(sockets, func(s datagramSocket) bool { return link == "socket:["+s.inode+"]" })
	if i < 0 {
		return false
	}
	from := sockets[i].local
	if !from.Addr().IsLoopback() && !slices.Contains(o.answers, from.Port()) { // QEMU's other sockets are bound to no address
		return false
	}
	client, served := false, false
	for _, s := range sockets {
		switch {
		case s.local.Port() != c.To.Port():
		case s.remote.Port() != 0:
			if s.local == c.To && s.remote.Addr().IsLoopback() && s.remote.Port() == from.Port() {
				return true
			}
		case s.local.Addr() == c.To.Addr():
			served = true
		case s.local.Addr().IsUnspecified():
			client = o.isEphemeral(c.To.Port())
		}
	}
	return client && !served
}

// isEphemeral says whether a port is one of those that the kernel gives to clients (ip(7), ip_local_port_range).
func (o outward) isEphemeral(port uint16) bool {
	var first, last uint16
	text, err := os.ReadFile(o.proc + "/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		_, err = fmt.Sscan(string(text), &first, &last)
	}
	return err == nil && first <= port && port <= last
}

// datagramSocket is a UDP socket of the pod's.
type datagramSocket struct {
	local, remote netip.AddrPort // the second has the port 0 where it is not connected
	inode         string
}

// datagramSockets are those of IPv4, and those of IPv6 that may carry IPv4 as well.
func (o outward) datagramSockets() (all []datagramSocket) {
	for _, name := range []string{"/net/udp", "/net/udp6"} {
		table, err := os.Open(o.proc + name)
		if err != nil {
			continue // there may be no IPv6
		}
		all = append(all, readSockets(table)...)
		table.Close()
	}
	return all
}

// readSockets reads /proc/net/udp or udp6 (proc_pid_net(5)).
func readSockets(table io.Reader) (all []datagramSocket) {
	for lines := bufio.NewScanner(table); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) < 10 {
			continue
		}
		local, ok := tableAddress(fields[1])
		remote, okRemote := tableAddress(fields[2])
		if ok && okRemote {
			all = append(all, datagramSocket{local, remote, fields[9]})
		}
	}
	return all
}

// tableAddress reads an address, whose words of four bytes are numbers as the machine, which is little-endian, keeps them.
func tableAddress(s string) (netip.AddrPort, bool) {
	host, port, _ := strings.Cut(s, ":")
	b, err := hex.DecodeString(host)
	n, errPort := strconv.ParseUint(port, 16, 16)
	if err != nil || errPort != nil || len(b)%4 != 0 {
		return netip.AddrPort{}, false
	}
	for word := range slices.Chunk(b, 4) {
		slices.Reverse(word)
	}
	a, ok := netip.AddrFromSlice(b)
	return netip.AddrPortFrom(a.Unmap(), uint16(n)), ok
}
