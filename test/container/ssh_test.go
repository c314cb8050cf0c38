package container

import (
	"crypto/ed25519"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/transcript"
	"golang.org/x/crypto/ssh"
)

// key is a pair of SSH keys made for one test.
type key struct {
	signer ssh.Signer
	line   string // as in authorized_keys
}

func newKey(t *testing.T) key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return key{signer, strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " test"}
}

func (k key) auth() ssh.AuthMethod { return ssh.PublicKeys(k.signer) }

// login is a user's session in the guest.
type login struct {
	t       *testing.T
	client  *ssh.Client
	hostKey string
}

// login waits until the guest is ready, and logs in through the forwarded port 2222.
func (m *machine) login(user string, auth ssh.AuthMethod) *login {
	m.t.Helper()
	m.stderr.Await(m.t, "INF ready")
	return m.loginAt(m.port("2222"), user, auth)
}

// loginAt logs in at an address.
func (m *machine) loginAt(address, user string, auth ssh.AuthMethod) *login {
	m.t.Helper()
	l := &login{t: m.t}
	config := &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{auth}, Timeout: transcript.Patience,
		HostKeyCallback: func(_ string, _ net.Addr, k ssh.PublicKey) error {
			l.hostKey = ssh.FingerprintSHA256(k)
			return nil
		},
	}
	// Ready means that a login works, so there is no second try.
	var err error
	l.client, err = ssh.Dial("tcp", address, config)
	if err != nil {
		m.t.Fatalf("ssh %s: %v", user, err)
	}
	m.t.Cleanup(func() { l.client.Close() })
	return l
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

// try runs a command in the guest, and returns what it wrote and its exit code.
func (l *login) try(command string) (string, int) {
	l.t.Helper()
	session, err := l.client.NewSession()
	if err != nil {
		l.t.Fatalf("%s: %v", command, err)
	}
	defer session.Close()
	give := time.AfterFunc(transcript.Patience, func() { l.client.Close() })
	defer give.Stop()
	out, err := session.CombinedOutput(command)
	code := 0
	if err != nil {
		failed := new(ssh.ExitError)
		if !errors.As(err, &failed) {
			l.t.Fatalf("%s: %v\n%s", command, err, out)
		}
		code = failed.ExitStatus()
	}
	return strings.TrimSpace(string(out)), code
}

// says runs a command in the guest that must succeed, and returns what it wrote.
func (l *login) says(command string) string {
	l.t.Helper()
	out, code := l.try(command)
	if code != 0 {
		l.t.Errorf("in the guest: %s: exit code %d\n%s", command, code, out)
	}
	return out
}

// wants checks what a command in the guest writes.
func (l *login) wants(command, want string) {
	l.t.Helper()
	if got := l.says(command); got != want {
		l.t.Errorf("in the guest: %s: %q, want %q", command, got, want)
	}
}

// mentions checks that what a command in the guest writes has all of the given words in it.
func (l *login) mentions(command string, words ...string) {
	l.t.Helper()
	got := l.says(command)
	for _, w := range words {
		if !strings.Contains(got, w) {
			l.t.Errorf("in the guest: %s: does not say %q:\n%s", command, w, got)
		}
	}
}
