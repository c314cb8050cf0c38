package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/listen"
)

// freezer is an agent that can freeze.
type freezer struct {
	mu     sync.Mutex
	frozen bool
	thaws  int
	fail   map[string]int // so many of each command fail first
	mute   map[string]int // so many of each are carried out and not answered
}

func (f *freezer) answer(w io.Writer, r asked) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fail[r.Execute] > 0 {
		f.fail[r.Execute]--
		fmt.Fprintln(w, `{"error": {"class": "GenericError", "desc": "not now"}}`)
		return
	}
	f.frozen = r.Execute == "guest-fsfreeze-freeze"
	if r.Execute == "guest-fsfreeze-thaw" {
		f.thaws++
	}
	if f.mute[r.Execute] > 0 {
		f.mute[r.Execute]--
		return
	}
	fmt.Fprintln(w, `{"return": 1}`)
}

func (f *freezer) isFrozen() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.frozen
}

func TestWhileFrozen(t *testing.T) {
	failed := errors.New("failed")
	tests := []struct {
		name     string
		freezer  *freezer
		cancel   bool // while frozen
		do       error
		ran      bool
		freezing bool // the error is one of freezing
	}{
		{name: "OK", freezer: &freezer{}, ran: true},
		{name: "OK it fails", freezer: &freezer{}, do: failed, ran: true},
		{name: "OK it is given up", freezer: &freezer{}, cancel: true, ran: true},
		{name: "OK thawed at the third attempt", freezer: &freezer{fail: map[string]int{"guest-fsfreeze-thaw": 2}}, ran: true},
		{name: "bad cannot freeze", freezer: &freezer{fail: map[string]int{"guest-fsfreeze-freeze": 1}}, freezing: true},
		{name: "bad freezes without a word", freezer: &freezer{mute: map[string]int{"guest-fsfreeze-freeze": 1}}, freezing: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			a := client(t, listen.Unix(t, obeys(tt.freezer.answer)))
			ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
			defer cancel()
			ran := false
			err := a.WhileFrozen(ctx, func(context.Context) error {
				ran = true
				if !tt.freezer.isFrozen() {
					t.Error("it is not frozen")
				}
				if tt.cancel {
					cancel()
				}
				return tt.do
			})
			if ran != tt.ran || errors.Is(err, failed) != (tt.do != nil) || errors.As(err, new(*FreezeError)) != tt.freezing {
				t.Errorf("ran %v, %v", ran, err)
			}
			if tt.freezer.isFrozen() {
				t.Error("it is frozen still")
			}
		})
	}
}

// TestFreezeWithoutQEMU does not wait for a QEMU that has gone.
func TestFreezeWithoutQEMU(t *testing.T) {
	f := &freezer{}
	path := filepath.Join(t.TempDir(), "agent.sock")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 1)
	go func() {
		conn, err := l.Accept()
		if err == nil {
			conns <- conn
			obeys(f.answer)(conn)
		}
	}()
	failed := errors.New("QEMU has gone")
	err = client(t, path).WhileFrozen(soon(t), func(context.Context) error {
		l.Close()
		(<-conns).Close()
		return failed
	})
	if !errors.Is(err, failed) || errors.Is(err, ErrNotThawed) {
		t.Error(err)
	}
}

// TestNobodyAsksWhileFrozen: an agent refuses most while it is frozen, so whoever asks waits.
func TestNobodyAsksWhileFrozen(t *testing.T) {
	f := &freezer{}
	relay, owner := relayed(t, obeys(f.answer))
	answered := make(chan error, 1)
	err := owner.WhileFrozen(soon(t), func(context.Context) error {
		go func() { answered <- client(t, relay).Ping(soon(t)) }()
		select {
		case err := <-answered:
			return fmt.Errorf("it was asked: %w", err)
		case <-time.After(100 * time.Millisecond):
			return nil
		}
	})
	if err != nil {
		t.Error(err)
	}
	if err := <-answered; err != nil {
		t.Error(err)
	}
}
