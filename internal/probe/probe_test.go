package probe

import (
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/listen"
)

func TestAsk(t *testing.T) {
	for _, c := range []struct {
		name, answer string
		yes          bool
		reason       string
		ok           bool
	}{
		{"yes", "HTTP/1.0 200 OK\r\nA: b\r\n\r\nyes: the guest runs\n", true, "yes: the guest runs", true},
		{"no", "HTTP/1.1 503 Service Unavailable\r\n\r\nno: it does not\n", false, "no: it does not", true},
		{"no reason", "HTTP/1.0 200 OK\r\n\r\n", true, "", true},
		{"bad another code", "HTTP/1.0 404 Not Found\r\n\r\n404 page not found\n", false, "", false},
		{"bad half a head", "HTTP/1.0 200 OK\r\nA:", false, "", false},
		{"bad nothing", "", false, "", false},
		{"bad no HTTP", "220 hello\r\n\r\nx", false, "", false},
		{"bad too much", "HTTP/1.0 200 OK\r\n\r\n" + strings.Repeat("x", maxAnswer), false, "", false},
	} {
		t.Run(c.name, func(t *testing.T) {
			asked := make(chan string, 1)
			path := listen.Unix(t, func(conn net.Conn) {
				b := make([]byte, 100)
				n, _ := conn.Read(b)
				asked <- string(b[:n])
				for _, part := range strings.SplitAfter(c.answer, "\r\n") { // in pieces, as a network may
					io.WriteString(conn, part)
				}
			})
			yes, reason, ok := ask(path, "/readyz", time.Minute)
			if yes != c.yes || string(reason) != c.reason || ok != c.ok {
				t.Errorf("%v, %q, %v", yes, reason, ok)
			}
			if got, want := <-asked, "GET /readyz HTTP/1.0\r\n\r\n"; got != want {
				t.Errorf("asked %q", got)
			}
		})
	}
}

// TestNobody: where nobody listens it is for others to say why.
func TestNobody(t *testing.T) {
	if _, _, ok := ask(filepath.Join(t.TempDir(), "s"), "/readyz", time.Minute); ok {
		t.Error("there is an answer from nobody")
	}
	if _, _, ok := ask("/"+strings.Repeat("x", 200), "/readyz", time.Minute); ok {
		t.Error("there is an answer from a path that no socket can have")
	}
}

func TestSilence(t *testing.T) {
	end := make(chan struct{})
	defer close(end)
	path := listen.Unix(t, func(net.Conn) { <-end })
	if yes, reason, ok := ask(path, "/readyz", 50*time.Millisecond); yes || string(reason) != Silence || !ok {
		t.Errorf("%v, %q, %v", yes, reason, ok)
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte("HTTP/1.0 200 OK\r\n\r\nyes"))
	f.Add([]byte("HTTP/1.0 200"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if yes, reason, ok := parse(b); yes && !ok || !ok && reason != nil || len(reason) > len(b) {
			t.Errorf("%v, %q, %v", yes, reason, ok)
		}
	})
}
