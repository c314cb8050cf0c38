package console

import "sync"

// ring holds the newest bytes of a stream for readers of different speeds. Each reader has only a place in it, so that many of
// them cost no more memory than one.
type ring struct {
	mu     sync.Mutex
	more   sync.Cond // there is more, or there will be none
	buf    []byte
	end    int64 // how many bytes were ever written
	closed bool
}

func newRing(size int) *ring {
	r := &ring{buf: make([]byte, size)}
	r.more.L = &r.mu
	return r
}

// write adds b in place of the oldest bytes, and waits for nobody.
func (r *ring) write(b []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(b) > 0 {
		n := copy(r.buf[r.end%int64(len(r.buf)):], b)
		r.end += int64(n)
		b = b[n:]
	}
	r.more.Broadcast()
}

// close says that no more comes.
func (r *ring) close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.more.Broadcast()
}

// read copies what follows place into b, and gives the place behind it. What is no longer there is lost. The caller has the lock.
func (r *ring) read(place int64, b []byte) (n int, next, lost int64) {
	if oldest := r.end - int64(len(r.buf)); place < oldest {
		lost, place = oldest-place, oldest
	}
	for n < len(b) && place < r.end {
		from := place % int64(len(r.buf))
		upTo := min(int64(len(r.buf)), from+r.end-place)
		c := copy(b[n:], r.buf[from:upTo])
		n += c
		place += int64(c)
	}
	return n, place, lost
}

// tail is the newest bytes, at most so many, and the place behind them. The caller has the lock.
func (r *ring) tail(most int) (b []byte, place int64) {
	b = make([]byte, min(int64(most), r.end, int64(len(r.buf))))
	_, place, _ = r.read(r.end-int64(len(b)), b)
	return b, place
}
