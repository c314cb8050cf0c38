package console

import (
	"io"
	"sync"
	"time"
)

// Writer is a writer that never makes anybody wait: what its reader does not take in time is dropped, the oldest first.
type Writer struct{ q *queue }

// NewWriter begins to write to out.
func NewWriter(out io.Writer) *Writer {
	w := &Writer{newQueue()}
	go w.q.drain(out)
	return w
}

// Write takes b, always.
func (w *Writer) Write(b []byte) (int, error) {
	w.q.put(b)
	return len(b), nil
}

// Flush waits until all is written, but at most so long, and returns how many bytes were dropped so far.
func (w *Writer) Flush(linger time.Duration) (lost int64) {
	for deadline := time.Now().Add(linger); ; time.Sleep(time.Millisecond) {
		idle, lost := w.q.state()
		if idle || time.Now().After(deadline) {
			return lost
		}
	}
}

// queue holds bytes for a slow writer and drops the oldest when there are too many.
type queue struct {
	mu      sync.Mutex
	ready   sync.Cond
	pending []byte
	writing bool
	lost    int64
}

func newQueue() *queue {
	q := &queue{}
	q.ready.L = &q.mu
	return q
}

func (q *queue) put(b []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.pending = append(q.pending, b...)
	if over := len(q.pending) - backlog; over > 0 {
		q.lost += int64(over)
		q.pending = append(q.pending[:0], q.pending[over:]...)
	}
	q.ready.Signal()
}

// state says whether all has been written, and how much was lost.
func (q *queue) state() (idle bool, lost int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.pending) == 0 && !q.writing, q.lost
}

func (q *queue) drain(out io.Writer) {
	for {
		q.mu.Lock()
		q.writing = false
		for len(q.pending) == 0 {
			q.ready.Wait()
		}
		chunk := q.pending
		q.writing = true
		q.pending = nil
		q.mu.Unlock()
		out.Write(chunk) // who has gone away cannot be helped
	}
}
