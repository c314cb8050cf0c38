package confine

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
)

// listening is the address of a port that takes every connection.
func listening(t *testing.T) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

// dial is a shell's command that connects.
func dial(network string, to netip.AddrPort) string {
	return fmt.Sprintf("exec 3<>/dev/%s/%s/%d", network, to.Addr(), to.Port())
}

// atGuard tries to send signals to each thread of who has started the program, and to learn its limits.
const atGuard = "for t in /proc/$PPID/task/*; do kill -0 ${t##*/} 2>/dev/null && echo signals; prlimit --nofile --pid ${t##*/} >/dev/null 2>&1 && echo limits; done"

// TestGuard: a program connects where its guard lets it, and meets nobody elsewhere, whoever's it is. Another user's program has no power over its guard.
func TestGuard(t *testing.T) {
	for name, user := range map[string]*User{"the same user": nil, "another user": {UID: 60001, GID: 60001}} {
		t.Run(name, func(t *testing.T) {
			open, closed := listening(t), listening(t)
			var mu sync.Mutex
			var asked []string
			g := &Guard{User: user, Allow: func(c Connection) bool {
				mu.Lock()
				defer mu.Unlock()
				asked = append(asked, c.To.String())
				return c.To != closed
			}}
			script := fmt.Sprintf("(%s) && echo open; (%s) 2>&1 || echo closed; (%s) && echo datagram; %s", dial("tcp", open), dial("tcp", closed), dial("udp", open), atGuard)
			read, write, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer read.Close()
			program, err := startIn(Cell{User: user, Strip: true, Guard: g}, []string{"/bin/bash", "-c", script}, write)
			write.Close()
			if err == nil {
				err = g.Start()
			}
			if err != nil {
				t.Fatal(err)
			}
			said, err := io.ReadAll(read)
			if err != nil {
				t.Fatal(err)
			}
			program.await()
			if said := string(said); !strings.Contains(said, "open\n") || !strings.Contains(said, "Connection refused") || !strings.Contains(said, "\nclosed\n") || !strings.Contains(said, "datagram\n") {
				t.Errorf("the program says:\n%s", said)
			} else if power := strings.Contains(said, "signals") || strings.Contains(said, "limits"); power != (user == nil) {
				t.Errorf("power over the guard: %v; the program says:\n%s", power, said)
			}
			mu.Lock()
			defer mu.Unlock()
			if want := []string{open.String(), closed.String(), open.String()}; strings.Join(asked, " ") != strings.Join(want, " ") {
				t.Errorf("the guard was asked about %q, want %q", asked, want)
			}
		})
	}
}

// TestNoNetwork: a program whose packets are somebody else's makes no connection of its own.
func TestNoNetwork(t *testing.T) {
	const tcp = 4 // Landlock's first version that knows it
	if Landlock() < tcp {
		t.Skipf("this kernel's Landlock has version %d, which does not know TCP", Landlock())
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	at := listening(t)
	for _, none := range []bool{false, true} {
		command := Cell{Reach: Reach{Read: []string{"/etc"}}, NoNetwork: none}.Around(self, []string{"/bin/bash", "-c", dial("tcp", at)})
		if out, err := exec.Command(command[0], command[1:]...).CombinedOutput(); (err != nil) != none {
			t.Errorf("no network: %v: %v: %s", none, err, out)
		}
	}
}
