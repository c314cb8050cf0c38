package supervise

import (
	"context"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// stalling is a QEMU whose guest writes to disks of so many free bytes and is paused when one is full.
type stalling struct {
	mu     sync.Mutex
	state  string
	free   map[string]int64 // a disk that is not in it says nothing
	needs  map[string]int64 // what a write needs; the write is tried when the guest is resumed
	held   bool
	tries  int
	silent bool // tells no second time of an error
	full   chan string
	said   chan string
}

func (g *stalling) RunState(context.Context) (string, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.state, nil
}

func (g *stalling) Resume(context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.tries++
	g.state = "running"
	g.write()
	return nil
}

// write does the writes, with g.mu held.
func (g *stalling) write() {
	for disk, need := range g.needs {
		if g.free[disk] >= need {
			continue
		}
		g.state = ioError
		if !g.silent || g.tries == 0 {
			g.full <- disk
		}
	}
}

// change changes something while the guest is watched.
func (g *stalling) change(f func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	f()
}

// watched starts the watch, with a guest that is paused at once.
func watched(t *testing.T, g *stalling, blind time.Duration) {
	t.Helper()
	g.full, g.said = make(chan string, 100), make(chan string, 100)
	s := Space{
		Guest: g,
		Free: func(disk string) (int64, bool) {
			g.mu.Lock()
			defer g.mu.Unlock()
			free, ok := g.free[disk]
			return free, ok
		},
		Held: func() bool {
			g.mu.Lock()
			defer g.mu.Unlock()
			return g.held
		},
		Full:  func(disk string) { g.said <- "full " + disk },
		Freed: func(time.Duration) { g.said <- "freed" },
		Pace:  SpacePace{Look: time.Millisecond, Slowest: 4 * time.Millisecond, Blind: blind, Settle: 5 * time.Millisecond, Answer: time.Second},
		Log:   slog.New(slog.NewTextHandler(io.Discard, nil)),
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.Run(ctx, g.full)
	}()
	t.Cleanup(func() { cancel(); <-ended })
	g.change(g.write)
}

// says waits for what is said next.
func (g *stalling) says(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-g.said:
		if got != want {
			t.Fatalf("said %q, want %q", got, want)
		}
	case <-time.After(time.Minute):
		t.Fatalf("%q is not said", want)
	}
}

func (g *stalling) tried() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.tries
}

const mb = 1 << 20

func TestSpaceGoesOn(t *testing.T) {
	g := &stalling{free: map[string]int64{"a": 0}, needs: map[string]int64{"a": 4 * mb}}
	watched(t, g, time.Hour)
	g.says(t, "full a")
	g.change(func() { g.free["a"] = mb / 2 })
	time.Sleep(20 * time.Millisecond)
	if n := g.tried(); n != 0 {
		t.Errorf("resumed %d times for half a megabyte", n)
	}
	g.change(func() { g.free["a"] = 2 * mb }) // not enough, but that is for QEMU to find out
	for g.tried() == 0 {
		time.Sleep(time.Millisecond)
	}
	g.change(func() { g.free["a"] = 8 * mb })
	g.says(t, "freed")
	// The next time is told anew.
	g.change(func() { g.free["a"] = 0; g.write() })
	g.says(t, "full a")
}

func TestSpaceOfSeveralDisks(t *testing.T) {
	g := &stalling{free: map[string]int64{"a": 0, "b": 0}, needs: map[string]int64{"a": mb, "b": mb}}
	watched(t, g, time.Hour)
	first, second := <-g.said, <-g.said
	if all := []string{first, second}; !slices.Contains(all, "full a") || !slices.Contains(all, "full b") {
		t.Fatalf("said %q", all)
	}
	g.change(func() { g.free["a"] = 2 * mb })
	for g.tried() == 0 { // a has space and b has not: it is paused again, and nothing is told twice
		time.Sleep(time.Millisecond)
	}
	g.change(func() { g.free["b"] = 2 * mb })
	g.says(t, "freed")
}

// TestSpaceThatIsNotSeen: a thin volume does not say how full it is, and neither does a quota.
func TestSpaceThatIsNotSeen(t *testing.T) {
	for name, free := range map[string]map[string]int64{"not known": {}, "always the same": {"a": 7}} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			g := &stalling{free: free, needs: map[string]int64{"a": mb}, silent: true}
			watched(t, g, 10*time.Millisecond)
			g.says(t, "full a")
			for g.tried() < 3 {
				time.Sleep(time.Millisecond)
			}
			g.change(func() { g.needs = nil })
			g.says(t, "freed")
		})
	}
}

// TestSpaceOfAGuestThatIsHeld: what somebody has paused stays paused, whether QEMU knows it or not.
func TestSpaceOfAGuestThatIsHeld(t *testing.T) {
	for name, hold := range map[string]func(*stalling){
		"before it was full": func(g *stalling) { g.state = "paused" },
		"while it was full":  func(g *stalling) { g.held = true },
	} {
		t.Run(strings.ReplaceAll(name, " ", "-"), func(t *testing.T) {
			g := &stalling{free: map[string]int64{"a": 0}, needs: map[string]int64{"a": mb}}
			watched(t, g, 10*time.Millisecond)
			g.change(func() { hold(g); g.tries = 0 })
			g.says(t, "full a")
			g.change(func() { g.tries = 0; g.free["a"] = 9 * mb })
			time.Sleep(50 * time.Millisecond)
			if n := g.tried(); n != 0 {
				t.Errorf("resumed %d times", n)
			}
			g.change(func() { g.held = false })
			g.Resume(t.Context()) // by whoever has paused it
			g.says(t, "freed")
		})
	}
}
