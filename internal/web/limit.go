package web

import (
	"net"
	"net/netip"
	"sync"
)

// How much one client may have: it must not keep out all others, of which one may be the kubelet with a probe.
const (
	maxPerClient        = maxConnections / 2
	maxSocketsPerClient = 8
)

// clientOf is whom an address is one of: by IPv6 whoever has one has 2^64 (RFC 4291, section 2.5.4).
func clientOf(a netip.Addr) netip.Prefix {
	a = a.Unmap()
	bits := a.BitLen()
	if a.Is6() {
		bits = 64
	}
	client, _ := a.Prefix(bits)
	return client
}

// counts is how much of something each client has.
type counts struct {
	most int
	mu   sync.Mutex
	have map[netip.Prefix]int
}

func newCounts(most int) *counts { return &counts{most: most, have: map[netip.Prefix]int{}} }

// enter gives one more to a client, if it may have it.
func (c *counts) enter(client netip.Prefix) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.have[client] == c.most {
		return false
	}
	c.have[client]++
	return true
}

func (c *counts) leave(client netip.Prefix) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.have[client]--; c.have[client] == 0 {
		delete(c.have, client)
	}
}

// perClient is a listener that closes what is more than a client may have.
type perClient struct {
	net.Listener
	*counts
}

func limitClients(l net.Listener) net.Listener { return perClient{l, newCounts(maxPerClient)} }

func (p perClient) Accept() (net.Conn, error) {
	for {
		c, err := p.Listener.Accept()
		if err != nil {
			return nil, err
		}
		from, ok := c.RemoteAddr().(*net.TCPAddr)
		if !ok { // a Unix socket, which has rights of its own
			return c, nil
		}
		client := clientOf(from.AddrPort().Addr())
		if p.enter(client) {
			return &counted{Conn: c, leave: sync.OnceFunc(func() { p.leave(client) })}, nil
		}
		c.Close()
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
