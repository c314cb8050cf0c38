package dhcp

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/mdlayher/ndp"
)

// wire is a port in memory. What the server writes is kept with its time.
type wire struct {
	toServer chan []byte // closed: the port fails
	writeErr error

	mu   sync.Mutex
	sent []sentFrame
}

type sentFrame struct {
	after time.Duration
	frame []byte
}

var errPort = errors.New("the tap is gone")

func (w *wire) Read(b []byte) (int, error) {
	frame, ok := <-w.toServer
	if !ok {
		return 0, errPort
	}
	return copy(b, frame), nil
}

// began is when a synctest bubble's clock begins.
var began = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

func (w *wire) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.writeErr != nil {
		return 0, w.writeErr
	}
	w.sent = append(w.sent, sentFrame{time.Since(began), bytes.Clone(b)})
	return len(b), nil
}

func (w *wire) take() []sentFrame {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	sent := w.sent
	w.sent = nil
	return sent
}

// serving runs a server on a wire, inside of a bubble with a clock of its own.
func serving(t *testing.T, cfg Config, f func(s *Server, w *wire)) {
	synctest.Test(t, func(t *testing.T) {
		s := newServer(t, cfg)
		w := &wire{toServer: make(chan []byte)}
		done := make(chan error)
		go func() { done <- s.Serve(t.Context(), w) }()
		f(s, w)
		close(w.toServer)
		if err := <-done; !errors.Is(err, errPort) {
			t.Errorf("Serve returned %v when the port failed", err)
		}
	})
}

func TestRouterAdvertisementsAreRepeated(t *testing.T) {
	c := ordinary()
	c.V6.Interval = 90 * time.Second
	serving(t, c, func(s *Server, w *wire) {
		time.Sleep(time.Hour)
		sent := w.take()
		if len(sent) < 40 || len(sent) > 122 {
			t.Errorf("%d router advertisements in an hour", len(sent))
		}
		var last time.Duration
		for i, f := range sent {
			if _, p, _ := neighbour(t, answer{frame: f.frame}); p.dst != allNodes {
				t.Errorf("one to %s", p.dst)
			}
			least, most := 30*time.Second, 90*time.Second
			switch {
			case i == 0:
				least, most = 0, 0
			case i < initialAdvertisements:
				least, most = minDelayBetween, initialInterval
			}
			if gap := f.after - last; gap < least || gap > most {
				t.Errorf("router advertisement %d came %s after the one before", i, gap)
			}
			last = f.after
		}
		if diff := cmp.Diff(map[string]uint64{"router advertisement": uint64(len(sent))}, s.Stats()); diff != "" {
			t.Error(diff)
		}
	})
}

// TestRouterMoves: a router for which this server answers gets another MAC, and the guest is told at once; its address stays.
func TestRouterMoves(t *testing.T) {
	c := ordinary()
	c.V6.RouterMAC = net.HardwareAddr{2, 0, 0, 0, 1, 1}
	serving(t, c, func(s *Server, w *wire) {
		w.take()
		moved := net.HardwareAddr{2, 0, 0, 0, 2, 2}
		s.MoveRouter(context.Background(), moved)
		sent := w.take()
		if len(sent) != 1 {
			t.Fatalf("%d frames", len(sent))
		}
		_, p, m := neighbour(t, answer{frame: sent[0].frame})
		want := &ndp.LinkLayerAddress{Direction: ndp.Source, Addr: moved}
		if ra, ok := m.(*ndp.RouterAdvertisement); !ok || p.src != c.V6.Router || !slices.ContainsFunc(ra.Options, func(o ndp.Option) bool { return cmp.Equal(o, ndp.Option(want)) }) {
			t.Errorf("the guest is told %+v from %s", m, p.src)
		}
	})
}

func TestRouterSolicitationsAreAnswered(t *testing.T) {
	all := net.HardwareAddr{0x33, 0x33, 0, 0, 0, 2}
	known := solicitation(t, &ndp.RouterSolicitation{Options: slla()}, guest6, allRouters).frame(all, guestMAC)
	unknown := solicitation(t, &ndp.RouterSolicitation{}, netip.IPv6Unspecified(), allRouters).frame(all, guestMAC)
	serving(t, ordinary(), func(_ *Server, w *wire) {
		time.Sleep(10 * time.Minute) // a long time after the first ones
		w.take()
		w.toServer <- known
		if sent := w.take(); len(sent) != 1 || sent[0].after != 10*time.Minute {
			t.Errorf("a guest with an address has %d answers", len(sent))
		}
	})
	serving(t, ordinary(), func(_ *Server, w *wire) {
		if sent := w.take(); len(sent) != 1 {
			t.Errorf("%d router advertisements at the start", len(sent))
		}
		for range 1000 {
			w.toServer <- unknown
		}
		if sent := w.take(); len(sent) != 0 {
			t.Errorf("%d more at once", len(sent))
		}
		time.Sleep(minDelayBetween)
		if sent := w.take(); len(sent) != 1 || sent[0].after != minDelayBetween {
			t.Errorf("%d more after %s", len(sent), minDelayBetween)
		}
		time.Sleep(20 * time.Second)
		w.take()
		w.toServer <- unknown
		if sent := w.take(); len(sent) != 1 || sent[0].after != 23*time.Second {
			t.Errorf("a guest without an address has %d answers", len(sent))
		}
	})
}

