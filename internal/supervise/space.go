package supervise

import (
	"context"
	"log/slog"
	"slices"
	"time"
)

// Stalled is a guest that QEMU may have paused by itself.
type Stalled interface {
	RunState(context.Context) (string, error)
	Resume(context.Context) error
}

// ioError is QEMU's word for a guest that it has paused because of an error of a disk (RunState in QEMU's qapi/run-state.json).
const ioError = "io-error"

// Space stays with a guest that writes to disks that may get full. QEMU pauses it when there is no space for what it writes (werror=enospc),
// keeps the write, and does it again when the guest is resumed. Space resumes it when there is space again; never a guest that somebody
// has paused on purpose.
type Space struct {
	Guest Stalled
	// Free is how many bytes are left to the disk; ok is false where that is not to be known.
	Free func(disk string) (bytes int64, ok bool)
	// Held says that somebody has paused the guest, which QEMU does not note of a guest that is paused already.
	Held func() bool
	// Full is called once for each disk that has become full, and Freed when the guest has gone on.
	Full  func(disk string)
	Freed func(after time.Duration)

	Pace SpacePace
	Log  *slog.Logger
}

// SpacePace is how often a full disk is looked at.
type SpacePace struct {
	Look    time.Duration // from one look at the free space to the next, at first
	Slowest time.Duration // the same when it has taken long, or resuming was in vain
	Blind   time.Duration // after which the guest is resumed though no more space is seen: quotas and thin volumes do not show it
	Settle  time.Duration // how long a guest must run until it has gone on
	Answer  time.Duration // how long a QMP command may take
}

// moreSpace is how many bytes must have become free before the guest is resumed: less would be written in a moment.
const moreSpace = 1 << 20

// stall is one disk that the guest waits for.
type stall struct {
	disk  string
	least int64 // bytes that were free when it was the fullest; -1: not known
}

// Run takes the names of disks for which there was no space, as QEMU tells them, until ctx ends.
func (s Space) Run(ctx context.Context, full <-chan string) {
	for {
		select {
		case <-ctx.Done():
			return
		case disk := <-full:
			s.await(ctx, disk, full)
		}
	}
}

// await stays with a guest that is paused until it goes on.
func (s Space) await(ctx context.Context, disk string, full <-chan string) {
	began, tried := time.Now(), time.Now()
	var told []string
	var waiting, before []stall // before: what it waited for when it was last resumed
	note := func(disk string) {
		if !slices.Contains(told, disk) {
			told = append(told, disk)
			s.Full(disk)
		}
		if !slices.ContainsFunc(waiting, func(w stall) bool { return w.disk == disk }) {
			waiting = append(waiting, stall{disk, s.free(disk)})
		}
	}
	note(disk)
	for pause := s.Pace.Look; ; pause = min(pause*3/2, s.Pace.Slowest) {
		if !s.sleep(ctx, pause, full, note) {
			return
		}
		state, err := s.state(ctx)
		switch {
		case err != nil:
			s.Log.Debug("the state of a guest without space is not to be had", "error", err)
			continue
		case state == ioError && s.Held():
			continue
		case state == ioError:
			if !s.roomier(waiting) && time.Since(tried) < s.Pace.Blind {
				continue
			}
			tried, waiting, before = time.Now(), nil, waiting
			if err := s.resume(ctx); err != nil {
				s.Log.Warn("the guest could not be resumed", "error", err)
			}
		case state != "running": // paused by somebody, or at its end: it is for them to go on
			continue
		default: // resumed by somebody
			waiting, before = nil, waiting
		}
		if !s.sleep(ctx, s.Pace.Settle, full, note) {
			return
		}
		if state, err = s.state(ctx); err == nil && state == "running" && len(waiting) == 0 {
			s.Freed(time.Since(began))
			return
		}
		if len(waiting) == 0 { // QEMU tells of an error once a second at most
			waiting = before
		}
		s.Log.Debug("the guest was resumed in vain", "state", state)
	}
}

// sleep waits, and takes what becomes full meanwhile. It is false when ctx has ended.
func (s Space) sleep(ctx context.Context, d time.Duration, full <-chan string, note func(string)) bool {
	over := time.NewTimer(d)
	defer over.Stop()
	for {
		select {
		case <-ctx.Done():
			return false
		case <-over.C:
			return true
		case disk := <-full:
			note(disk)
		}
	}
}

// roomier says whether any of the disks has more space than at its fullest, which it remembers.
func (s Space) roomier(waiting []stall) bool {
	for i, w := range waiting {
		free := s.free(w.disk)
		if w.least >= 0 && free >= w.least+moreSpace {
			return true
		}
		if free >= 0 && (w.least < 0 || free < w.least) {
			waiting[i].least = free
		}
	}
	return false
}

// free is -1 where it is not to be known.
func (s Space) free(disk string) int64 {
	if free, ok := s.Free(disk); ok {
		return free
	}
	return -1
}

func (s Space) state(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, s.Pace.Answer)
	defer cancel()
	return s.Guest.RunState(ctx)
}

func (s Space) resume(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.Pace.Answer)
	defer cancel()
	return s.Guest.Resume(ctx)
}
