package dns

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// patience is how long anything may take before a test gives up on it.
const patience = 2 * time.Minute

var loopback = netip.MustParseAddr("127.0.0.1")

// serve runs f on a loopback port of its own, by UDP and TCP, until the test ends.
func serve(t *testing.T, f *forwarder) netip.AddrPort {
	t.Helper()
	udp, tcp := listen(t)
	ctx, end := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.serve(ctx, udp, tcp) }()
	t.Cleanup(func() {
		end()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("the end: %v", err)
			}
		case <-time.After(patience):
			t.Error("it does not end")
		}
	})
	return udp.LocalAddr().(*net.UDPAddr).AddrPort()
}

// listen finds a port that is free for UDP and for TCP.
func listen(t *testing.T) (*net.UDPConn, *net.TCPListener) {
	t.Helper()
	for {
		udp, err := net.ListenUDP("udp4", net.UDPAddrFromAddrPort(netip.AddrPortFrom(loopback, 0)))
		if err != nil {
			t.Fatal(err)
		}
		tcp, err := net.ListenTCP("tcp4", net.TCPAddrFromAddrPort(udp.LocalAddr().(*net.UDPAddr).AddrPort()))
		if err == nil {
			t.Cleanup(func() { udp.Close(); tcp.Close() })
			return udp, tcp
		}
		udp.Close()
	}
}

// dnsmasq runs one with a hosts file and a text record that no datagram holds, and gives its address.
func dnsmasq(t *testing.T) netip.AddrPort {
	t.Helper()
	path, err := exec.LookPath("dnsmasq")
	if err != nil {
		path = "/usr/sbin/dnsmasq"
	}
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("192.0.2.7 web.test\n2001:db8::7 web.test\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	udp, tcp := listen(t)
	at := udp.LocalAddr().(*net.UDPAddr).AddrPort()
	udp.Close()
	tcp.Close()
	cmd := exec.CommandContext(t.Context(), path, "--keep-in-foreground", "--conf-file=/dev/null", "--log-facility=-", "--pid-file",
		"--user=root", "--no-resolv", "--no-hosts", "--addn-hosts="+hosts, "--local=/test/", "--bind-interfaces",
		"--listen-address="+at.Addr().String(), fmt.Sprintf("--port=%d", at.Port()), "--txt-record=big.test,"+strings.Join(bigText(), ","))
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		cmd.Wait()
		close(ended)
	}()
	t.Cleanup(func() {
		cmd.Process.Kill()
		<-ended
	})
	for began := time.Now(); ; time.Sleep(10 * time.Millisecond) {
		if conn, err := net.Dial("tcp", at.String()); err == nil {
			conn.Close()
			return at
		}
		select {
		case <-ended:
			t.Fatalf("dnsmasq has ended: %s", &said)
		default:
		}
		if time.Since(began) > patience {
			t.Fatal("dnsmasq does not answer")
		}
	}
}

// bigText is some 5 kB in pieces of what one string of a text record can hold.
func bigText() []string {
	var text []string
	for i := range 20 {
		text = append(text, strings.Repeat(string(rune('a'+i)), 250))
	}
	return text
}

// client is Go's resolver, asking only the forwarder.
func client(at netip.AddrPort) *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, network, at.String())
	}}
}

func TestRealClients(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	at := serve(t, newForwarder([]netip.AddrPort{dnsmasq(t)}, log))
	t.Run("Go's", func(t *testing.T) {
		r := client(at)
		addrs, err := r.LookupHost(t.Context(), "web.test.")
		slices.Sort(addrs)
		if want := []string{"192.0.2.7", "2001:db8::7"}; err != nil || !slices.Equal(addrs, want) {
			t.Errorf("%v, %v; want %v", addrs, err, want)
		}
		if _, err := r.LookupHost(t.Context(), "nobody.test."); err == nil || !err.(*net.DNSError).IsNotFound {
			t.Errorf("a name that does not exist: %v", err)
		}
		// too big for a datagram: the answer has its TC bit set, and the client comes again by TCP
		text, err := r.LookupTXT(t.Context(), "big.test.")
		if want := strings.Join(bigText(), ""); err != nil || len(text) != 1 || text[0] != want {
			t.Errorf("%d texts, %v", len(text), err)
		}
	})
	for name, args := range map[string][]string{"UDP": {"+notcp", "+ignore", "web.test"}, "TCP": {"+tcp", "web.test"}, "two by one connection": {"+tcp", "+keepopen", "nobody.test", "web.test"}} {
		t.Run("dig "+name, func(t *testing.T) {
			out, err := exec.CommandContext(t.Context(), "dig", append([]string{"@" + at.Addr().String(), "-p", fmt.Sprint(at.Port()), "+short", "+tries=5", "+time=20"}, args...)...).CombinedOutput()
			if err != nil || string(out) != "192.0.2.7\n" {
				t.Errorf("%v: %s", err, out)
			}
		})
	}
}

// upstream is a server of the test's own, for what a real one does not do.
type upstream struct {
	answer func(question []byte) [][]byte // nil: none
	asked  atomic.Int32
}