func TestServeWithoutIPv6(t *testing.T) {
	c := ordinary()
	c.V6 = nil
	serving(t, c, func(s *Server, w *wire) {
		time.Sleep(time.Hour)
		w.toServer <- frame4(request4(t, dhcpv4.MessageTypeDiscover))
		w.toServer <- frame4(request4(t, dhcpv4.MessageTypeDiscover, dhcpv4.WithHwAddr(routerMAC)))
		if sent := w.take(); len(sent) != 1 {
			t.Errorf("%d answers", len(sent))
		}
		if diff := cmp.Diff(map[string]uint64{"DHCPOFFER": 1}, s.Stats()); diff != "" {
			t.Error(diff)
		}
	})
}

// A tap that is down refuses frames. The guest is answered again when it is up.
func TestServeOutlivesFailedWrites(t *testing.T) {
	c := ordinary()
	c.V6 = nil
	serving(t, c, func(s *Server, w *wire) {
		w.writeErr = errors.New("input/output error")
		w.toServer <- frame4(request4(t, dhcpv4.MessageTypeDiscover))
		if len(w.take()) != 0 || len(s.Stats()) != 0 {
			t.Error("a frame that was not sent counts")
		}
		w.writeErr = nil
		w.toServer <- frame4(request4(t, dhcpv4.MessageTypeDiscover))
		if len(w.take()) != 1 {
			t.Error("no answer after the port came back")
		}
	})
}

// Serve ends with its context, has let go of a port with deadlines by then, and can be called again.
func TestServeEnds(t *testing.T) {
	s := newServer(t, ordinary())
	for range 2 {
		ours, theirs := net.Pipe()
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- s.Serve(ctx, ours) }()
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		read := make(chan byte)
		go func() {
			b := make([]byte, 1)
			if _, err := io.ReadFull(ours, b); err != nil {
				t.Errorf("the port cannot be read any more: %v", err)
			}
			read <- b[0]
		}()
		if _, err := theirs.Write([]byte{7}); err != nil || <-read != 7 {
			t.Errorf("somebody else has read what came after the end: %v", err)
		}
		ours.Close()
	}
	ours, _ := net.Pipe()
	ours.Close()
	c := ordinary()
	c.V6 = nil
	if err := newServer(t, c).Serve(t.Context(), ours); !errors.Is(err, io.ErrClosedPipe) || !strings.Contains(err.Error(), "port") {
		t.Errorf("a closed port: %v", err)
	}
}

