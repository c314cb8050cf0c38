package config

import (
	"errors"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

const forwardHelp = "write 2222:22, 53:53/udp, 127.0.0.1:2222:22 or hostfwd=tcp::2222-:22"

// Forward is one entry of HOSTFWD: a port of the container that leads to a port of the guest.
type Forward struct {
	Proto     string     // tcp or udp
	HostIP    netip.Addr // where the container listens; zero: on all its addresses
	HostPort  uint16     // never 0
	GuestIP   netip.Addr // IPv4, and only if QEMU's words gave one; zero: the guest's first address
	GuestPort uint16     // never 0
}

// String is the entry as it can be written in HOSTFWD: 127.0.0.1:2222:22/tcp, or in QEMU's words if it names the guest's
// address, because only those can.
func (f Forward) String() string {
	if f.GuestIP.IsValid() {
		return fmt.Sprintf("hostfwd=%s:%s:%d-%v:%d", f.Proto, hostText(f.HostIP), f.HostPort, f.GuestIP, f.GuestPort)
	}
	var host string
	if f.HostIP.IsValid() {
		host = hostText(f.HostIP) + ":"
	}
	return fmt.Sprintf("%s%d:%d/%s", host, f.HostPort, f.GuestPort, f.Proto)
}

// hostText is the address with the brackets that IPv6 needs before a port, and nothing for the zero address.
func hostText(ip netip.Addr) string {
	switch {
	case !ip.IsValid():
		return ""
	case ip.Is6():
		return "[" + ip.String() + "]"
	}
	return ip.String()
}

// parseForwards reads HOSTFWD. With an error it gives the entries that are right.
func parseForwards(s string) ([]Forward, error) {
	if isNone(s) {
		return nil, nil
	}
	var forwards []Forward
	var errs []error
	for entry := range strings.SplitSeq(s, ",") {
		entry = strings.TrimSpace(entry)
		f, err := parseForward(entry)
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", entry, err))
			continue
		}
		if other, found := conflicting(forwards, f); found {
			errs = append(errs, fmt.Errorf("%q: the same %s port of the container as in %v; write each once", entry, f.Proto, other))
			continue
		}
		forwards = append(forwards, f)
	}
	return forwards, errors.Join(errs...)
}

// parseForward reads one entry in either spelling.
func parseForward(s string) (Forward, error) {
	if s == "" {
		return Forward{}, errors.New("an empty entry; " + forwardHelp)
	}
	if qemu, found := strings.CutPrefix(s, "hostfwd="); found {
		return parseQEMUForward(qemu)
	}
	proto := "tcp"
	ports, suffix, found := strings.Cut(s, "/")
	if found {
		proto = suffix
	}
	host, guestPort, found := cutLast(ports, ":")
	if !found {
		return Forward{}, errors.New("not a port forward; " + forwardHelp)
	}
	address, hostPort, found := cutLast(host, ":")
	if !found {
		address, hostPort = "", host
	} else if address == "" {
		return Forward{}, errors.New("an address is missing before the first colon; " + forwardHelp)
	}
	return newForward(proto, address, hostPort, "", guestPort)
}

// parseQEMUForward reads what follows hostfwd= in QEMU's -netdev user: [tcp|udp]:[ADDRESS]:PORT-[ADDRESS]:PORT. QEMU takes
// no protocol for tcp.
func parseQEMUForward(s string) (Forward, error) {
	proto, rest, found := strings.Cut(s, ":")
	host, guest, foundGuest := strings.Cut(rest, "-")
	address, hostPort, foundHostPort := cutLast(host, ":")
	guestAddress, guestPort, foundGuestPort := cutLast(guest, ":")
	if !found || !foundGuest || !foundHostPort || !foundGuestPort {
		return Forward{}, errors.New("not QEMU's hostfwd=[tcp|udp]:[ADDRESS]:PORT-[ADDRESS]:PORT; " + forwardHelp)
	}
	if proto == "" {
		proto = "tcp"
	}
	return newForward(proto, address, hostPort, guestAddress, guestPort)
}

func newForward(proto, address, hostPort, guestAddress, guestPort string) (Forward, error) {
	f := Forward{Proto: strings.ToLower(proto)}
	if f.Proto != "tcp" && f.Proto != "udp" {
		return Forward{}, fmt.Errorf("%q is not a protocol; write tcp or udp", proto)
	}
	var err error
	if f.HostIP, err = parseHost(address); err != nil {
		return Forward{}, err
	}
	if f.HostPort, err = parsePort(hostPort); err != nil {
		return Forward{}, err
	}
	if f.GuestIP, err = parseHost(guestAddress); err != nil {
		return Forward{}, err
	}
	if f.GuestIP.IsValid() && (f.GuestIP.Is6() || f.GuestIP.IsUnspecified()) {
		return Forward{}, fmt.Errorf("%q is not an address of the guest; QEMU forwards to IPv4 only, or leave it out", guestAddress)
	}
	if f.GuestPort, err = parsePort(guestPort); err != nil {
		return Forward{}, err
	}
	return f, nil
}

// parseHost reads an IPv4 address, or an IPv6 address in brackets; nothing gives the zero address. Names are not looked up:
// this package asks nobody.
func parseHost(s string) (netip.Addr, error) {
	if s == "" {
		return netip.Addr{}, nil
	}
	inner, bracket := strings.CutPrefix(s, "[")
	inner, closing := strings.CutSuffix(inner, "]")
	ip, err := netip.ParseAddr(inner)
	if err != nil || bracket != closing || bracket != ip.Is6() || ip.Zone() != "" {
		return netip.Addr{}, fmt.Errorf("%q is not an IP address; write 127.0.0.1 or [::1]", s)
	}
	return ip.Unmap(), nil
}

func parsePort(s string) (uint16, error) {
	port, err := strconv.ParseUint(s, 10, 16)
	if err != nil || port == 0 {
		return 0, fmt.Errorf("%q is not a port; from 1 to 65535", s)
	}
	return uint16(port), nil
}

// conflicting finds the entry that listens where f does. An address conflicts with the wildcard of its family, and the zero
// address with everything, since the second of them could not be bound.
func conflicting(forwards []Forward, f Forward) (Forward, bool) {
	for _, other := range forwards {
		if f.Proto == other.Proto && f.HostPort == other.HostPort && overlap(f.HostIP, other.HostIP) {
			return other, true
		}
	}
	return Forward{}, false
}

func overlap(a, b netip.Addr) bool {
	if !a.IsValid() || !b.IsValid() || a == b {
		return true
	}
	return a.Is4() == b.Is4() && (a.IsUnspecified() || b.IsUnspecified())
}

// cutLast is strings.Cut at the last sep.
func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}
