package agent

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// How long the parts of a freeze may take. A guest whose file systems are frozen stands still, as far as its users are concerned.
const (
	freezing = 15 * time.Second // writing out what the guest has not written yet
	holding  = 15 * time.Second // what is done meanwhile
	thawing  = 2 * time.Minute  // trying to thaw
)

// thawAgain is the time between two attempts to thaw.
const thawAgain = 500 * time.Millisecond

// FreezeError is why a guest's file systems could not be frozen. They are not.
type FreezeError struct{ Err error }

func (e *FreezeError) Error() string {
	return "the guest's file systems cannot be frozen: " + e.Err.Error()
}
func (e *FreezeError) Unwrap() error { return e.Err }

// ErrNotThawed means that the guest's file systems may be frozen still.
var ErrNotThawed = errors.New("the guest's file systems could not be thawed: its programs wait until they are; a reset ends it")

// WhileFrozen makes the guest write out all its file systems and hold back every further write, runs do, and thaws them, whatever
// becomes of do and of ctx. Where they cannot be frozen do is not run, and the error is a [*FreezeError]. It belongs into a process that
// lives as long as the VM: one that is killed cannot thaw. Nobody else can ask the agent anything meanwhile; it would refuse.
func (a *Agent) WhileFrozen(ctx context.Context, do func(context.Context) error) error {
	if err := a.take(ctx); err != nil {
		return &FreezeError{err}
	}
	defer a.give()
	if err := a.freeze(ctx); err != nil {
		return err
	}
	hold, cancel := context.WithTimeout(ctx, holding)
	defer cancel()
	err := do(hold)
	return errors.Join(err, a.thaw())
}

func (a *Agent) freeze(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, freezing)
	defer cancel()
	var n int
	err := a.ask(ctx, "guest-fsfreeze-freeze", nil, &n, maxAnswer, a.converse)
	switch {
	case err == nil && n > 0:
		return nil
	case err == nil:
		return errors.Join(&FreezeError{errors.New("it says that there are none")}, a.thaw()) // older agents are in their state of frost all the same
	case errors.Is(err, ErrSilent):
		return errors.Join(&FreezeError{err}, a.thaw()) // it may have frozen some, or be about to
	}
	return &FreezeError{err}
}

// thaw tries until it has been done. It has a time of its own: it must come to its end whatever else has ended.
func (a *Agent) thaw() error {
	ctx, cancel := context.WithTimeout(context.Background(), thawing)
	defer cancel()
	for {
		once, enough := context.WithTimeout(ctx, 2*Answer)
		err := a.ask(once, "guest-fsfreeze-thaw", nil, nil, maxAnswer, a.converse)
		enough()
		if err == nil {
			return nil
		}
		if errors.Is(err, errNoSocket) {
			return nil // with QEMU the guest has gone
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w (%w)", ErrNotThawed, err)
		case <-time.After(thawAgain):
		}
	}
}
