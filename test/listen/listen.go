// Package listen has what tests let a client speak with.
package listen

import (
	"net"
	"path/filepath"
	"testing"
)

// Unix listens at a Unix socket until the end of the test, and serves one client after the other, as QEMU does. It returns the socket's path.
func Unix(t testing.TB, serve func(net.Conn)) (path string) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			serve(conn)
			conn.Close()
		}
	}()
	return path
}
