// Package supervise keeps a virtual machine's process: it catches signals, is the one owner of wait, walks down
// the shutdown ladder, and turns what happened into an exit code.
package supervise

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
)

// Signals is the stream of requests to stop. It must be made before anything else is done: as PID 1 a process
// gets only the signals that it has asked for, and a stop that was not heard is a wait until the kill.
type Signals struct{ ch chan os.Signal }

// CatchSignals begins to catch SIGTERM, SIGINT and SIGHUP.
func CatchSignals() *Signals {
	s := &Signals{ch: make(chan os.Signal, 8)}
	signal.Notify(s.ch, syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP)
	// a reader of our output that goes away must not end the VM
	signal.Ignore(syscall.SIGPIPE)
	return s
}

// Release gives the signals back their default meaning, for a program that takes this one's place.
func (s *Signals) Release() {
	signal.Stop(s.ch)
	signal.Reset(syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGPIPE)
}

// Stop is a request to stop, as the cause of a cancelled context.
type Stop struct{ Signal os.Signal }

func (s Stop) Error() string { return fmt.Sprintf("stopped by %s", Name(s.Signal)) }

// Name is a signal's name as people write it, e.g. SIGTERM.
func Name(s os.Signal) string {
	switch s {
	case syscall.SIGTERM:
		return "SIGTERM"
	case syscall.SIGINT:
		return "SIGINT"
	case syscall.SIGHUP:
		return "SIGHUP"
	}
	return s.String()
}

// Until is a context that the first signal cancels, with a [Stop] as its cause. The returned function ends the
// watch, after which signals are waiting for the next reader; a signal that has cancelled the context is used up.
func (s *Signals) Until(parent context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(parent)
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case sig := <-s.ch:
			cancel(Stop{sig})
		case <-end:
		}
	}()
	return ctx, func() {
		close(end)
		<-ended
	}
}

// C is the channel on which signals arrive.
func (s *Signals) C() <-chan os.Signal { return s.ch }
