package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/vmentry/vmentry/internal/agent"
)

const (
	agentRequest = time.Minute // that one request of somebody from outside may take
	setTimeAgain = 5 * time.Second
	setTimeTries = 5
)

// guestAgent is the supervisor's own way to the guest's agent, and what it knows of the guest for that.
type guestAgent struct {
	*agent.Agent
	log      *slog.Logger
	ownClock bool // the guest lives in another time, by the user's will

	there   atomic.Bool   // it has opened its port
	paused  bool          // the guest; for those who hear QEMU's events
	resumed chan struct{} // holds something when the guest was resumed
}

func newGuestAgent(p Plan, log *slog.Logger) *guestAgent {
	g := &guestAgent{log: log, resumed: make(chan struct{}, 1)}
	g.ownClock = slices.ContainsFunc(p.Machine.ExtraArgs, func(s string) bool { return strings.TrimLeft(s, "-") == "rtc" })
	g.Agent = &agent.Agent{Dial: agent.Dialer(p.file(agentSocket)), There: g.there.Load}
	return g
}

// event takes what QEMU says: that the guest was paused or goes on, or that it has opened or closed a port.
func (g *guestAgent) event(name, port string, open bool) {
	switch {
	case name == "VSERPORT_CHANGE" && port == "agent-port":
		g.there.Store(open)
	case name == "STOP":
		g.paused = true
	case name == "RESUME" && g.paused: // and not the first time
		g.paused = false
		select {
		case g.resumed <- struct{}{}:
		default:
		}
	}
}

// serve lets those from outside ask the guest's agent until ctx ends; wait returns when nothing of it is left.
func (g *guestAgent) serve(ctx context.Context, p Plan) (wait func(), err error) {
	l, err := p.listen(agentRelay, g.log)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		agent.Relay{Agent: g.Agent, Within: agentRequest}.Serve(ctx, l)
	}()
	return func() { <-done }, nil
}

// outsideAgent is the agent of the VM of the run directory for those who come from outside: by the supervisor, or where there is none
// by QEMU's own socket, in turns.
func outsideAgent(runDir string) *agent.Agent {
	relay := filepath.Join(runDir, agentRelay)
	if _, err := os.Stat(relay); err == nil {
		return &agent.Agent{Dial: agent.Dialer(relay)}
	}
	return &agent.Agent{Dial: agent.Locked(filepath.Join(runDir, agentLock), agent.Dialer(filepath.Join(runDir, agentSocket)))}
}

// watchPauses sets the guest's clock after each pause.
func (g *guestAgent) watchPauses(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-g.resumed:
			g.setTime(ctx)
		}
	}
}

// setTime sets the guest's clock, which has stood still while the guest was paused.
func (g *guestAgent) setTime(ctx context.Context) {
	if g.ownClock {
		return
	}
	for range setTimeTries {
		err := g.SetTime(ctx, time.Now())
		var refused *agent.CommandError
		switch {
		case err == nil:
			g.log.Info("the guest's clock was set, after a pause")
			return
		case errors.Is(err, agent.ErrAbsent):
			g.log.Info("the guest's clock is late by its pause, unless the guest sets it: it has no agent")
			return
		case errors.As(err, &refused): // it sets the clock first, and fails where the guest has no hwclock or no RTC
			g.log.Debug("the guest's clock, after a pause", "error", err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(setTimeAgain):
		}
	}
	g.log.Warn("the guest's clock could not be set after a pause: its agent does not answer")
}

// askAgent asks the guest's agent whether the guest is ready: with a command, whether that succeeds in the guest.
func askAgent(ctx context.Context, a *agent.Agent, command []string) error {
	if len(command) == 0 {
		return a.Ping(ctx)
	}
	pid, err := a.Start(ctx, agent.Program{Path: command[0], Args: command[1:]})
	if err != nil {
		return err
	}
	s, err := a.Wait(ctx, pid)
	switch {
	case err != nil && ctx.Err() != nil:
		kill, cancel := context.WithTimeout(context.Background(), agent.Answer) // else one more of them runs with every probe
		defer cancel()
		a.Signal(kill, pid, killSignal)
		return errors.New("it has not ended in time")
	case err != nil:
		return err
	case s.Signal != 0:
		return fmt.Errorf("it was ended by signal %d", s.Signal)
	case s.Code != 0:
		return fmt.Errorf("its exit code is %d", s.Code)
	}
	return nil
}
