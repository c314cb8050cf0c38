package supervise

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// reaper is the one of this test process: as in the program, nothing else may wait.
var reaper = sync.OnceValue(NewReaper)

func start(t *testing.T, script string) *Process {
	t.Helper()
	p, err := reaper().Start(Command{Path: "/bin/sh", Args: []string{"-c", script}, Env: os.Environ()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	return p
}

// panel is a machine's front panel whose buttons do what the test says.
type panel struct {
	mu              sync.Mutex
	presses         int
	powerdown, quit func(press int) error
}

func (p *panel) Powerdown(ctx context.Context) error {
	p.mu.Lock()
	p.presses++
	n := p.presses
	p.mu.Unlock()
	if p.powerdown == nil {
		return nil
	}
	return p.powerdown(n)
}
func (p *panel) Resume(context.Context) error { return nil }
func (p *panel) Quit(ctx context.Context) error {
	if p.quit == nil {
		<-ctx.Done() // hangs
		return ctx.Err()
	}
	return p.quit(0)
}

// TestLadderSecondWay: a guest that does not heed its button is asked in another way before it is forced off.
func TestLadderSecondWay(t *testing.T) {
	vm := start(t, "exec sleep 1000")
	var asked atomic.Int32
	ladder := Ladder{
		Timeout: 3 * time.Second, Press: time.Hour, Flush: time.Minute, Answer: time.Second, Log: slog.New(slog.NewTextHandler(io.Discard, nil)),
		Second: func(context.Context) error {
			asked.Add(1)
			vm.Kill()
			return nil
		},
	}
	if forced := ladder.Descend(vm, &panel{}, syscall.SIGTERM, nil); forced != "" || asked.Load() != 1 {
		t.Errorf("forced %q, asked %d times", forced, asked.Load())
	}
}

// TestLadderSaysWhatFailed: a button that cannot be pressed is said, and not of a machine that has just gone off.
func TestLadderSaysWhatFailed(t *testing.T) {
	for _, last := range []int{1, 2} { // the press at which the machine goes off
		vm := start(t, "exec sleep 1000")
		var log strings.Builder
		ladder := Ladder{Timeout: time.Minute, Press: 50 * time.Millisecond, Flush: time.Minute, Answer: time.Second, Log: slog.New(slog.NewTextHandler(&log, nil))}
		buttons := &panel{powerdown: func(press int) error {
			if press == last {
				vm.Kill()
				<-vm.Done()
			}
			return errors.New("broken")
		}}
		if forced := ladder.Descend(vm, buttons, syscall.SIGTERM, nil); forced != "" {
			t.Errorf("forced off: %s", forced)
		}
		if said := strings.Contains(log.String(), "could not be pressed"); said != (last == 2) {
			t.Errorf("off at press %d: %s", last, log.String())
		}
	}
}

func TestLadder(t *testing.T) {
	const (
		waits    = "exec sleep 1000"
		deaf     = "trap '' TERM; while :; do sleep 0.05; done"
		flushing = "trap 'exit 0' TERM; while :; do sleep 0.02; done"
	)
	tests := []struct {
		name    string
		script  string
		panel   func(*Process) *panel
		signals []os.Signal // that arrive while stopping
		first   os.Signal
		timeout time.Duration
		unfed   bool   // the guest hangs
		forced  string // part of the reason; "" is not forced
		status  func(syscall.WaitStatus) bool
	}{
		{name: "first press is heeded", script: waits, first: syscall.SIGTERM, timeout: time.Minute,
			panel:  func(vm *Process) *panel { return &panel{powerdown: func(int) error { vm.Kill(); return nil }} },
			status: syscall.WaitStatus.Signaled},
		{name: "third press is heeded", script: waits, first: syscall.SIGTERM, timeout: time.Minute,
			panel: func(vm *Process) *panel {
				return &panel{powerdown: func(n int) error {
					if n == 3 {
						vm.Kill()
					}
					return nil
				}}
			},
			status: syscall.WaitStatus.Signaled},
		{name: "never heeded, quits", script: waits, first: syscall.SIGTERM, timeout: 50 * time.Millisecond, forced: "did not shut down within 50ms",
			panel:  func(vm *Process) *panel { return &panel{quit: func(int) error { vm.Kill(); return nil }} },
			status: syscall.WaitStatus.Signaled},
		{name: "QMP dead, SIGTERM flushes", script: flushing, first: syscall.SIGTERM, timeout: 50 * time.Millisecond, forced: "did not shut down",
			panel: func(*Process) *panel {
				return &panel{powerdown: func(int) error { return errors.New("gone") }, quit: func(int) error { return errors.New("gone") }}
			},
			status: func(s syscall.WaitStatus) bool { return s.Exited() && s.ExitStatus() == 0 }},
		{name: "QMP hangs, deaf to SIGTERM, killed", script: deaf, first: syscall.SIGTERM, timeout: 50 * time.Millisecond, forced: "did not shut down",
			panel:  func(*Process) *panel { return &panel{} },
			status: func(s syscall.WaitStatus) bool { return s.Signaled() && s.Signal() == syscall.SIGKILL }},
		{name: "second SIGINT does not wait", script: waits, first: syscall.SIGINT, timeout: time.Hour, forced: "second SIGINT",
			signals: []os.Signal{syscall.SIGTERM, syscall.SIGINT},
			panel:   func(vm *Process) *panel { return &panel{quit: func(int) error { vm.Kill(); return nil }} },
			status:  syscall.WaitStatus.Signaled},
		{name: "hangs by its watchdog, is not waited for", script: waits, first: syscall.SIGTERM, timeout: time.Hour, unfed: true, forced: "watchdog",
			panel:  func(vm *Process) *panel { return &panel{quit: func(int) error { vm.Kill(); return nil }} },
			status: syscall.WaitStatus.Signaled},
		{name: "SIGINT after SIGTERM waits", script: "sleep 0.3", first: syscall.SIGTERM, timeout: time.Hour,
			signals: []os.Signal{syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP},
			panel:   func(*Process) *panel { return &panel{} },
			status:  syscall.WaitStatus.Exited},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			vm := start(t, tt.script)
			signals := make(chan os.Signal, 8)
			for _, s := range tt.signals {
				signals <- s
			}
			l := Ladder{Timeout: tt.timeout, Press: 20 * time.Millisecond, Flush: 500 * time.Millisecond, Answer: 20 * time.Millisecond,
				Log: slog.New(slog.NewTextHandler(io.Discard, nil))}
			if tt.unfed {
				c := make(chan struct{}, 1)
				c <- struct{}{}
				l.Unfed = c
			}
			forced := l.Descend(vm, tt.panel(vm), tt.first, signals)
			if (tt.forced == "") != (forced == "") || !strings.Contains(forced, tt.forced) {
				t.Errorf("forced: %q, want %q", forced, tt.forced)
			}
			select {
			case <-vm.Done():
			default:
				t.Fatal("the ladder returned and the VM is still there")
			}
			if !tt.status(vm.Status()) {
				t.Errorf("status %#x", vm.Status())
			}
		})
	}
}

