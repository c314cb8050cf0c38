package status

import (
	"context"
	"fmt"
)

// broken are the states of QEMU's from which a guest does not come back by itself (RunState in QEMU's qapi/run-state.json), and
// what they mean.
var broken = map[string]string{
	"io-error":       "a disk's error has stopped the guest",
	"internal-error": "QEMU has failed to run the guest",
	"guest-panicked": "the guest's kernel has panicked",
	"watchdog":       "the guest's watchdog has stopped it",
}

// runner tells what QEMU says of the guest.
type runner interface {
	RunState(context.Context) (string, error)
}

// Live says whether the VM lives: QEMU answers, and the guest runs or was paused by somebody. If not, reason says why.
func Live(ctx context.Context, g runner) (live bool, reason string) {
	state, err := g.RunState(ctx)
	if err != nil {
		return false, fmt.Sprintf("QEMU does not answer: %v", err)
	}
	if why := broken[state]; why != "" {
		return false, fmt.Sprintf("%s (%s)", why, state)
	}
	return true, fmt.Sprintf("the guest is %s", state)
}
