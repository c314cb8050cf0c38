// Package dns carries a guest's questions to resolvers that the guest itself cannot reach: 127.0.0.11 in the networks of
// Docker's users, 127.0.0.53 of systemd-resolved, link-local addresses.
//
// Messages are carried as they are. Nothing is cached, and nothing of a message is understood but its header (RFC 1035,
// section 4.1.1): what is asked and answered is between the guest and the resolver.
package dns

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds on what a guest can make this process hold. Beyond them its questions are dropped, or wait unread in the kernel.
const (
	mostQuestions   = 128 // by UDP under way, each with a socket and a buffer
	mostConnections = 32  // by TCP
)

// How long things may take. A resolver in a guest asks again after 5 s (resolv.conf(5), timeout).
const (
	answerTime = 2 * time.Second  // of one upstream
	idleTime   = 10 * time.Second // of a TCP connection without a question, and for writing an answer to it (RFC 7766, section 6.2.3)
)

const (
	headerSize  = 12
	mostMessage = 65535 // RFC 1035, section 4.2.2; a UDP datagram is never longer
)

// Serve answers the questions that come by udp and tcp with what the upstreams answer, until ctx ends or a socket fails,
// and closes both. A question goes to the upstream that answered last; one that is silent, refuses, or says that it could
// not find out has the next one asked, as resolv.conf(5) has it for its list of servers. A question that nobody answers
// stays without an answer: the guest's resolver has time-outs of its own. An answer that is too long for UDP is carried
// with its TC bit, on which the guest asks by TCP.
//
// udp should be bound to one address, so that answers come from where the guest has asked. tcp may be nil. The error is nil
// when ctx has ended.
func Serve(ctx context.Context, udp net.PacketConn, tcp net.Listener, upstreams []netip.AddrPort, log *slog.Logger) error {
	f := newForwarder(upstreams, log)
	return f.serve(ctx, udp, tcp)
}

// forwarder is what one [Serve] needs.
type forwarder struct {
	upstreams []netip.AddrPort
	log       *slog.Logger
	timeout   time.Duration // of one upstream

	good    atomic.Int32 // index of the upstream that answered last
	failing atomic.Bool  // nobody has answered the last question: said once, however many follow
}

func newForwarder(upstreams []netip.AddrPort, log *slog.Logger) *forwarder {
	return &forwarder{upstreams: upstreams, log: log, timeout: answerTime}
}

func (f *forwarder) serve(asked context.Context, udp net.PacketConn, tcp net.Listener) error {
	if len(f.upstreams) == 0 {
		return errors.New("no DNS server to forward to")
	}
	ctx, end := context.WithCancelCause(asked)
	defer end(nil)
	context.AfterFunc(ctx, func() {
		udp.Close()
		if tcp != nil {
			tcp.Close()
		}
	})
	var servers sync.WaitGroup
	servers.Go(func() { end(f.serveUDP(ctx, udp)) })
	if tcp != nil {
		servers.Go(func() { end(f.serveTCP(ctx, tcp)) })
	}
	servers.Wait()
	if asked.Err() != nil {
		return nil
	}
	return context.Cause(ctx)
}

// serveUDP ends with the error of conn, after all questions that are under way.
func (f *forwarder) serveUDP(ctx context.Context, conn net.PacketConn) error {
	var questions sync.WaitGroup
	defer questions.Wait()
	slots := make(chan struct{}, mostQuestions)
	buffer := make([]byte, mostMessage)
	for {
		n, guest, err := conn.ReadFrom(buffer)
		if err != nil {
			return fmt.Errorf("DNS by UDP: %w", err)
		}
		if !isQuestion(buffer[:n]) {
			continue
		}
		select {
		case slots <- struct{}{}:
		default:
			continue
		}
		question := append([]byte(nil), buffer[:n]...)
		questions.Go(func() {
			defer func() { <-slots }()
			if answer, ok := f.ask(ctx, "udp", question); ok {
				conn.WriteTo(answer, guest) // one that is lost is asked for again
			}
		})
	}
}