// TestReaper starts many at once; every status must arrive at its own process, among orphans that nobody asked for.
func TestReaper(t *testing.T) {
	var all sync.WaitGroup
	for i := range 200 {
		all.Add(1)
		go func() {
			defer all.Done()
			code := i % 200
			p := start(t, "(sleep 0.01; exit 9) & exit "+string([]byte{'0' + byte(code/100), '0' + byte(code/10%10), '0' + byte(code%10)}))
			if got := p.Status().ExitStatus(); got != code {
				t.Errorf("process %d: status %d, want %d", p.PID, got, code)
			}
		}()
	}
	all.Wait()
}

func TestStartOfNothing(t *testing.T) {
	_, err := reaper().Start(Command{Path: "/no/such/program"})
	if !errors.Is(err, syscall.ENOENT) || !strings.Contains(err.Error(), "/no/such/program") {
		t.Errorf("got %v", err)
	}
}

func TestUntil(t *testing.T) {
	s := &Signals{ch: make(chan os.Signal, 8)}
	ctx, end := s.Until(context.Background())
	s.ch <- syscall.SIGHUP
	<-ctx.Done()
	var stop Stop
	if !errors.As(context.Cause(ctx), &stop) || stop.Error() != "stopped by SIGHUP" {
		t.Errorf("cause %v", context.Cause(ctx))
	}
	end()

	ctx, end = s.Until(context.Background())
	end()
	s.ch <- syscall.SIGTERM
	if got := <-s.C(); got != syscall.SIGTERM || ctx.Err() != nil {
		t.Errorf("a signal after the end of the watch was used up: %v, %v", got, ctx.Err())
	}
}
