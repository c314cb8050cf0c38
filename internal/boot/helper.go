package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/vmentry/vmentry/internal/disk"
	"github.com/vmentry/vmentry/internal/supervise"
)

// helperStart is how long a helper may take to be ready.
const helperStart = 30 * time.Second

// beside is a program that is to run beside QEMU, from before its start until after its end.
type beside struct {
	name   string
	path   string
	args   []string
	files  []*os.File                // it inherits them as descriptors 3, 4, …, and they are closed here
	greets slog.Level                // at which its words are logged until it is ready; later ones are warnings
	ready  func() bool               // nil: it is as soon as it runs, because it was given all that it answers on
	advise func(words string) string // adds to its last words what can be done about them; nil: nothing
}

// besides are the helpers that the plan needs, with what they inherit made for them. lock is the data directory's.
func (p Plan) besides(lock *disk.Lock) (all []beside, err error) {
	defer func() {
		if err != nil {
			for _, never := range all {
				never.closeFiles()
			}
			all = nil
		}
	}()
	if h := p.Network.Helper; h != nil {
		all = append(all, passtBeside(*h))
	}
	for _, s := range p.Volumes.Shares {
		b, err := virtiofsdBeside(s)
		if err != nil {
			return all, err
		}
		all = append(all, b)
	}
	if p.TPM.Wanted() {
		b, err := swtpmBeside(p.TPM, lock)
		if err != nil {
			return all, err
		}
		all = append(all, b)
	}
	return all, nil
}

// startHelpers starts what the plan needs beside QEMU.
func (p Plan) startHelpers(ctx context.Context, reaper *supervise.Reaper, lock *disk.Lock, log *slog.Logger) (*helpers, error) {
	list, err := p.besides(lock)
	if err != nil {
		return nil, err
	}
	return startAll(ctx, list, reaper, p.Environ, log)
}

// helper is one that runs.
type helper struct {
	beside
	process *supervise.Process
	words   *lastWords
	read    chan struct{} // closed when its last words have been read
}

// helpers are all that run beside one QEMU. The VM cannot go on without any of them.
type helpers struct {
	running []*helper
	lost    chan struct{} // closed when one has ended
}

// startAll starts helpers side by side, and waits until all are ready. When it fails, none is left.
func startAll(ctx context.Context, list []beside, reaper *supervise.Reaper, environ []string, log *slog.Logger) (*helpers, error) {
	all := &helpers{lost: make(chan struct{})}
	var lose sync.Once
	for i, b := range list {
		h, err := b.start(reaper, environ, log)
		if err != nil {
			for _, never := range list[i+1:] {
				never.closeFiles()
			}
			all.close()
			return nil, err
		}
		all.running = append(all.running, h)
		go func() {
			<-h.process.Done()
			lose.Do(func() { close(all.lost) })
		}()
	}
	if err := all.awaitReady(ctx); err != nil {
		all.close()
		return nil, stopped(ctx, err)
	}
	return all, nil
}

func (b beside) start(reaper *supervise.Reaper, environ []string, log *slog.Logger) (*helper, error) {
	defer b.closeFiles()
	words, theirs, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	h := &helper{beside: b, words: &lastWords{log: log, name: b.name, level: b.greets}, read: make(chan struct{})}
	h.process, err = reaper.Start(supervise.Command{
		Path: b.path, Args: b.args, Env: environ, Stdout: theirs, Stderr: theirs, Files: b.files, Last: syscall.SIGTERM,
	})
	theirs.Close()
	if err != nil {
		words.Close()
		return nil, fail(supervise.Unavailable, "%s could not be started: %w", b.name, err)
	}
	go func() {
		defer close(h.read)
		h.words.read(words)
	}()
	return h, nil
}

func (b beside) closeFiles() {
	for _, f := range b.files {
		f.Close()
	}
}

// awaitReady waits until every helper is, or one has failed.
func (hs *helpers) awaitReady(ctx context.Context) error {
	ctx, enough := context.WithTimeout(ctx, helperStart)
	defer enough()
	failures := make(chan error, len(hs.running))
	for _, h := range hs.running {
		go func() { failures <- h.awaitReady(ctx) }()
	}
	var first error
	for range hs.running {
		if err := <-failures; err != nil && first == nil {
			first = err
			enough() // the others need not be waited for
		}
	}
	return first
}

func (h *helper) awaitReady(ctx context.Context) error {
	for h.ready != nil && !h.ready() {
		select {
		case <-h.process.Done():
			return h.failure()
		case <-ctx.Done():
			if errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return fail(supervise.Unavailable, "%s is not ready after %s", h.name, helperStart)
			}
			return ctx.Err()
		case <-time.After(5 * time.Millisecond):
		}
	}
	h.words.begin(slog.LevelWarn)
	return nil
}

// Done is closed when one of the helpers has ended; never, if there is none.
func (hs *helpers) Done() <-chan struct{} { return hs.lost }

// gone is a helper that has ended, or nil.
func (hs *helpers) gone() *helper {
	for _, h := range hs.running {
		select {
		case <-h.process.Done():
			return h
		default:
		}
	}
	return nil
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
	words := h.words.or(end)
	if h.advise != nil {
		words = h.advise(words)
	}
	return fail(supervise.Unavailable, "%s has ended: %s", h.name, words)
}

// close ends the helpers, after QEMU.
func (hs *helpers) close() {
	var ending sync.WaitGroup
	for _, h := range hs.running {
		ending.Go(h.close)
	}
	ending.Wait()
}

func (h *helper) close() {
	h.process.Terminate()
	select {
	case <-h.process.Done():
		return
	case <-time.After(lastReads):
	}
	h.process.Kill()
	select {
	case <-h.process.Done():
	case <-time.After(lastReads): // without CAP_KILL the helper's user may be out of reach
	}
}