// serveTCP ends with the error of l, after all connections. Those beyond the most that are served wait to be accepted.
func (f *forwarder) serveTCP(ctx context.Context, l net.Listener) error {
	var connections sync.WaitGroup
	defer connections.Wait()
	slots := make(chan struct{}, mostConnections)
	for {
		select {
		case slots <- struct{}{}:
		case <-ctx.Done():
			return ctx.Err()
		}
		conn, err := l.Accept()
		if err != nil {
			return fmt.Errorf("DNS by TCP: %w", err)
		}
		connections.Go(func() {
			defer func() { <-slots }()
			defer conn.Close()
			defer context.AfterFunc(ctx, func() { conn.Close() })()
			f.converse(conn, func(question []byte) ([]byte, bool) { return f.ask(ctx, "tcp", question) })
		})
	}
}

// converse answers the questions on conn, one after the other, until one is none, is not answered, or none comes.
func (f *forwarder) converse(conn net.Conn, ask func(question []byte) (answer []byte, ok bool)) {
	for {
		conn.SetDeadline(time.Now().Add(idleTime))
		question, err := readMessage(conn)
		if err != nil || !isQuestion(question) {
			return
		}
		answer, ok := ask(question)
		if !ok {
			return
		}
		conn.SetDeadline(time.Now().Add(idleTime))
		if writeMessage(conn, answer) != nil {
			return
		}
	}
}

// ask asks one upstream after the other, and gives the first answer that is more than a failure; else a failure, if one
// came: it tells the guest not to wait.
func (f *forwarder) ask(ctx context.Context, network string, question []byte) (answer []byte, ok bool) {
	first := int(f.good.Load())
	var errs []error
	for i := range f.upstreams {
		at := (first + i) % len(f.upstreams)
		got, err := f.askOne(ctx, network, f.upstreams[at], question)
		switch {
		case ctx.Err() != nil:
			return nil, false
		case err != nil:
			errs = append(errs, err)
		case failed(got):
			answer = got
		default:
			f.good.Store(int32(at))
			f.failing.Store(false)
			return got, true
		}
	}
	if answer == nil && !f.failing.Swap(true) {
		f.log.Warn("no DNS server answers the guest", "error", errors.Join(errs...))
	}
	return answer, answer != nil
}

// askOne asks over a socket of the question's own. The kernel hands it only what comes from the upstream, its port is a
// random one, and a port that nobody listens on is an error at once.
func (f *forwarder) askOne(ctx context.Context, network string, upstream netip.AddrPort, question []byte) ([]byte, error) {
	deadline := time.Now().Add(f.timeout)
	d := net.Dialer{Deadline: deadline}
	conn, err := d.DialContext(ctx, network, upstream.String())
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	conn.SetDeadline(deadline)
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	if network == "tcp" {
		if err := writeMessage(conn, question); err != nil {
			return nil, err
		}
		answer, err := readMessage(conn)
		if err == nil && !answers(answer, question) {
			err = fmt.Errorf("%s: the answer is to another question", upstream)
		}
		return answer, err
	}
	if _, err := conn.Write(question); err != nil {
		return nil, err
	}
	buffer := make([]byte, mostMessage)
	for {
		n, err := conn.Read(buffer)
		if err != nil {
			return nil, err
		}
		if answers(buffer[:n], question) {
			return buffer[:n], nil
		}
	}
}

// isQuestion says whether a guest's message has a header, and is no answer: two forwarders must not be made to answer each
// other for ever.
func isQuestion(m []byte) bool { return len(m) >= headerSize && m[2]&0x80 == 0 }

// answers says whether m is an answer with the id of question.
func answers(m, question []byte) bool {
	return len(m) >= headerSize && m[2]&0x80 != 0 && m[0] == question[0] && m[1] == question[1]
}

// failed says that the server could not find out: its code is SERVFAIL, NOTIMP or REFUSED. A name that does not exist is no
// failure.
func failed(answer []byte) bool {
	code := answer[3] & 0x0f
	return code == 2 || code == 4 || code == 5
}

// readMessage reads a message with its length before it (RFC 1035, section 4.2.2).
func readMessage(conn net.Conn) ([]byte, error) {
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return nil, err
	}
	m := make([]byte, binary.BigEndian.Uint16(size[:]))
	_, err := io.ReadFull(conn, m)
	return m, err
}

// writeMessage writes length and message as one, so that they go in one segment (RFC 7766, section 8).
func writeMessage(conn net.Conn, m []byte) error {
	_, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(m))), m...))
	return err
}
