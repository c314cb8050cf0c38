package console

import (
	"io"
	"os"
	"sync/atomic"
	"time"
)

// How much of the console is kept, in bytes.
const (
	backlog = 1 << 20  // for all who read slower than the guest writes
	history = 64 << 10 // of that, for one who attaches
)

// Watcher is told what the console shows. Its functions are called one at a time, and may be nil.
type Watcher struct {
	// First is called once, when the guest's firmware, boot loader or kernel has written its first byte.
	First func()
	// Line is called with each line of the console, without its end and cut at 1 KiB; also with a line that is a question and
	// has no end yet (a login prompt).
	Line func(line string)
}

// Hub joins a guest's serial console to any number of readers. None of them can hold up the guest, or another reader: the
// newest megabyte is kept for all of them together, and who is slower than that loses the oldest bytes.
type Hub struct {
	watch Watcher
	ring  *ring
	guest atomic.Pointer[io.Writer] // nil while there is none
	turn  chan struct{}             // held by the one who types
}

// NewHub makes a hub without a guest. Readers may come before it does.
func NewHub(watch Watcher) *Hub {
	return &Hub{watch: watch, ring: newRing(backlog), turn: make(chan struct{}, 1)}
}

// Carry takes what the guest writes, until the guest's end is closed; then all readers have read to the end, or will.
func (h *Hub) Carry(guest io.ReadWriter) {
	defer h.Close()
	var writer io.Writer = guest
	h.guest.Store(&writer)
	defer h.guest.Store(nil)
	buf := make([]byte, 32<<10)
	var lines lineBuffer
	var reset terminalReset
	first := true
	for {
		n, err := guest.Read(buf)
		if n > 0 {
			if first && h.watch.First != nil {
				h.watch.First()
			}
			first = false
			said := reset.without(buf[:n])
			h.ring.write(said)
			if h.watch.Line != nil {
				lines.feed(said, h.watch.Line)
			}
		}
		if err != nil {
			h.ring.write(reset.held())
			return
		}
	}
}

// Close says that no more comes from the guest.
func (h *Hub) Close() { h.ring.close() }

// Write types b on the guest's console. It waits for a guest that does not read; what is typed before there is a guest is lost,
// as it is on a machine that is off.
func (h *Hub) Write(b []byte) (int, error) {
	h.turn <- struct{}{}
	defer func() { <-h.turn }()
	guest := h.guest.Load()
	if guest == nil {
		return len(b), nil
	}
	return (*guest).Write(b)
}

// Type is Write for one who waits no longer than that for a guest that does not read. What is typed until then, n bytes, is typed; the rest is lost, with
// [os.ErrDeadlineExceeded].
func (h *Hub) Type(b []byte, wait time.Duration) (n int, err error) {
	late := time.Now().Add(wait)
	select {
	case h.turn <- struct{}{}:
		defer func() { <-h.turn }()
	case <-time.After(wait):
		return 0, os.ErrDeadlineExceeded
	}
	guest := h.guest.Load()
	if guest == nil {
		return len(b), nil
	}
	if c, ok := (*guest).(interface{ SetWriteDeadline(time.Time) error }); ok {
		c.SetWriteDeadline(late)
		defer c.SetWriteDeadline(time.Time{})
	}
	return (*guest).Write(b)
}

// Bytes is how many bytes the guest has written so far.
func (h *Hub) Bytes() int64 {
	h.ring.mu.Lock()
	defer h.ring.mu.Unlock()
	return h.ring.end
}

// Last is the end of what the guest has written, at most so many bytes.
func (h *Hub) Last(most int) []byte {
	h.ring.mu.Lock()
	defer h.ring.mu.Unlock()
	b, _ := h.ring.tail(most)
	return b
}

// Reader reads the console from where it is now on.
type Reader struct {
	ring   *ring
	place  int64
	before []byte // the history that is still to be read
	closed bool
}

// Attach makes a reader. With a history it first reads what the console showed last.
func (h *Hub) Attach(withHistory bool) *Reader {
	h.ring.mu.Lock()
	defer h.ring.mu.Unlock()
	r := &Reader{ring: h.ring, place: h.ring.end}
	if withHistory {
		var past []byte
		past, r.place = h.ring.tail(history)
		r.before = replay(past, h.ring.end > int64(len(past)))
	}
	return r
}

// Next waits for more of the console and puts it into b. lost is how many bytes before them were not read in time. It ends with
// [io.EOF] when no more comes, and when the reader was closed.
func (r *Reader) Next(b []byte) (n int, lost int64, err error) {
	r.ring.mu.Lock()
	defer r.ring.mu.Unlock()
	if len(r.before) > 0 && !r.closed {
		n = copy(b, r.before)
		r.before = r.before[n:]
		return n, 0, nil
	}
	for r.place == r.ring.end && !r.ring.closed && !r.closed {
		r.ring.more.Wait()
	}
	if r.closed {
		return 0, 0, io.EOF
	}
	n, r.place, lost = r.ring.read(r.place, b)
	if n == 0 {
		err = io.EOF
	}
	return n, lost, err
}

// Close ends a Next that waits, in another goroutine.
func (r *Reader) Close() {
	r.ring.mu.Lock()
	defer r.ring.mu.Unlock()
	r.closed = true
	r.ring.more.Broadcast()
}

// Output is a writer that follows the console.
type Output struct {
	reader *Reader
	done   chan struct{}
	lost   atomic.Int64
}

// Follow writes the console to out, from now on and without a history. Out may block for as long as it likes: the guest does not
// wait for it.
func (h *Hub) Follow(out io.Writer) *Output {
	o := &Output{reader: h.Attach(false), done: make(chan struct{})}
	go func() {
		defer close(o.done)
		buf := make([]byte, 32<<10)
		for {
			n, lost, err := o.reader.Next(buf)
			o.lost.Add(lost)
			if err != nil {
				return
			}
			out.Write(buf[:n]) // who has gone away cannot be helped
		}
	}()
	return o
}

// Finish waits until all of a console that has ended is written, but at most so long, and returns how many bytes were not.
func (o *Output) Finish(linger time.Duration) (lost int64) {
	select {
	case <-o.done:
	case <-time.After(linger):
	}
	r := o.reader
	r.ring.mu.Lock()
	defer r.ring.mu.Unlock()
	return o.lost.Load() + r.ring.end - r.place
}
