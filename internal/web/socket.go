package web

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"

	"github.com/coder/websocket"
)

// socketWrite is how long a browser may take to accept a message. One that takes longer is gone.
const socketWrite = 30 * time.Second

// socket opens a WebSocket for talk, which is told whether the other side may change something. The library refuses a browser that
// shows another site's page.
func (p *page) socket(ctx context.Context, talk func(ctx context.Context, c *websocket.Conn, mayChange bool)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if p.wrongly(r) {
			p.refuse(w, r)
			return
		}
		leave, ok := p.seat(r)
		if !ok {
			http.Error(w, "too many consoles and screens are open", http.StatusServiceUnavailable)
			return
		}
		p.sockets.Add(1)
		defer p.sockets.Done()
		defer leave()
		c, err := websocket.Accept(w, r, nil)
		if err != nil {
			return // Accept has answered
		}
		defer c.CloseNow()
		c.SetReadLimit(1 << 20)
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if ends, ok := p.sessionEnds(r); ok {
			ctx, cancel = context.WithDeadline(ctx, ends)
			defer cancel()
		}
		talk(ctx, c, p.mayChange(r))
	}
}

// seat takes one of the places for sockets, until leave is called.
func (p *page) seat(r *http.Request) (leave func(), ok bool) {
	from, _ := netip.ParseAddrPort(r.RemoteAddr) // the server's, and always one
	client := clientOf(from.Addr())
	if !p.clients.enter(client) {
		return nil, false
	}
	select {
	case p.seats <- struct{}{}:
	default:
		p.clients.leave(client)
		return nil, false
	}
	return func() {
		<-p.seats
		p.clients.leave(client)
	}, true
}

// console sends the console as binary messages, and types what comes. The first message is text and says whether it does.
func (p *page) console(ctx context.Context, c *websocket.Conn, mayChange bool) {
	console := p.Page.Console()
	defer console.Close()
	hello, _ := json.Marshal(map[string]bool{"input": mayChange})
	if c.Write(ctx, websocket.MessageText, hello) != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		defer console.Close()
		for {
			_, b, err := c.Read(ctx)
			if err != nil {
				return
			}
			if !mayChange {
				continue
			}
			if n, err := console.Write(b); err != nil {
				fmt.Fprintf(message{ctx, c}, "\r\n[vmentry: %d bytes were not typed: the guest does not read its console]\r\n", len(b)-n)
			}
		}
	}()
	buf := make([]byte, 16<<10)
	for {
		n, lost, err := console.Next(buf)
		if err != nil {
			break
		}
		if lost > 0 {
			fmt.Fprintf(message{ctx, c}, "\x18\r\n[vmentry: %d bytes of the console were not read in time]\r\n", lost)
		}
		if _, err := (message{ctx, c}).Write(buf[:n]); err != nil {
			return
		}
	}
	c.Close(websocket.StatusNormalClosure, "the console has ended")
}

// message writes binary messages.
type message struct {
	ctx context.Context
	c   *websocket.Conn
}

func (m message) Write(b []byte) (int, error) {
	ctx, cancel := context.WithTimeout(m.ctx, socketWrite)
	defer cancel()
	return len(b), m.c.Write(ctx, websocket.MessageBinary, b)
}

// screen joins the browser to the VM's VNC server. Who may not change anything can look.
func (p *page) screen(ctx context.Context, c *websocket.Conn, mayChange bool) {
	vnc, err := p.Page.Screen(ctx)
	if err != nil {
		c.Close(websocket.StatusTryAgainLater, "the screen cannot be had yet")
		return
	}
	defer vnc.Close()
	browser := websocket.NetConn(ctx, c, websocket.MessageBinary)
	go func() {
		defer browser.Close()
		defer vnc.Close()
		io.Copy(message{ctx, c}, vnc)
	}()
	if mayChange {
		io.Copy(vnc, browser)
		return
	}
	lookOn(vnc, browser)
}
