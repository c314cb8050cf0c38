package relay

import (
	"context"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
)

// mostConnections are carried at a time by one port; more wait in the kernel's queue. Each takes two descriptors, and while
// bytes flow two of a pipe for each direction: Go has the kernel carry them (splice(2)), so no byte is held here.
const mostConnections = 1024

func serveTCP(ctx context.Context, l *net.TCPListener, to netip.AddrPort, log *slog.Logger) {
	var connections sync.WaitGroup
	defer connections.Wait()
	slots := make(chan struct{}, mostConnections)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		client, err := l.AcceptTCP()
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			<-slots
			log.Warn("a connection cannot be relayed", "port", l.Addr().String(), "error", err)
			pause(ctx)
			continue
		}
		connections.Go(func() {
			defer func() { <-slots }()
			carry(ctx, client, to, log)
		})
	}
}

// carry joins client to a new connection to the address to, until both ends have closed or one has failed.
func carry(ctx context.Context, client *net.TCPConn, to netip.AddrPort, log *slog.Logger) {
	defer client.Close()
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", to.String())
	if err != nil {
		client.SetLinger(0) // a reset, as where nobody listens
		log.Debug("a connection cannot be relayed", "from", client.RemoteAddr().String(), "error", err)
		return
	}
	guest := conn.(*net.TCPConn)
	defer guest.Close()
	defer context.AfterFunc(ctx, func() {
		client.Close()
		guest.Close()
	})()
	var directions sync.WaitGroup
	directions.Go(func() { oneWay(guest, client) })
	directions.Go(func() { oneWay(client, guest) })
	directions.Wait()
}

// oneWay copies until from has no more, and tells to; the other direction may go on. A failure ends both, with a reset, so
// that nobody takes half of something for the whole.
func oneWay(to, from *net.TCPConn) {
	_, err := io.Copy(to, from)
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		for _, c := range []*net.TCPConn{to, from} {
			c.SetLinger(0)
			c.Close()
		}
	}
}