// The guest can make the server warn, but not fill the log.
func TestWarningsAreLimited(t *testing.T) {
	var log bytes.Buffer
	s, err := New(ordinary(), slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	log.Reset()
	decline := frame4(request4(t, dhcpv4.MessageTypeDecline, named("10.77.0.2"), requested("10.77.0.5")))
	synctest.Test(t, func(t *testing.T) {
		for range 3 {
			for range 1000 {
				s.handle(decline)
			}
			time.Sleep(time.Minute)
		}
	})
	if n := strings.Count(log.String(), "declines its address"); n != 3 {
		t.Errorf("%d warnings in three minutes:\n%s", n, &log)
	}
}

func TestConfigMistakes(t *testing.T) {
	addr, prefix := netip.MustParseAddr, netip.MustParsePrefix
	multicast := net.HardwareAddr{1, 0, 0, 0, 0, 1}
	tests := map[string]struct {
		change func(c *Config)
		want   string
	}{
		"no guest":                        {func(c *Config) { c.Guest = nil }, "the guest's MAC"},
		"a group as the guest":            {func(c *Config) { c.Guest = multicast }, "the guest's MAC"},
		"no server":                       {func(c *Config) { c.Server = make(net.HardwareAddr, 6) }, "the server's MAC"},
		"the guest as the server":         {func(c *Config) { c.Server = c.Guest }, "the server's MAC"},
		"a small MTU":                     {func(c *Config) { c.MTU, c.V6 = 575, nil }, "MTU 575"},
		"a small MTU for IPv6":            {func(c *Config) { c.MTU = 1279 }, "MTU 1279"},
		"a large MTU":                     {func(c *Config) { c.MTU = 65536 }, "MTU 65536"},
		"a time server that is none":      {func(c *Config) { c.NTP = []netip.Addr{{}} }, "NTP"},
		"a wide prefix":                   {func(c *Config) { c.V4.Address = prefix("10.0.0.5/7") }, "10.0.0.5/7"},
		"no address":                      {func(c *Config) { c.V4.Address = netip.Prefix{} }, "the guest's address"},
		"an IPv6 address for IPv4":        {func(c *Config) { c.V4.Address = prefix("2001:db8::1/64") }, "2001:db8::1/64"},
		"no server address":               {func(c *Config) { c.V4.Server = netip.Addr{} }, "the server's address"},
		"the guest's address as server's": {func(c *Config) { c.V4.Server = c.V4.Address.Addr() }, "the server's address"},
		"a router of IPv6":                {func(c *Config) { c.V4.Router = addr("fe80::1") }, "the router fe80::1"},
		"a route of IPv6":                 {func(c *Config) { c.V4.Routes = []Route{{Dst: prefix("2001:db8::/64")}} }, "route to 2001:db8::/64"},
		"a route via IPv6":                {func(c *Config) { c.V4.Routes = []Route{{prefix("10.0.0.0/8"), addr("fe80::1")}} }, "via fe80::1"},
		"a route to nowhere":              {func(c *Config) { c.V4.Routes = []Route{{}} }, "route to"},
		"a DNS server of IPv6":            {func(c *Config) { c.V4.DNS = []netip.Addr{addr("2001:db8::1")} }, "DNS server 2001:db8::1"},
		"a broadcast DNS server":          {func(c *Config) { c.V4.DNS = []netip.Addr{broadcast4} }, "DNS server 255"},
		"a link-local guest":              {func(c *Config) { c.V6.Addresses = []netip.Addr{guest6} }, "the guest's address fe80"},
		"an IPv4 address for IPv6":        {func(c *Config) { c.V6.Addresses = []netip.Addr{addr("::ffff:10.0.0.1")} }, "::ffff:10.0.0.1"},
		"a global IPv6 server":            {func(c *Config) { c.V6.Server = addr("2001:db8::1") }, "2001:db8::1 is not link-local"},
		"an IPv6 server with a zone":      {func(c *Config) { c.V6.Server = addr("fe80::2%eth0") }, "fe80::2%eth0"},
		"a global IPv6 router":            {func(c *Config) { c.V6.Router = addr("2001:db8::1") }, "the router 2001:db8::1"},
		"the server as the router":        {func(c *Config) { c.V6.Router = c.V6.Server }, "the router fe80"},
		"a MAC of no router":              {func(c *Config) { c.V6.Router, c.V6.Routes = netip.Addr{}, nil }, "the router's MAC"},
		"a router's MAC of a group":       {func(c *Config) { c.V6.RouterMAC = multicast }, "the router's MAC"},
		"link-local on-link":              {func(c *Config) { c.V6.OnLink = []netip.Prefix{prefix("fe80::/64")} }, "fe80::/64"},
		"an IPv4 route for IPv6":          {func(c *Config) { c.V6.Routes = []netip.Prefix{prefix("10.0.0.0/8")} }, "route to 10.0.0.0/8"},
		"a route without a router":        {func(c *Config) { c.V6.Router, c.V6.RouterMAC = netip.Addr{}, nil }, "route to 2001:db8:99::/48"},
		"an IPv4 DNS server for IPv6":     {func(c *Config) { c.V6.DNS = []netip.Addr{addr("10.0.0.1")} }, "DNS server 10.0.0.1"},
		"too many advertisements":         {func(c *Config) { c.V6.Interval = time.Second }, "every 1s"},
		"too few advertisements":          {func(c *Config) { c.V6.Interval = time.Hour }, "every 1h0m0s"},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			c := ordinary()
			tt.change(&c)
			_, err := New(c, slog.New(slog.DiscardHandler))
			if err == nil || !strings.Contains(err.Error(), tt.want) || strings.Count(err.Error(), "\n") > 0 {
				t.Errorf("error %v, want one with %q", err, tt.want)
			}
		})
	}
	c := ordinary()
	c.Guest, c.V4.Router, c.V6.Server = nil, addr("::1"), addr("::1")
	if _, err := New(c, slog.New(slog.DiscardHandler)); err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("three mistakes are reported as %v", err)
	}
	if _, err := New(Config{Guest: guestMAC, Server: serverMAC}, slog.New(slog.NewTextHandler(os.Stderr, nil))); err != nil {
		t.Errorf("nothing to serve: %v", err)
	}
}
