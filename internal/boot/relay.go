package boot

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"syscall"

	"github.com/vmentry/vmentry/internal/network"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/relay"
	"github.com/vmentry/vmentry/internal/supervise"
)

// relays are the ports on IPv6 that vmentry carries to the guest.
type relays struct {
	bound   []boundRelay
	end     context.CancelFunc // nil before serve
	serving sync.WaitGroup
}

type boundRelay struct {
	network.Relay
	*relay.Listener
}

// bindRelays takes the ports, before anything that would have to be undone.
func (p Plan) bindRelays() (*relays, error) {
	r := &relays{}
	for _, planned := range p.Network.Relays {
		l, err := relay.Listen(planned.Proto, netip.AddrPortFrom(planned.HostIP, planned.HostPort))
		if err != nil {
			r.close()
			return nil, fail(supervise.Unavailable, "HOSTFWD: %s: %w%s", planned.Forward, err, whyNotBound(err))
		}
		r.bound = append(r.bound, boundRelay{planned, l})
	}
	return r, nil
}

// whyNotBound is what an error of bind(2) means to the user.
func whyNotBound(err error) string {
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return "; another process of this pod has the port"
	case errors.Is(err, syscall.EADDRNOTAVAIL):
		return "; the address is none of this pod's"
	case errors.Is(err, syscall.EACCES):
		return "; ports below 1024 need the capability NET_BIND_SERVICE"
	}
	return ""
}

// serve begins to carry, once QEMU has a forward on loopback for each port.
func (r *relays) serve(ctx context.Context, monitor *qemu.Monitor, log *slog.Logger) error {
	background, end := context.WithCancel(context.Background())
	r.end = end
	added := map[network.Forward]netip.AddrPort{} // one for all that lead to the same port of the guest
	for _, b := range r.bound {
		through := b.Through
		if !through.IsValid() {
			leads := b.Forward
			leads.HostIP, leads.HostPort = loopback, 0
			if !added[leads].IsValid() {
				at, err := addForward(ctx, monitor, leads)
				if err != nil {
					return fail(supervise.Software, "HOSTFWD: %s: %w", b.Forward, err)
				}
				added[leads] = at
			}
			through = added[leads]
		}
		log.Debug("relay", "from", b.Addr().String(), "proto", b.Proto, "through", through.String())
		r.serving.Go(func() { b.Serve(background, through, log) })
	}
	return nil
}

// close gives the ports back, and ends what is under way.
func (r *relays) close() {
	if r.end != nil {
		r.end()
	}
	for _, b := range r.bound {
		b.Close()
	}
	r.serving.Wait()
}

// addForward gives QEMU the forward f, on a port of loopback that is free. Another process may take the port
// before QEMU does, so a refusal is not the end.
func addForward(ctx context.Context, monitor *qemu.Monitor, f network.Forward) (at netip.AddrPort, err error) {
	const tries = 10
	for range tries {
		if f.HostPort, err = freePort(f.Proto); err != nil {
			return at, err
		}
		if err = monitor.AddForward(ctx, netdev, qemu.Forward(f)); err == nil {
			return netip.AddrPortFrom(f.HostIP, f.HostPort), nil
		}
	}
	return at, err
}

// freePort is a port of the loopback address that nobody has, for "tcp" or "udp".
func freePort(proto string) (uint16, error) {
	at := netip.AddrPortFrom(loopback, 0)
	if proto == "udp" {
		conn, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(at))
		if err != nil {
			return 0, err
		}
		defer conn.Close()
		return conn.LocalAddr().(*net.UDPAddr).AddrPort().Port(), nil
	}
	l, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(at))
	if err != nil {
		return 0, err
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).AddrPort().Port(), nil
}
