package relay

import (
	"container/list"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds on the flows of one port.
const (
	mostFlows = 1024
	idleTime  = 2 * time.Minute // RFC 4787, REQ-5: not less
)

const (
	mostDatagram = 65535
	mostControl  = 64 // bytes; an in6_pktinfo with its header has 40
)

// listenUDP binds a port that is told to which of its addresses a datagram came, because the answer must come from there
// (RFC 3542, section 6.2).
func listenUDP(at netip.AddrPort) (*net.UDPConn, error) {
	conn, err := net.ListenUDP("udp6", net.UDPAddrFromAddrPort(at))
	if err != nil {
		return nil, err
	}
	if err := receiveInfo(conn); err != nil {
		conn.Close()
		return nil, fmt.Errorf("listen udp6 %s: %w", at, err)
	}
	return conn, nil
}

func receiveInfo(conn *net.UDPConn) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var option error
	err = raw.Control(func(fd uintptr) {
		option = os.NewSyscallError("setsockopt IPV6_RECVPKTINFO", unix.SetsockoptInt(int(fd), unix.IPPROTO_IPV6, unix.IPV6_RECVPKTINFO, 1))
	})
	if err != nil {
		return err
	}
	return option
}

// flows are the clients of one UDP port.
type flows struct {
	conn *net.UDPConn
	to   netip.AddrPort
	log  *slog.Logger
	idle time.Duration
	most int

	readers sync.WaitGroup
	mu      sync.Mutex
	byKey   map[key]*list.Element // of *flow
	recent  *list.List            // the flow that was used last comes first
}

// key tells one flow from another.
type key struct {
	client netip.AddrPort
	info   string // the kernel's message of where the datagram came to
}

// flow is the datagrams between one client and the guest, by a socket of their own: so QEMU can tell the clients apart.
type flow struct {
	key  key
	conn net.Conn
}

func newFlows(conn *net.UDPConn, to netip.AddrPort, log *slog.Logger) *flows {
	return &flows{conn: conn, to: to, log: log, idle: idleTime, most: mostFlows, byKey: map[key]*list.Element{}, recent: list.New()}
}

func (f *flows) serve(ctx context.Context) {
	defer f.readers.Wait()
	defer f.closeAll()
	datagram, control := make([]byte, mostDatagram), make([]byte, mostControl)
	for {
		n, c, _, client, err := f.conn.ReadMsgUDPAddrPort(datagram, control)
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			f.log.Warn("a datagram cannot be relayed", "port", f.conn.LocalAddr().String(), "error", err)
			pause(ctx)
			continue
		}
		if flow := f.of(key{client, string(control[:c])}); flow != nil {
			flow.conn.SetReadDeadline(time.Now().Add(f.idle))
			flow.conn.Write(datagram[:n]) // UDP may lose it
		}
	}
}

// of is the flow that a datagram belongs to, a new one if need be. Where there are too many, the one that was not used for
// the longest time ends. It is nil when there can be none.
func (f *flows) of(k key) *flow {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.byKey[k]; e != nil {
		f.recent.MoveToFront(e)
		return e.Value.(*flow)
	}
	conn, err := net.Dial("udp", f.to.String())
	if err != nil {
		f.log.Debug("a datagram cannot be relayed", "from", k.client.String(), "error", err)
		return nil
	}
	if f.recent.Len() == f.most {
		f.remove(f.recent.Back())
	}
	fl := &flow{k, conn}
	f.byKey[k] = f.recent.PushFront(fl)
	f.readers.Go(func() { f.answer(fl) })
	return fl
}

// answer carries the guest's answers until the flow is idle or closed.
func (f *flows) answer(fl *flow) {
	defer f.end(fl)
	datagram := make([]byte, mostDatagram)
	for {
		n, err := fl.conn.Read(datagram)
		if err != nil {
			return
		}
		fl.conn.SetReadDeadline(time.Now().Add(f.idle))
		// the message that said where the question came to, says where the answer comes from
		f.conn.WriteMsgUDPAddrPort(datagram[:n], []byte(fl.key.info), fl.key.client)
	}
}

// end removes fl, unless another has taken its place.
func (f *flows) end(fl *flow) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if e := f.byKey[fl.key]; e != nil && e.Value == fl {
		f.remove(e)
	}
}

func (f *flows) closeAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for f.recent.Len() > 0 {
		f.remove(f.recent.Back())
	}
}

// remove ends the flow of e, with the mutex held.
func (f *flows) remove(e *list.Element) {
	fl := f.recent.Remove(e).(*flow)
	delete(f.byKey, fl.key)
	fl.conn.Close()
}