func (u *upstream) start(t *testing.T) netip.AddrPort {
	t.Helper()
	conn, tcp := listen(t)
	tcp.Close()
	go func() {
		buffer := make([]byte, mostMessage)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			u.asked.Add(1)
			if u.answer == nil {
				continue
			}
			for _, answer := range u.answer(buffer[:n]) {
				conn.WriteTo(answer, from)
			}
		}
	}()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// reply is question as an answer with a code.
func reply(question []byte, code byte) []byte {
	answer := bytes.Clone(question)
	answer[2] |= 0x80
	answer[3] = code
	return answer
}

// question has a header alone.
func question(id uint16) []byte {
	return append(binary.BigEndian.AppendUint16(nil, id), make([]byte, headerSize-2)...)
}

// exchange sends each question and gives the first answer. Nothing is lost on a loopback that is not flooded.
func exchange(t *testing.T, at netip.AddrPort, questions ...[]byte) []byte {
	t.Helper()
	conn, err := net.Dial("udp", at.String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for _, q := range questions {
		if _, err := conn.Write(q); err != nil {
			t.Fatal(err)
		}
	}
	conn.SetDeadline(time.Now().Add(patience))
	answer := make([]byte, mostMessage)
	n, err := conn.Read(answer)
	if err != nil {
		t.Fatal(err)
	}
	return answer[:n]
}

// TestFallOver: after an upstream that is silent, one that nobody listens on and one that refuses, the fourth is asked, and
// is the first to be asked from then on.
func TestFallOver(t *testing.T) {
	silent, refusing := &upstream{}, &upstream{answer: func(q []byte) [][]byte { return [][]byte{reply(q, 5)} }}
	gone, tcp := listen(t)
	gone.Close()
	tcp.Close()
	for _, network := range []string{"udp", "tcp"} {
		t.Run(network, func(t *testing.T) {
			f := newForwarder([]netip.AddrPort{silent.start(t), gone.LocalAddr().(*net.UDPAddr).AddrPort(), refusing.start(t), dnsmasq(t)}, slog.New(slog.DiscardHandler))
			at := serve(t, f)
			for began := time.Now(); ; {
				out, err := exec.CommandContext(t.Context(), "dig", "@"+at.Addr().String(), "-p", fmt.Sprint(at.Port()), "+short", "+time=30",
					map[string]string{"udp": "+notcp", "tcp": "+tcp"}[network], "web.test").CombinedOutput()
				if err == nil && string(out) == "192.0.2.7\n" {
					break
				}
				if time.Since(began) > patience {
					t.Fatalf("%v: %s", err, out)
				}
			}
			if f.good.Load() != 3 {
				t.Errorf("upstream %d is asked first", f.good.Load())
			}
		})
	}
	if silent.asked.Load() == 0 || refusing.asked.Load() == 0 {
		t.Error("the upstreams were not asked in their order")
	}
}

// TestRefused: that all upstreams refuse is an answer.
func TestRefused(t *testing.T) {
	refusing := &upstream{answer: func(q []byte) [][]byte { return [][]byte{reply(q, 5)} }}
	at := serve(t, newForwarder([]netip.AddrPort{refusing.start(t), refusing.start(t)}, slog.New(slog.DiscardHandler)))
	if got := exchange(t, at, question(7)); !bytes.Equal(got, reply(question(7), 5)) {
		t.Errorf("%x", got)
	}
	if got := refusing.asked.Load(); got != 2 {
		t.Errorf("%d of two upstreams were asked", got)
	}
}

// TestForeignAnswers: what is no answer, or has another id, is not taken for the answer.
func TestForeignAnswers(t *testing.T) {
	u := &upstream{answer: func(q []byte) [][]byte {
		return [][]byte{{}, q[:5], reply(question(8), 0), q, reply(q, 3)}
	}}
	at := serve(t, newForwarder([]netip.AddrPort{u.start(t)}, slog.New(slog.DiscardHandler)))
	if got := exchange(t, at, question(7)); !bytes.Equal(got, reply(question(7), 3)) {
		t.Errorf("%x", got)
	}
}

// TestNoQuestions: what is no question is carried nowhere.
func TestNoQuestions(t *testing.T) {
	u := &upstream{answer: func(q []byte) [][]byte { return [][]byte{reply(q, 0)} }}
	at := serve(t, newForwarder([]netip.AddrPort{u.start(t)}, slog.New(slog.DiscardHandler)))
	got := exchange(t, at, nil, []byte{1}, question(7)[:headerSize-1], reply(question(7), 0), question(9))
	if !bytes.Equal(got, reply(question(9), 0)) {
		t.Errorf("%x", got)
	}
	if got := u.asked.Load(); got != 1 {
		t.Errorf("%d messages were carried", got)
	}
}

// reads counts how often the next message was asked for: the ones before it are then done with.
type reads struct {
	net.PacketConn
	calls chan int
	n     int
}

func (r *reads) ReadFrom(b []byte) (int, net.Addr, error) {
	r.n++
	r.calls <- r.n
	return r.PacketConn.ReadFrom(b)
}

// TestFlood: however much a guest asks, only so many questions are under way; and when they are answered, others are.
func TestFlood(t *testing.T) {
	const more = 20
	release := make(chan struct{})
	u := &upstream{answer: func(q []byte) [][]byte {
		<-release // the first one holds up all
		return [][]byte{reply(q, 0)}
	}}
	udp, tcp := listen(t)
	tcp.Close()
	read := &reads{PacketConn: udp, calls: make(chan int, mostQuestions+more+1000)}
	f := newForwarder([]netip.AddrPort{u.start(t)}, slog.New(slog.DiscardHandler))
	f.timeout = patience // no question may end by itself
	ended := make(chan error, 1)
	ctx, end := context.WithCancel(t.Context())
	go func() { ended <- f.serve(ctx, read, nil) }()
	conn, err := net.Dial("udp", udp.LocalAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	for id := range mostQuestions + more {
		<-read.calls // one at a time: none is lost on the way
		conn.Write(question(uint16(id)))
	}
	<-read.calls
	close(release)
	answered := map[uint16]bool{}
	answer := make([]byte, headerSize)
	conn.SetDeadline(time.Now().Add(patience))
	for len(answered) < mostQuestions {
		if _, err := conn.Read(answer); err != nil {
			t.Fatal(err)
		}
		answered[binary.BigEndian.Uint16(answer)] = true
	}
	for id := range answered {
		if id >= mostQuestions {
			t.Errorf("question %d was carried, beyond the most", id)
		}
	}
	// a question's place is free soon after its answer, so this one is asked again like a real client's
	for began := time.Now(); ; {
		conn.Write(question(0xffff))
		conn.SetDeadline(time.Now().Add(time.Second))
		if _, err := conn.Read(answer); err == nil {
			break
		}
		if time.Since(began) > patience {
			t.Fatal("no question is answered after the flood")
		}
	}
	end()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestManyConnections: those beyond the most wait for one to end.
func TestManyConnections(t *testing.T) {
	at := serve(t, newForwarder([]netip.AddrPort{dnsmasq(t)}, slog.New(slog.DiscardHandler)))
	var idle []net.Conn
	for range mostConnections {
		conn, err := net.Dial("tcp", at.String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		idle = append(idle, conn)
	}
	idle[0].Close()
	out, err := exec.CommandContext(t.Context(), "dig", "@"+at.Addr().String(), "-p", fmt.Sprint(at.Port()), "+short", "+tcp", "+time=60", "web.test").CombinedOutput()
	if err != nil || string(out) != "192.0.2.7\n" {
		t.Errorf("%v: %s", err, out)
	}
}

// TestFailures: a socket that fails ends the service with its error, and a forwarder needs somebody to ask.
func TestFailures(t *testing.T) {
	log := slog.New(slog.DiscardHandler)
	udp, tcp := listen(t)
	udp.Close()
	if err := Serve(t.Context(), udp, tcp, []netip.AddrPort{netip.AddrPortFrom(loopback, 9)}, log); err == nil || !strings.Contains(err.Error(), "UDP") {
		t.Errorf("a closed socket: %v", err)
	}
	if _, err := tcp.Accept(); err == nil {
		t.Error("the other socket was left open")
	}
	udp, tcp = listen(t)
	tcp.Close()
	if err := Serve(t.Context(), udp, tcp, []netip.AddrPort{netip.AddrPortFrom(loopback, 9)}, log); err == nil || !strings.Contains(err.Error(), "TCP") {
		t.Errorf("a closed listener: %v", err)
	}
	udp, _ = listen(t)
	if err := Serve(t.Context(), udp, nil, nil, log); err == nil {
		t.Error("nobody to ask: no error")
	}
}

// FuzzConversation: whatever a guest writes, only questions are carried, and the conversation ends.
func FuzzConversation(f *testing.F) {
	f.Add(append([]byte{0, headerSize}, question(7)...))
	f.Add(append([]byte{0, headerSize}, reply(question(7), 0)...))
	f.Add([]byte{0, 0})
	f.Add([]byte{0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, written []byte) {
		here, guest := net.Pipe()
		go func() {
			guest.Write(written)
			guest.Close()
		}()
		go func() {
			for b := make([]byte, 1024); ; {
				if _, err := guest.Read(b); err != nil {
					return
				}
			}
		}()
		newForwarder(nil, slog.New(slog.DiscardHandler)).converse(here, func(q []byte) ([]byte, bool) {
			if !isQuestion(q) {
				t.Errorf("%x is no question", q)
			}
			return reply(q, 0), true
		})
		here.Close()
	})
}

// FuzzAnswers: whatever an upstream sends, only an answer to the question is one.
func FuzzAnswers(f *testing.F) {
	f.Add(reply(question(7), 2))
	f.Add(question(7))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, m []byte) {
		if !answers(m, question(7)) {
			return
		}
		failed(m)
		if !bytes.HasPrefix(m, []byte{0, 7}) {
			t.Errorf("%x has another id", m)
		}
	})
}
