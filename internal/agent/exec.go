package agent

import (
	"context"
	"fmt"
	"strconv"
	"time"
)

const (
	// MaxInput is how much a command can be given on its standard input, in bytes. The agent takes it in one piece.
	MaxInput = 16 << 20
	// MaxOutput is how much of each of a command's outputs the agent keeps, in bytes (GUEST_EXEC_MAX_OUTPUT in QEMU's qga/commands.c).
	MaxOutput = 16 << 20

	maxStatus = 2*(MaxOutput/3*4) + maxAnswer // bytes: both outputs in base64, and the rest
	transfer  = time.Minute                   // for what may be that long
)

// Program is what to run in the guest.
type Program struct {
	Path  string // looked up in the agent's PATH where it has no slash
	Args  []string
	Env   []string // NAME=VALUE, all of its environment; none: the agent's own
	Input []byte
}

// Status is how far a program has come. Its output is there when it has ended, and not before: the agent keeps it until then.
type Status struct {
	Exited bool   `json:"exited"`
	Code   int    `json:"exitcode"`
	Signal int    `json:"signal"` // that has ended it; 0: none
	Out    []byte `json:"out-data"`
	Err    []byte `json:"err-data"`
	OutCut bool   `json:"out-truncated"` // there was more than MaxOutput
	ErrCut bool   `json:"err-truncated"`
}

// Start runs a program in the guest and returns its process number there. A program that cannot be run is a [*CommandError].
func (a *Agent) Start(ctx context.Context, p Program) (pid int64, err error) {
	ctx, cancel := context.WithTimeout(ctx, transfer)
	defer cancel()
	arguments := map[string]any{"path": p.Path, "capture-output": true}
	if len(p.Args) > 0 {
		arguments["arg"] = p.Args
	}
	if len(p.Env) > 0 {
		arguments["env"] = p.Env
	}
	if len(p.Input) > 0 {
		arguments["input-data"] = p.Input // in base64, as it is wanted
	}
	var reply struct {
		PID int64 `json:"pid"`
	}
	err = a.Execute(ctx, "guest-exec", arguments, &reply)
	return reply.PID, err
}

// Status asks how far a program has come. After it has said that the program has ended the agent knows nothing of it any more.
func (a *Agent) Status(ctx context.Context, pid int64) (Status, error) {
	ctx, cancel := context.WithTimeout(ctx, transfer)
	defer cancel()
	var s Status
	err := a.execute(ctx, "guest-exec-status", map[string]int64{"pid": pid}, &s, maxStatus)
	return s, err
}

// How often a program is looked at: soon for those that end at once, seldom for those that take long.
const (
	firstLook = 5 * time.Millisecond
	lastLook  = 250 * time.Millisecond
)

// Wait asks until a program has ended, or ctx has.
func (a *Agent) Wait(ctx context.Context, pid int64) (Status, error) {
	for pause := firstLook; ; pause = min(pause*3/2, lastLook) {
		s, err := a.Status(ctx, pid)
		if err != nil || s.Exited {
			return s, err
		}
		select {
		case <-ctx.Done():
			return s, ctx.Err()
		case <-time.After(pause):
		}
	}
}

// Signal sends a signal to a program in a guest that is a Unix. The agent has no command for it, so it is told to run kill.
func (a *Agent) Signal(ctx context.Context, pid int64, signal int) error {
	killer, err := a.Start(ctx, Program{Path: "kill", Args: []string{"-" + strconv.Itoa(signal), strconv.FormatInt(pid, 10)}})
	if err != nil {
		return err
	}
	s, err := a.Wait(ctx, killer)
	if err == nil && s.Code != 0 {
		err = fmt.Errorf("kill in the guest: %s", clean(string(s.Err)))
	}
	return err
}
