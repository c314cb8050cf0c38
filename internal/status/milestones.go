// Package status knows how far the VM has come, how it is, and whether it is ready, and tells those who ask from outside.
package status

import (
	"context"
	"log/slog"
	"sync"
	"time"
)

// Milestone is a point that a start passes.
type Milestone string

// The milestones, in the order in which a start usually passes them.
const (
	Configured   Milestone = "configured"
	DiskReady    Milestone = "disk ready"
	NetworkReady Milestone = "network ready"
	QEMUStarted  Milestone = "QEMU started"
	FirstByte    Milestone = "first console byte"
	Provisioned  Milestone = "provisioned"
	Booted       Milestone = "booted"
	Ready        Milestone = "ready"
)

// Passed is a milestone that was reached.
type Passed struct {
	Milestone Milestone `json:"name"`
	At        time.Time `json:"at"`
	After     Seconds   `json:"after_seconds"` // vmentry's own start
}

// Seconds is a duration that is written as a number of seconds.
type Seconds float64

// Milestones logs each milestone when it is first reached.
type Milestones struct {
	Start time.Time // of vmentry

	log    *slog.Logger
	mu     sync.Mutex
	passed []Passed
}

// NewMilestones begins to count at start.
func NewMilestones(start time.Time, log *slog.Logger) *Milestones {
	return &Milestones{Start: start, log: log}
}

// Reach notes m, with attributes for the log, unless it was reached before. A log that has everything has the microseconds, too.
func (s *Milestones) Reach(m Milestone, attrs ...any) {
	now := time.Now()
	after := now.Sub(s.Start)
	precision := time.Millisecond
	if s.log.Enabled(context.Background(), slog.LevelDebug) {
		precision = time.Microsecond
	}
	if s.note(Passed{m, now.UTC(), Seconds(after.Round(time.Microsecond).Seconds())}) {
		s.log.Info(string(m), append([]any{"after", after.Round(precision)}, attrs...)...)
	}
}

func (s *Milestones) note(p Passed) (first bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, before := range s.passed {
		if before.Milestone == p.Milestone {
			return false
		}
	}
	s.passed = append(s.passed, p)
	return true
}

// Passed lists what was reached, in the order in which it was.
func (s *Milestones) Passed() []Passed {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Passed{}, s.passed...)
}

// Find is when m was reached.
func (s *Milestones) Find(m Milestone) (Passed, bool) {
	for _, p := range s.Passed() {
		if p.Milestone == m {
			return p, true
		}
	}
	return Passed{}, false
}
