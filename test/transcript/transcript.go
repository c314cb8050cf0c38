// Package transcript collects what a process writes, and lets a test wait for a part of it.
package transcript

import (
	"bytes"
	"fmt"
	"sync"
	"testing"
	"time"
)

// Patience is how long anything may take before a test gives up on it. It is no measure of speed.
const Patience = 5 * time.Minute

// Transcript is what a process has written so far.
type Transcript struct {
	mu     sync.Mutex
	text   bytes.Buffer
	more   chan struct{} // closed and renewed when there is more
	closed bool
}

// New is an empty transcript.
func New() *Transcript { return &Transcript{more: make(chan struct{})} }

// Write adds to it.
func (s *Transcript) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wake()
	return s.text.Write(b)
}

// Close says that no more comes: whoever waits for more has waited in vain.
func (s *Transcript) Close() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	s.wake()
}

func (s *Transcript) wake() {
	close(s.more)
	s.more = make(chan struct{})
}

// String is all of it so far.
func (s *Transcript) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// Await waits until text has appeared.
func (s *Transcript) Await(t testing.TB, text string) {
	t.Helper()
	s.AwaitTimes(t, text, 1)
}

// AwaitTimes waits until text has appeared n times.
func (s *Transcript) AwaitTimes(t testing.TB, text string, n int) {
	t.Helper()
	if err := s.Find(text, n); err != nil {
		t.Fatal(err)
	}
}

// Find waits until text has appeared n times. Its error says that no more comes, or that it took too long.
func (s *Transcript) Find(text string, n int) error {
	give := time.After(Patience)
	for {
		s.mu.Lock()
		found, closed, more := bytes.Count(s.text.Bytes(), []byte(text)) >= n, s.closed, s.more
		s.mu.Unlock()
		switch {
		case found:
			return nil
		case closed:
			return fmt.Errorf("%q never appeared", text)
		}
		select {
		case <-more:
		case <-give:
			return fmt.Errorf("%q did not appear", text)
		}
	}
}
