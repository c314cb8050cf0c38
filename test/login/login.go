// Package login logs in to guests over SSH and runs commands in them, for tests.
package login

import (
	"crypto/ed25519"
	"errors"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/vmentry/vmentry/test/transcript"
)

// Key is a pair of SSH keys made for one test.
type Key struct {
	Line string // the public one, as in authorized_keys

	signer ssh.Signer
}

// NewKey makes a pair of keys.
func NewKey(t testing.TB) Key {
	t.Helper()
	_, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	signer, err := ssh.NewSignerFromKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return Key{strings.TrimSpace(string(ssh.MarshalAuthorizedKey(signer.PublicKey()))) + " test", signer}
}

// Auth logs in with the key.
func (k Key) Auth() ssh.AuthMethod { return ssh.PublicKeys(k.signer) }

// Session is a user's login in the guest.
type Session struct {
	HostKey string // fingerprint of the guest's

	t      testing.TB
	client *ssh.Client
}

// Dial logs in at an address. A guest that is ready takes a login, so there is no second try.
func Dial(t testing.TB, address, user string, auth ssh.AuthMethod) *Session {
	t.Helper()
	conn, err := net.DialTimeout("tcp", address, transcript.Patience)
	if err != nil {
		t.Fatalf("ssh %s: %v", user, err)
	}
	return Over(t, conn, user, auth)
}

// Over logs in over a connection, which is closed at the end of the test.
func Over(t testing.TB, conn net.Conn, user string, auth ssh.AuthMethod) *Session {
	t.Helper()
	t.Cleanup(func() { conn.Close() })
	give := time.AfterFunc(transcript.Patience, func() { conn.Close() })
	defer give.Stop()
	s := &Session{t: t}
	c, channels, requests, err := ssh.NewClientConn(conn, "guest", &ssh.ClientConfig{
		User: user, Auth: []ssh.AuthMethod{auth},
		HostKeyCallback: func(_ string, _ net.Addr, k ssh.PublicKey) error {
			s.HostKey = ssh.FingerprintSHA256(k)
			return nil
		},
	})
	if err != nil {
		t.Fatalf("ssh %s: %v", user, err)
	}
	s.client = ssh.NewClient(c, channels, requests)
	return s
}

// Close logs out.
func (s *Session) Close() { s.client.Close() }

// Try runs a command in the guest, and returns what it wrote and its exit code.
func (s *Session) Try(command string) (string, int) {
	s.t.Helper()
	session, err := s.client.NewSession()
	if err != nil {
		s.t.Fatalf("%s: %v", command, err)
	}
	defer session.Close()
	give := time.AfterFunc(transcript.Patience, func() { s.client.Close() })
	defer give.Stop()
	out, err := session.CombinedOutput(command)
	code := 0
	if err != nil {
		failed := new(ssh.ExitError)
		if !errors.As(err, &failed) {
			s.t.Fatalf("%s: %v\n%s", command, err, out)
		}
		code = failed.ExitStatus()
	}
	return strings.TrimSpace(string(out)), code
}

// Says runs a command in the guest that must succeed, and returns what it wrote.
func (s *Session) Says(command string) string {
	s.t.Helper()
	out, code := s.Try(command)
	if code != 0 {
		s.t.Errorf("in the guest: %s: exit code %d\n%s", command, code, out)
	}
	return out
}

// Wants checks what a command in the guest writes.
func (s *Session) Wants(command, want string) {
	s.t.Helper()
	if got := s.Says(command); got != want {
		s.t.Errorf("in the guest: %s: %q, want %q", command, got, want)
	}
}

// Mentions checks that what a command in the guest writes has all of the given words in it.
func (s *Session) Mentions(command string, words ...string) {
	s.t.Helper()
	got := s.Says(command)
	for _, w := range words {
		if !strings.Contains(got, w) {
			s.t.Errorf("in the guest: %s: does not say %q:\n%s", command, w, got)
		}
	}
}
