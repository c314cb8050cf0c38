package test

import (
	"io"
	"net"
	"strconv"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/transcript"
)

// port is a TCP port that nobody listens on.
func port(t testing.TB) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

// dial reads what a port says until it hangs up.
func dial(t *testing.T, port int) string {
	t.Helper()
	c, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(transcript.Patience))
	b, err := io.ReadAll(c)
	if err != nil {
		t.Errorf("port %d: %v", port, err)
	}
	return string(b)
}
