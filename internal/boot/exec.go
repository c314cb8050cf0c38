package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"

	"golang.org/x/term"

	"github.com/vmentry/vmentry/internal/agent"
	"github.com/vmentry/vmentry/internal/status"
	"github.com/vmentry/vmentry/internal/supervise"
)

// Exit codes of Exec that are not the command's own, as shells (POSIX, 2.8.2) and timeout(1) have them.
const (
	timedOut    = 124
	cannotRun   = 126
	notFound    = 127
	termSignal  = int(syscall.SIGTERM)
	killSignal  = int(syscall.SIGKILL)
	afterSignal = 5 * time.Second // that a command gets to end by a signal
)

// ExecOptions are what a command in the guest is run with.
type ExecOptions struct {
	Timeout time.Duration // 0: none
	NoInput bool          // its standard input is empty
	Env     []string      // NAME=VALUE, all of its environment; none: the agent's own
}

// Exec runs a command in the guest of the run directory's VM and returns its exit code, 128+n if signal n has ended it. Standard input
// is read to its end before, unless it is a terminal, and the outputs come when the command has ended: the agent has them not earlier.
func Exec(signals *supervise.Signals, streams Streams, command []string, o ExecOptions) (code int, err error) {
	runDir := runDir()
	if _, err := status.ReadFacts(runDir); err != nil {
		return 0, fail(supervise.Unavailable, "%w", err)
	}
	program := agent.Program{Path: command[0], Args: command[1:], Env: o.Env}
	ctx, handOver := signals.Until(context.Background())
	if !o.NoInput {
		program.Input, err = readInput(ctx, streams.In)
	}
	handOver()
	if err := stopped(ctx, err); err != nil {
		return 0, err
	}
	a := outsideAgent(runDir)
	defer a.Close()
	// one that is there answers a ping at once; the command itself may be long on its way
	if err := a.Ping(context.Background()); err != nil {
		return 0, agentFailure(runDir, err)
	}
	r := running{agent: a}
	r.pid, err = a.Start(context.Background(), program)
	var refused *agent.CommandError
	if errors.As(err, &refused) {
		return 0, fail(refusalCode(refused), "%s cannot be run in the guest: %s", command[0], refused.Desc)
	}
	if err != nil {
		return 0, agentFailure(runDir, err)
	}
	end, code, err := r.stay(signals, o.Timeout)
	if err != nil {
		return 0, agentFailure(runDir, fmt.Errorf("what becomes of the command, process %d in the guest, is not known: %w", r.pid, err))
	}
	if !end.Exited {
		return code, fail(code, "%s was left behind: it still runs in the guest, as process %d", command[0], r.pid)
	}
	if code == 0 {
		code = end.Code
		if end.Signal != 0 {
			code = supervise.Signalled + end.Signal
		}
	}
	return code, show(streams, end)
}

// refusalCode is the exit code for a program that the agent did not start.
func refusalCode(e *agent.CommandError) int {
	switch {
	case e.Class == "CommandNotFound": // guest-exec itself: switched off, or an old agent's
		return supervise.Unavailable
	case strings.Contains(e.Desc, "No such file"):
		return notFound
	}
	return cannotRun
}

// agentFailure is why the guest's agent could not be asked, with what can be done about it.
func agentFailure(runDir string, err error) error {
	if errors.Is(err, agent.ErrAbsent) {
		return fail(supervise.Unavailable, "%w; install and start qemu-guest-agent in it, or wait until the guest has booted", err)
	}
	if !errors.Is(err, agent.ErrSilent) {
		return fail(supervise.Unavailable, "%w", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), qmpAnswer)
	defer cancel()
	if m, dialErr := dialOutside(ctx, runDir); dialErr == nil {
		defer m.Close()
		if state, stateErr := m.RunState(ctx); stateErr == nil && state != "running" {
			return fail(supervise.Unavailable, "%w: the guest is %s", err, state)
		}
	}
	return fail(supervise.Unavailable, "%w; is qemu-guest-agent installed and running in the guest?", err)
}

// readInput reads what the command gets on its standard input.
func readInput(ctx context.Context, in *os.File) ([]byte, error) {
	if term.IsTerminal(int(in.Fd())) {
		return nil, nil
	}
	type input struct {
		data []byte
		err  error
	}
	read := make(chan input, 1)
	go func() {
		data, err := io.ReadAll(io.LimitReader(in, agent.MaxInput+1))
		read <- input{data, err}
	}()
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case i := <-read:
		if len(i.data) > agent.MaxInput {
			return nil, fail(supervise.Usage, "standard input has more than %d MiB, and the guest's agent takes it in one piece; use ssh for more", agent.MaxInput>>20)
		}
		if i.err != nil {
			return nil, fail(supervise.IOError, "standard input: %w", i.err)
		}
		return i.data, nil
	}
}

// running is a command that runs in the guest.
type running struct {
	agent *agent.Agent
	pid   int64
}

// stay stays with the command until it has ended. A signal, or the end of the time, is passed on to it; if it does not end then it is
// left behind, and has not exited. The code is that of a command that did not come to an end of its own, else 0.
func (r running) stay(signals *supervise.Signals, timeout time.Duration) (end agent.Status, code int, err error) {
	type result struct {
		agent.Status
		err error
	}
	ended := make(chan result, 1)
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	go func() {
		s, err := r.agent.Wait(ctx, r.pid)
		ended <- result{s, err}
	}()
	var late, giveUp <-chan time.Time
	if timeout > 0 {
		late = time.After(timeout)
	}
	for {
		select {
		case e := <-ended:
			return e.Status, code, e.err
		case s := <-signals.C():
			if code != 0 && code != timedOut { // a second one
				return end, code, nil
			}
			number := int(s.(syscall.Signal))
			code, giveUp = supervise.Signalled+number, time.After(afterSignal)
			go r.signal(ctx, number)
		case <-late:
			code, giveUp = timedOut, time.After(2*afterSignal)
			go func() {
				r.signal(ctx, termSignal)
				time.Sleep(afterSignal)
				r.signal(ctx, killSignal)
			}()
		case <-giveUp:
			return end, code, nil
		}
	}
}

func (r running) signal(ctx context.Context, number int) {
	ctx, cancel := context.WithTimeout(ctx, agent.Answer)
	defer cancel()
	r.agent.Signal(ctx, r.pid, number) // it may have ended just now, and a guest need not be a Unix
}

// show writes what the command has written.
func show(streams Streams, end agent.Status) error {
	_, outErr := streams.Out.Write(end.Out)
	_, errErr := streams.Err.Write(end.Err)
	for _, o := range []struct {
		name string
		cut  bool
	}{{"output", end.OutCut}, {"error output", end.ErrCut}} {
		if o.cut {
			fmt.Fprintf(streams.Err, "vmentry: warning: the command's %s was longer than the %d MiB that the guest's agent keeps: the rest is lost\n", o.name, agent.MaxOutput>>20)
		}
	}
	if err := errors.Join(outErr, errErr); err != nil {
		return fail(supervise.IOError, "the command's output cannot be written: %w", err)
	}
	return nil
}
