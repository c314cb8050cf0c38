// Package status knows how far the VM has come and whether it is ready, and tells those who ask from outside,
// through files of the run directory.
package status

import (
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
	Ready        Milestone = "ready"
)

// Milestones logs each milestone when it is first reached.
type Milestones struct {
	start time.Time
	log   *slog.Logger

	mu      sync.Mutex
	reached map[Milestone]bool
}

// NewMilestones begins to count at start.
func NewMilestones(start time.Time, log *slog.Logger) *Milestones {
	return &Milestones{start: start, log: log, reached: map[Milestone]bool{}}
}

// Reach notes m, with attributes for the log, unless it was reached before.
func (s *Milestones) Reach(m Milestone, attrs ...any) {
	after := time.Since(s.start)
	s.mu.Lock()
	again := s.reached[m]
	s.reached[m] = true
	s.mu.Unlock()
	if !again {
		s.log.Info(string(m), append([]any{"after", after.Round(time.Millisecond)}, attrs...)...)
	}
}
