// Package dhcp tells one guest its addresses, routes and the like: by DHCPv4 (RFC 2131), DHCPv6 (RFC 8415) and IPv6 router
// advertisements (RFC 4861).
//
// It speaks whole Ethernet frames over a port of the guest's bridge, because with NET_ADMIN alone a container may have neither
// raw nor packet sockets, and because the pod's address is the guest's, so there is none to bind a socket to.
//
// Nothing that the guest sends changes what is told: each answer is made from the configuration and the frame it answers.
package dhcp

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"sync"
	"time"
)

// Server answers one guest. It is made by [New].
type Server struct {
	cfg      Config
	log      *slog.Logger
	options4 []option4
	ra       []byte // ICMPv6 message, its checksum zero
	schedule schedule
	warned   map[string]time.Time // when a warning was last logged
	moved    chan net.HardwareAddr

	mu   sync.Mutex // guards what follows
	sent map[string]uint64
}

// New checks the configuration, and reports all mistakes at once. Bad search domains, a bad host name, and what does not fit
// into a router advertisement are left out, with a warning in the log.
func New(cfg Config, log *slog.Logger) (*Server, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("cannot serve DHCP: %w", err)
	}
	s := &Server{cfg: cfg, log: log, warned: map[string]time.Time{}, moved: make(chan net.HardwareAddr), sent: map[string]uint64{}}
	s.leaveOutBadNames()
	if cfg.V4 != nil {
		s.options4 = s.cfg.dhcpv4Options()
	}
	if cfg.V6 != nil {
		ra, err := s.advertisement()
		if err != nil {
			return nil, err
		}
		s.ra, s.schedule = ra, newSchedule(cfg.V6.Interval)
	}
	return s, nil
}

func (s *Server) leaveOutBadNames() {
	search, bad := validNames(s.cfg.Search)
	s.cfg.Search = search
	for _, err := range bad {
		s.log.Warn("a search domain is not told to the guest", "reason", err)
	}
	if s.cfg.HostName == "" {
		return
	}
	if err := validName(s.cfg.HostName); err != nil {
		s.log.Warn("the host name is not told to the guest", "name", s.cfg.HostName, "reason", err)
		s.cfg.HostName = ""
	}
}

// answer is a frame to send, and the name of the message in it.
type answer struct {
	kind  string
	frame []byte
}

// Serve answers the guest, and advertises the IPv6 router, until ctx ends, which is no error, or the port cannot be read any
// more. Each Read and Write of the port is one frame without a virtio header: a tap with IFF_NO_PI. It should be open and
// up before the guest starts, and should not reach the cluster (a bridge port that is isolated, as the uplink's is): the
// answers to clients without an address are broadcast, as the RFCs say.
//
// A port with deadlines, such as an os.File of a tap, is not read any more when Serve returns. Of another one Serve may lose
// one more frame. It must not be called while it runs.
func (s *Server) Serve(ctx context.Context, port io.ReadWriter) error {
	ctx, stop := context.WithCancel(ctx)
	frames, failed := make(chan []byte), make(chan error, 1)
	go func() { failed <- readFrames(ctx, port, frames) }()
	defer stopReading(stop, port, failed)

	var tick <-chan time.Time
	timer := time.NewTimer(0)
	defer timer.Stop()
	if s.cfg.V6 != nil {
		s.schedule.start(time.Now())
		tick = timer.C
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case err := <-failed:
			failed <- err
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("cannot read a frame from the DHCP server's port: %w", err)
		case frame := <-frames:
			s.send(port, s.handle(frame))
		case mac := <-s.moved:
			if err := s.moveRouter(mac); err != nil {
				s.log.Warn("the guest is not told that its router has another MAC", "MAC", mac, "error", err)
				continue
			}
			s.send(port, s.advertise(allNodes))
		case now := <-tick:
			s.send(port, s.advertise(allNodes))
			s.schedule.sent(now)
		}
		timer.Reset(time.Until(s.schedule.next))
	}
}

