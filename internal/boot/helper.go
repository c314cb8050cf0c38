package boot

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"

	"github.com/vmentry/vmentry/internal/network"
	"github.com/vmentry/vmentry/internal/supervise"
)

// helperStart is how long a helper may take to be ready.
const helperStart = 30 * time.Second

// helper is a program that runs beside QEMU. A nil one is none.
type helper struct {
	network.Helper
	process *supervise.Process
	words   *lastWords
	read    chan struct{} // closed when its last words have been read
}

// startHelper starts the network's helper, where the plan has one, and waits until it is ready.
func (p Plan) startHelper(ctx context.Context, reaper *supervise.Reaper, log *slog.Logger) (*helper, error) {
	if p.Network.Helper == nil {
		return nil, nil
	}
	h := &helper{Helper: *p.Network.Helper, read: make(chan struct{})}
	h.words = &lastWords{log: log, name: h.Name, level: slog.LevelDebug} // it greets at length
	words, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	h.process, err = reaper.Start(supervise.Command{Path: h.Path, Args: h.Args, Env: p.Environ, Stdout: theirs, Stderr: theirs, Last: syscall.SIGTERM})
	theirs.Close()
	if err != nil {
		words.Close()
		return nil, fail(supervise.Unavailable, "%s could not be started: %w", h.Name, err)
	}
	go func() {
		defer close(h.read)
		h.words.read(words)
	}()
	if err := h.awaitReady(ctx); err != nil {
		h.close()
		return nil, stopped(ctx, err)
	}
	h.words.begin(slog.LevelWarn)
	return h, nil
}

// awaitReady waits for the file that the helper writes its number to. There is no telling from its socket: it is bound before
// the last that can fail.
func (h *helper) awaitReady(ctx context.Context) error {
	give := time.After(helperStart)
	for {
		if pid, _ := os.ReadFile(h.PIDFile); bytes.HasSuffix(pid, []byte("\n")) {
			return nil
		}
		select {
		case <-h.process.Done():
			return h.failure()
		case <-ctx.Done():
			return ctx.Err()
		case <-give:
			return fail(supervise.Unavailable, "%s is not ready after %s", h.Name, helperStart)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Done is closed when the helper has ended; never, if there is none.
func (h *helper) Done() <-chan struct{} {
	if h == nil {
		return nil
	}
	return h.process.Done()
}

// gone says whether there was a helper and it has ended.
func (h *helper) gone() bool {
	select {
	case <-h.Done():
		return true
	default:
		return false
	}
}

// failure is why a helper that has ended did.
func (h *helper) failure() error {
	select {
	case <-h.read:
	case <-time.After(lastReads): // a child of it may hold the pipe
	}
	end := fmt.Errorf("status %d", h.process.Status().ExitStatus())
	if s := h.process.Status(); s.Signaled() {
		end = fmt.Errorf("killed by signal %d (%s)", int(s.Signal()), s.Signal())
	}
	return fail(supervise.Unavailable, "%s has ended: %s", h.Name, advised(h.words.or(end)))
}

// close ends the helper, after QEMU.
func (h *helper) close() {
	if h == nil {
		return
	}
	h.process.Terminate()
	select {
	case <-h.Done():
		return
	case <-time.After(lastReads):
	}
	h.process.Kill()
	select {
	case <-h.Done():
	case <-time.After(lastReads): // without CAP_KILL the helper's user may be out of reach
	}
}
