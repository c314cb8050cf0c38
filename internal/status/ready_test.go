package status

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"
)

// fakeGuest stands for a QEMU's answers; the connection itself is a real one.
type fakeGuest struct {
	state    string
	stateErr error
	openErr  error
	addr     netip.AddrPort
	accepted func() (bool, error)
	agent    func(command []string) error
	closed   int

	interfaces []Interface
}

func (g *fakeGuest) RunState(context.Context) (string, error) { return g.state, g.stateErr }
func (g *fakeGuest) Open(context.Context, uint16) (Way, error) {
	if g.openErr != nil {
		return nil, g.openErr
	}
	return g, nil
}
func (g *fakeGuest) Agent(_ context.Context, command []string) error { return g.agent(command) }
func (g *fakeGuest) Interfaces(context.Context) []Interface          { return g.interfaces }
func (g *fakeGuest) Addr() netip.AddrPort                            { return g.addr }
func (g *fakeGuest) Accepted(context.Context) (bool, error)          { return g.accepted() }
func (g *fakeGuest) Close()                                          { g.closed++ }

// listen accepts connections as QEMU does, before any guest has, and does with them what the test says.
func listen(t *testing.T, serve func(net.Conn)) netip.AddrPort {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
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
			serve(c)
		}
	}()
	return l.Addr().(*net.TCPAddr).AddrPort()
}

func TestCheck(t *testing.T) {
	never := func() (bool, error) { return false, nil }
	silent := listen(t, func(net.Conn) {})
	speaking := listen(t, func(c net.Conn) { c.Write([]byte("SSH-2.0")) })
	hanging := listen(t, func(c net.Conn) { c.Close() })
	tests := []struct {
		name  string
		port  uint16
		guest fakeGuest
		want  bool
		says  string
	}{
		{"OK it runs, and that is enough", 0, fakeGuest{state: "running"}, true, "running"},
		{"OK the guest speaks", 22, fakeGuest{state: "running", addr: speaking, accepted: never}, true, "speaks"},
		{"OK the guest has accepted", 22, fakeGuest{state: "running", addr: silent, accepted: func() (bool, error) { return true, nil }}, true, "accepts"},
		{"bad paused", 22, fakeGuest{state: "paused", addr: speaking, accepted: never}, false, "paused"},
		{"bad no QMP", 22, fakeGuest{stateErr: errors.New("gone")}, false, "does not answer: gone"},
		{"bad no way", 22, fakeGuest{state: "running", openErr: errors.New("no network")}, false, "no network"},
		{"bad accepted by QEMU alone", 22, fakeGuest{state: "running", addr: silent, accepted: never}, false, "does not answer on port 22"},
		{"bad refused by the guest", 22, fakeGuest{state: "running", addr: hanging, accepted: never}, false, "nothing listens"},
		{"bad table unknown", 22, fakeGuest{state: "running", addr: silent, accepted: func() (bool, error) { return false, errors.New("no table") }}, false, "no table"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
			defer cancel()
			ready, reason := Condition{Port: tt.port}.Check(ctx, &tt.guest)
			if ready != tt.want || !strings.Contains(reason, tt.says) {
				t.Errorf("%v, %q; want %v and %q", ready, reason, tt.want, tt.says)
			}
			if opened := tt.guest.addr.IsValid() && tt.guest.state == "running"; opened && tt.guest.closed == 0 {
				t.Error("the way was left open")
			}
		})
	}
}

// TestCheckAtAddresses: a guest with several addresses is ready where it accepts at one of them.
func TestCheckAtAddresses(t *testing.T) {
	there := listen(t, func(net.Conn) {})
	nobody := netip.MustParseAddr("127.0.0.3")
	for _, tt := range []struct {
		name  string
		guest []netip.Addr
		want  bool
		says  string
	}{
		{"OK the first", []netip.Addr{there.Addr(), nobody}, true, "accepts"},
		{"OK the last", []netip.Addr{nobody, there.Addr()}, true, "accepts"},
		{"bad none", []netip.Addr{nobody, nobody.Next()}, false, "nothing listens"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ready, reason := Condition{Port: there.Port(), Guest: tt.guest}.Check(t.Context(), &fakeGuest{state: "running"})
			if ready != tt.want || !strings.Contains(reason, tt.says) {
				t.Errorf("%v, %q; want %v and %q", ready, reason, tt.want, tt.says)
			}
		})
	}
}

func TestCheckAgent(t *testing.T) {
	command := []string{"systemctl", "is-system-running"}
	for _, tt := range []struct {
		name    string
		command []string
		err     error
		want    bool
		says    string
	}{
		{"OK it answers", nil, nil, true, "agent answers"},
		{"OK it succeeds", command, nil, true, "systemctl succeeds"},
		{"bad no answer", nil, errors.New("does not answer"), false, "does not answer"},
		{"bad it fails", command, errors.New("its exit code is 1"), false, "systemctl does not succeed in the guest: its exit code is 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			g := &fakeGuest{state: "running", agent: func(c []string) error {
				if !reflect.DeepEqual(c, tt.command) {
					t.Errorf("asked with %q", c)
				}
				return tt.err
			}}
			ready, reason := Condition{Agent: true, Command: tt.command}.Check(context.Background(), g)
			if ready != tt.want || !strings.Contains(reason, tt.says) {
				t.Errorf("%v, %q; want %v and %q", ready, reason, tt.want, tt.says)
			}
		})
	}
}

func TestFacts(t *testing.T) {
	dir := t.TempDir()
	if _, err := ReadFacts(dir); !errors.Is(err, ErrNoVM) {
		t.Errorf("nothing there: %v", err)
	}
	want := Facts{Name: "vm", PID: 1, Started: time.Unix(1, 0).UTC(), Mode: "user", Ready: Condition{Port: 22, Agent: true, Command: []string{"true"}}}
	for range 2 {
		if err := want.Write(dir); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := ReadFacts(dir); !reflect.DeepEqual(got, want) || err != nil {
		t.Errorf("%+v, %v", got, err)
	}
	os.Remove(filepath.Join(dir, factsFile))
	if _, err := ReadFacts(dir); !errors.Is(err, ErrNoVM) {
		t.Errorf("after the removal: %v", err)
	}
}
