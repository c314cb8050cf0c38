package container

import (
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/vmentry/vmentry/test/login"
)

// session is a user's login in the Debian guest.
type session struct {
	*login.Session
	t *testing.T
}

// login waits until the guest is ready, and logs in through the forwarded port 2222.
func (m *machine) login(user string, auth ssh.AuthMethod) session {
	m.t.Helper()
	m.stderr.Await(m.t, "INF ready")
	return m.loginAt(m.port("2222"), user, auth)
}

// loginAt logs in at an address.
func (m *machine) loginAt(address, user string, auth ssh.AuthMethod) session {
	m.t.Helper()
	return session{login.Dial(m.t, address, user, auth), m.t}
}

// port is where the container's port is published.
func (m *machine) port(port string) string {
	m.t.Helper()
	return strings.TrimSpace(m.engine("port", m.name, port+"/tcp"))
}

// published publishes ports of the container on free ports of the loopback address.
func published(ports ...string) []string {
	var options []string
	for _, p := range ports {
		options = append(options, "--publish", "127.0.0.1::"+p)
	}
	return options
}
