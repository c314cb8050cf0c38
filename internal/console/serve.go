package console

import (
	"fmt"
	"io"
	"net"
	"sync"
	"time"
)

// Server lets clients attach to a hub over a Unix socket. There is no protocol: a client gets the history and then the console,
// and what it sends is typed. It detaches by closing its end.
type Server struct {
	hub      *Hub
	listener net.Listener
	clients  sync.WaitGroup

	mu     sync.Mutex
	conns  map[net.Conn]bool
	closed bool
}

// Serve begins to let those in who connect to l. Whoever may connect may type.
func (h *Hub) Serve(l net.Listener) *Server {
	s := &Server{hub: h, listener: l, conns: map[net.Conn]bool{}}
	s.clients.Go(s.accept)
	return s
}

func (s *Server) accept() {
	for {
		conn, err := s.listener.Accept()
		switch {
		case err == nil:
			if s.enter(conn) {
				s.clients.Go(func() { s.serve(conn) })
			}
		case s.isClosed():
			return
		default:
			time.Sleep(50 * time.Millisecond) // out of descriptors: they come back when somebody leaves
		}
	}
}

func (s *Server) enter(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		conn.Close()
		return false
	}
	s.conns[conn] = true
	return true
}

func (s *Server) isClosed() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.closed
}

func (s *Server) serve(conn net.Conn) {
	defer func() {
		conn.Close()
		s.mu.Lock()
		delete(s.conns, conn)
		s.mu.Unlock()
	}()
	reader := s.hub.Attach(true)
	go func() {
		io.Copy(s.hub, conn)
		reader.Close() // it has left
	}()
	CopyTo(conn, reader)
}

// CopyTo writes what reader reads to out until one of them ends, with a remark where something was lost.
func CopyTo(out io.Writer, reader *Reader) {
	buf := make([]byte, 16<<10)
	for {
		n, lost, err := reader.Next(buf)
		if err != nil {
			return
		}
		if lost > 0 {
			// CAN ends an escape sequence that was cut in the middle
			if _, err := fmt.Fprintf(out, "\x18\r\n[vmentry: %d bytes of the console were not read in time]\r\n", lost); err != nil {
				return
			}
		}
		if _, err := out.Write(buf[:n]); err != nil {
			return
		}
	}
}

// Close ends the listening, and the clients when they have read a console that has ended to its end, but at most after so long.
func (s *Server) Close(linger time.Duration) {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.listener.Close()
	left := make(chan struct{})
	go func() {
		s.clients.Wait()
		close(left)
	}()
	select {
	case <-left:
		return
	case <-time.After(linger):
	}
	s.mu.Lock()
	for conn := range s.conns {
		conn.Close()
	}
	s.mu.Unlock()
	<-left
}