// MoveRouter tells the guest that its IPv6 router has another MAC, where it has it from this server (see [V6.RouterMAC]). It waits for [Server.Serve]
// to take it, or for ctx to end.
func (s *Server) MoveRouter(ctx context.Context, mac net.HardwareAddr) {
	select {
	case s.moved <- mac:
	case <-ctx.Done():
	}
}

// moveRouter makes the router advertisement anew. The router keeps its address: what the guest knows of it is bound to that.
func (s *Server) moveRouter(mac net.HardwareAddr) error {
	if s.cfg.V6 == nil || s.cfg.V6.RouterMAC == nil {
		return nil
	}
	v6 := *s.cfg.V6
	v6.RouterMAC = mac
	s.cfg.V6 = &v6
	ra, err := s.advertisement()
	if err == nil {
		s.ra = ra
	}
	return err
}

// readFrames hands on what it reads until the port fails or ctx ends.
func readFrames(ctx context.Context, port io.Reader, frames chan<- []byte) error {
	buffer := make([]byte, etherHeader+65536)
	for {
		n, err := port.Read(buffer)
		if err != nil {
			return err
		}
		select {
		case frames <- bytes.Clone(buffer[:n]):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// stopReading ends readFrames, and waits for its end where the port can be told to end a read.
func stopReading(stop func(), port io.Reader, ended <-chan error) {
	stop()
	p, ok := port.(interface{ SetReadDeadline(time.Time) error })
	if !ok || p.SetReadDeadline(time.Unix(1, 0)) != nil {
		return
	}
	<-ended
	_ = p.SetReadDeadline(time.Time{}) // as it was; a port that is closed by now does not mind
}

// handle is the answer to a frame. Most frames have none: it is empty then.
func (s *Server) handle(frame []byte) answer {
	e, ok := parseEthernet(frame)
	if !ok || !bytes.Equal(e.src, s.cfg.Guest) || !s.isFor(e.dst) {
		return answer{}
	}
	switch {
	case e.etherType == etherTypeARP && s.cfg.V4 != nil:
		return s.handleARP(e.payload)
	case e.etherType == etherTypeIPv4 && s.cfg.V4 != nil:
		return s.handleIPv4(e.payload)
	case e.etherType == etherTypeIPv6 && s.cfg.V6 != nil:
		return s.handleIPv6(e.payload)
	}
	return answer{}
}

// isFor says whether a frame to dst is for this server. A bridge also hands it those of which it does not know whose they
// are. Those to the router are the guest asking whether it is still there.
func (s *Server) isFor(dst net.HardwareAddr) bool {
	group := dst[0]&1 == 1
	return group || bytes.Equal(dst, s.cfg.Server) || s.cfg.V6 != nil && bytes.Equal(dst, s.cfg.V6.RouterMAC)
}

// send writes the answer, if there is one. One that cannot be written is as good as lost on the way, and the guest asks again: a
// tap that is down for a moment is no reason to end. One that is gone cannot be read either.
func (s *Server) send(port io.Writer, a answer) {
	if a.frame == nil {
		return
	}
	if _, err := port.Write(a.frame); err != nil {
		s.warn("cannot send an answer to the guest", "message", a.kind, "error", err)
		return
	}
	s.log.Debug("sent to the guest", "message", a.kind)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.sent[a.kind]++
}

// Stats is how many messages of each kind were sent, by their names: "DHCPOFFER", "DHCPv6 REPLY", "router advertisement". It
// may be called while Serve runs.
func (s *Server) Stats() map[string]uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.sent)
}

// warn logs a warning, but each at most once a minute: the guest can make them happen as often as it likes.
func (s *Server) warn(text string, args ...any) {
	now := time.Now()
	if last, ok := s.warned[text]; ok && now.Sub(last) < time.Minute {
		return
	}
	s.warned[text] = now
	s.log.Warn(text, args...)
}
