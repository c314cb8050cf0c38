// Package relay carries TCP and UDP from a port on IPv6 to a port on loopback: QEMU's user network forwards ports of IPv4
// alone (https://gitlab.com/qemu-project/qemu/-/issues/2876).
package relay

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"
)

// Listener is a port on IPv6 that is bound. What comes to it waits, or is lost if it is UDP and too much, until
// [Listener.Serve].
type Listener struct {
	at  netip.AddrPort
	tcp *net.TCPListener // one of the two
	udp *net.UDPConn
}

// Listen binds a port of proto, "tcp" or "udp", for IPv6 alone (RFC 3493, section 5.3), so that somebody else can have the
// same port on IPv4. The error names address and port.
func Listen(proto string, at netip.AddrPort) (*Listener, error) {
	l := &Listener{at: at}
	var err error
	switch proto {
	case "tcp":
		l.tcp, err = net.ListenTCP("tcp6", net.TCPAddrFromAddrPort(at))
	case "udp":
		l.udp, err = listenUDP(at)
	default:
		err = fmt.Errorf("%q is not a protocol", proto)
	}
	if err != nil {
		return nil, err
	}
	return l, nil
}

// Addr is where l listens.
func (l *Listener) Addr() netip.AddrPort {
	if l.tcp != nil {
		return l.tcp.Addr().(*net.TCPAddr).AddrPort()
	}
	return l.udp.LocalAddr().(*net.UDPAddr).AddrPort()
}

// Close gives the port back.
func (l *Listener) Close() error {
	if l.tcp != nil {
		return l.tcp.Close()
	}
	return l.udp.Close()
}

// Serve carries what comes to l to the address to, and back, until ctx ends. It then closes l and everything that is under
// way, and returns when nothing of it is left.
func (l *Listener) Serve(ctx context.Context, to netip.AddrPort, log *slog.Logger) {
	defer l.Close()
	defer context.AfterFunc(ctx, func() { l.Close() })()
	if l.tcp != nil {
		serveTCP(ctx, l.tcp, to, log)
	} else {
		newFlows(l.udp, to, log).serve(ctx)
	}
}

// pause waits a little, before something is tried again that has failed for want of descriptors or memory.
func pause(ctx context.Context) {
	select {
	case <-ctx.Done():
	case <-time.After(100 * time.Millisecond):
	}
}
