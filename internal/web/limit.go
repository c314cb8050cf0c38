package web

import (
	"net"
	"net/netip"
	"sync"
)

// maxPerClient is how many connections one address may have: it must not keep out all others, of which one may be the kubelet with a probe.
const maxPerClient = maxConnections / 2

// perClient is a listener that closes what is more than an address may have.
type perClient struct {
	net.Listener
	mu   sync.Mutex
	have map[netip.Addr]int
}

func limitClients(l net.Listener) net.Listener {
	return &perClient{Listener: l, have: map[netip.Addr]int{}}
}

func (p *perClient) Accept() (net.Conn, error) {
	for {
		c, err := p.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, ok := c.RemoteAddr().(*net.TCPAddr)
		if !ok { // a Unix socket, which has rights of its own
			return c, nil
		}
		client := from.AddrPort().Addr().Unmap()
		p.mu.Lock()
		full := p.have[client] == maxPerClient
		if !full {
			p.have[client]++
		}
		p.mu.Unlock()
		if !full {
			return &counted{Conn: c, leave: sync.OnceFunc(func() { p.leave(client) })}, nil
		}
		c.Close()
	}
}

func (p *perClient) leave(client netip.Addr) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.have[client]--; p.have[client] == 0 {
		delete(p.have, client)
	}
}

// counted is a connection that counts until it is closed.
type counted struct {
	net.Conn
	leave func()
}

func (c *counted) Close() error {
	defer c.leave()
	return c.Conn.Close()
}
