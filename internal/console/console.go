// Package console carries the guest's serial console to standard output and to all who attach to it, and what they type to the
// guest. It never makes the guest wait for a reader, and watches for what the guest's boot says of itself.
package console

import (
	"context"
	"io"
)

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
