// Package console carries the guest's serial console to standard output and back, never makes the guest wait for
// a reader, and watches for what the guest's boot says of itself.
package console

import (
	"context"
	"io"
	"sync"
	"time"
)

// backlog is how much of the console is kept for a reader that has stopped reading, in bytes.
const backlog = 1 << 20

// Console is the serial console of a running guest.
type Console struct {
	// First is called once, when the guest's firmware, boot loader or kernel has written its first byte.
	First func()
	// Lost is called, if it is not nil, with the number of bytes that were dropped because nobody read them.
	Lost func(n int64)
	// Watch is called, if it is not nil, with each line of the console, without its end and cut at 1 KiB.
	Watch func(line string)
}

// Copy copies what the guest writes, from guest to out, until the guest's end is closed, and then waits at most
// the given time for out to take the rest. Out may block for as long as it likes: the guest does not wait for it.
func (c Console) Copy(guest io.Reader, out io.Writer, linger time.Duration) {
	writer := NewWriter(out)
	defer writer.q.close()
	buf := make([]byte, 32<<10)
	var lines lineBuffer
	first := true
	for {
		n, err := guest.Read(buf)
		if n > 0 {
			if first && c.First != nil {
				c.First()
			}
			first = false
			writer.Write(buf[:n])
			if c.Watch != nil {
				lines.feed(buf[:n], c.Watch)
			}
		}
		if err != nil {
			break
		}
	}
	if lost := writer.Flush(linger); lost > 0 && c.Lost != nil {
		c.Lost(lost)
	}
}

// Feed copies what a person types, from in to the guest, until either ends or ctx is done. It may leave a
// goroutine behind that waits for a key that is never pressed: a read of a terminal cannot be called back.
func Feed(ctx context.Context, in io.Reader, guest io.Writer) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(guest, in)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

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
	closed  bool
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

// close says that no more comes.
func (q *queue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.ready.Signal()
}

func (q *queue) drain(out io.Writer) {
	for {
		q.mu.Lock()
		q.writing = false
		for len(q.pending) == 0 && !q.closed {
			q.ready.Wait()
		}
		chunk := q.pending
		q.writing = len(chunk) > 0
		q.pending = nil
		q.mu.Unlock()
		if len(chunk) == 0 {
			return
		}
		out.Write(chunk) // who has gone away cannot be helped
	}
}

// lineBuffer cuts a stream into lines.
type lineBuffer struct{ line []byte }

const longestLine = 1 << 10

func (l *lineBuffer) feed(b []byte, emit func(string)) {
	for _, c := range b {
		switch {
		case c == '\n' || c == '\r':
			if len(l.line) > 0 {
				emit(string(l.line))
				l.line = l.line[:0]
			}
		case len(l.line) < longestLine:
			l.line = append(l.line, c)
		}
	}
}
