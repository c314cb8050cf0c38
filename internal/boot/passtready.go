package boot

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"syscall"

	"github.com/vmentry/vmentry/internal/agent"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/status"
)

// Names of those who ask. Each has a QMP socket, which serves one of them at a time.
const (
	watcher = "ready-watch"
	prober  = "ready-probe"
)

// asked is the guest in the way in which its readiness is asked for, by one of the above.
func asked(ready status.Condition, m *qemu.Monitor, a *agent.Agent, runDir, who string) status.Guest {
	if ready.Through.IsValid() {
		return forwarded{guest{m, a}, ready.Through, filepath.Join(runDir, qemuDir, who), who}
	}
	return guest{m, a}
}

// forwarded is a guest behind passt, which accepts a connection before the guest has, and cannot be asked whether the guest did
// since. That is to be seen on the guest's card.
type forwarded struct {
	guest
	through netip.AddrPort
	pipe    string // path
	id      string // of QEMU's object
}

// seenBytes are enough of a frame: Ethernet, the longest header of IPv4, and TCP without options.
const seenBytes = 14 + 60 + 20

// Open has QEMU show the frames of the guest's card, through a pipe that ends with this process: a probe may be killed, and QEMU
// must then not go on writing.
func (f forwarded) Open(ctx context.Context, port uint16) (status.Way, error) {
	f.RemoveObject(ctx, f.id) // of one that was killed
	os.Remove(f.pipe)
	if err := syscall.Mkfifo(f.pipe, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: f.pipe, Err: err}
	}
	defer os.Remove(f.pipe)
	pipe, err := openPipe(f.pipe)
	if err != nil {
		return nil, err
	}
	if err := f.AddDump(ctx, f.id, netdev, f.pipe, seenBytes); err != nil {
		pipe.Close()
		return nil, err
	}
	w := &seen{forwarded: f, frames: pipe}
	go qemu.ReadDump(pipe, func(frame []byte) bool {
		if qemu.AcceptsTCP(frame, port) {
			w.accepted.Store(true)
		}
		return false // to the end, because QEMU waits for a reader that does not read
	})
	return w, nil
}

// openPipe opens the named pipe that was made at path, and lets QEMU write to it, which may be another user. A reader that is there keeps QEMU from waiting for
// one. The directory is QEMU's own: what is there by now may be something else, or a link to it.
func openPipe(path string) (*os.File, error) {
	pipe, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, err
	}
	info, err := pipe.Stat()
	if err == nil && (info.Mode()&os.ModeNamedPipe == 0 || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid())) {
		err = &os.PathError{Op: "open", Path: path, Err: errors.New("it is not the pipe that was made there")}
	}
	if err == nil {
		err = pipe.Chmod(0o622) // only QEMU's user gets into the directory
	}
	if err != nil {
		pipe.Close()
		return nil, err
	}
	return pipe, nil
}

// seen is a way to a guest whose card is looked at.
type seen struct {
	forwarded
	frames   *os.File
	accepted atomic.Bool
}

func (s *seen) Addr() netip.AddrPort                   { return s.through }
func (s *seen) Accepted(context.Context) (bool, error) { return s.accepted.Load(), nil }

func (s *seen) Close() {
	ctx, cancel := context.WithTimeout(context.Background(), qmpAnswer)
	defer cancel()
	s.RemoveObject(ctx, s.id)
	s.frames.Close()
}
