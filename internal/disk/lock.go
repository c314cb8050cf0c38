package disk

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Holder is who uses a data directory. It is written into the lock file for the one who comes second.
type Holder struct {
	// Host is the host name; in Kubernetes that is the pod's name.
	Host string `json:"host"`
	// Pod, Namespace and Node are what Kubernetes' downward API has told; each may be empty.
	Pod       string `json:"pod,omitempty"`
	Namespace string `json:"namespace,omitempty"`
	Node      string `json:"node,omitempty"`
	// PID is the process in its own container, so most often 1.
	PID int `json:"pid"`
	// Since is when the lock was asked for.
	Since time.Time `json:"since"`
}

// String is for a message. It comes from a file that somebody else has written.
func (h Holder) String() string {
	name := printable(h.Host)
	if pod := cmp.Or(h.Pod, h.Host); pod != "" && h.Namespace != "" {
		name = "pod " + printable(h.Namespace) + "/" + printable(pod)
	} else if h.Pod != "" {
		name = "pod " + printable(h.Pod)
	}
	if name == "" {
		return "somebody who left no name"
	}
	if h.Node != "" {
		name += " on node " + printable(h.Node)
	}
	return fmt.Sprintf("%s (process %d, since %s)", name, h.PID, h.Since.UTC().Format(time.RFC3339))
}

// maxName is how long a name may be that Kubernetes, or the kernel, has given.
const maxName = 253

// printable is a name as it is, if it is one of Kubernetes' or the kernel's, and else quoted and cut off.
func printable(name string) string {
	if len(name) <= maxName && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-._") == "" {
		return name
	}
	return fmt.Sprintf("%.*q", maxName, name)
}

// patience is how long it makes sense to wait for a lock that other has: the whole wait if it may be this container's own
// last start, killed and on its way out; but a moment if it is another machine's, because the one who comes second should hear so
// at once.
func (h Holder) patience(other Holder, wait time.Duration) time.Duration {
	if other.Host == "" || other.Host == h.Host {
		return wait
	}
	return min(wait, strangerWait)
}

// Lock is the exclusive use of a data directory. It belongs to the open file and not to the process (flock(2)): it lasts until
// every process that has inherited File has ended. So data stay locked while a QEMU or a qemu-img writes to them, even when
// the vmentry that started it was killed.
type Lock struct {
	file  *os.File
	dir   string
	state lockState
}

// lockState is the content of the lock file.
type lockState struct {
	Holder
	// Running says that a QEMU, or a qemu-img, was started on the directory's disks and has not been seen to end well.
	Running bool `json:"running,omitempty"`
}

const (
	// LockWait is how long TakeLock should be let wait for a predecessor that was killed and whose QEMU is on its way out.
	LockWait  = 3 * time.Second
	lockRetry = 50 * time.Millisecond
	// strangerWait is for a container of another name: one that was killed together with its pod is gone by then.
	strangerWait = time.Second
)

// ErrInUse is why somebody else's data directory or image is not to be had.
var ErrInUse = errors.New("it is in use")

// TakeLock locks the data directory, which is made where it is not there. While somebody else has it, it is tried again for
// wait, or until ctx ends. This is the first thing that is written in a data directory, so what makes writing impossible shows
// here.
func TakeLock(ctx context.Context, dir string, holder Holder, wait time.Duration) (*Lock, error) {
	dir, err := filepath.Abs(dir)
	op := "lock the data directory " + dir
	if err != nil {
		return nil, ioError(op, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, ioError(op, err)
	}
	f, err := os.OpenFile(paths{dir}.lock(), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o644)
	if err != nil {
		return nil, ioError(op, err)
	}
	take := func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
	if err := retry(ctx, take, func() time.Duration { return holder.patience(readHolder(f), wait) }); err != nil {
		defer f.Close()
		return nil, lockError(ctx, op, "stop that one first, or give this VM a data directory of its own (VM_DATA_DIR): one directory serves one VM",
			readHolder(f), err)
	}
	lock := &Lock{file: f, dir: dir, state: lockState{Holder: holder, Running: leftRunning(f)}}
	if err := lock.write(); err != nil {
		f.Close()
		return nil, ioError(op, err)
	}
	return lock, nil
}

// HeldBy says who has the lock of a data directory at this moment; false where nobody has. It changes nothing.
func HeldBy(dir string) (Holder, bool) {
	f, err := os.Open(paths{dir}.lock())
	if err != nil {
		return Holder{}, false
	}
	defer f.Close()
	// Given back at once: one who is just about to take it tries again.
	err = unix.Flock(int(f.Fd()), unix.LOCK_SH|unix.LOCK_NB)
	return readHolder(f), errors.Is(err, unix.EWOULDBLOCK)
}

// SetRunning notes, on disk, that a QEMU is about to write to the directory's disks, or that it has ended well. A start that
// finds the note of an earlier one checks the disk first.
func (l *Lock) SetRunning(running bool) error {
	if err := l.NoteRunning(running); err != nil {
		return err
	}
	return l.Sync()
}

// NoteRunning is the first half of [Lock.SetRunning], and Sync the second: with the first done, the next start sees the note unless the machine
// loses its power before the second is.
func (l *Lock) NoteRunning(running bool) error {
	l.state.Running = running
	if err := l.write(); err != nil {
		return ioError("write "+l.file.Name(), err)
	}
	return nil
}

// Sync brings the note to disk.
func (l *Lock) Sync() error {
	if err := l.file.Sync(); err != nil {
		return ioError("write "+l.file.Name(), err)
	}
	return nil
}

// retry tries to take a lock until it has it, it fails for another reason than that somebody has it, or the time is up.
func retry(ctx context.Context, take func() error, patience func() time.Duration) error {
	for began := time.Now(); ; {
		err := take()
		switch {
		case err == unix.EINTR:
			continue
		case !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EBUSY):
			return err
		case time.Since(began) >= patience():
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lockRetry):
		}
	}
}

// lockError says why a lock was not to be had. wayOut is for one that holder has.
func lockError(ctx context.Context, op, wayOut string, holder Holder, err error) error {
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("cannot %s: %w", op, context.Cause(ctx))
	case errors.Is(err, unix.EWOULDBLOCK):
		return refusal(op, wayOut, "%w by %s", ErrInUse, holder)
	case hasNoLocks(err):
		return refusal(op, "use a volume whose file system has them (for NFS: version 4, or a running lock service); without locks two VMs could destroy one disk",
			"its file system has no locks (%w)", err)
	}
	return ioError(op, err)
}

// hasNoLocks says that an error of a lock means that the file system has none.
func hasNoLocks(err error) bool {
	for _, errno := range []error{unix.ENOLCK, unix.EOPNOTSUPP, unix.ENOSYS, unix.EINVAL} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// write replaces the content in place. Writing over the old block needs no space, so that a lock can be had on a full file
// system by whoever had it before.
func (l *Lock) write() error {
	b, err := json.Marshal(l.state)
	if err != nil {
		return err
	}
	b = append(b, '\n')
	if _, err := l.file.WriteAt(b, 0); err != nil {
		return err
	}
	return l.file.Truncate(int64(len(b)))
}

// leftRunning says that the last one who had the lock did not see its QEMU end well. A content that was cut off by a crash says
// the same.
func leftRunning(f io.ReaderAt) bool {
	b, err := readUpTo(f, 0, 4096)
	if err != nil || len(b) == 0 {
		return err != nil
	}
	var state lockState
	return json.Unmarshal(b, &state) != nil || state.Running
}

// inspectRunning is leftRunning for a directory that is not locked.
func inspectRunning(dir string) (bool, error) {
	f, err := os.Open(paths{dir}.lock())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer f.Close()
	return leftRunning(f), nil
}

// readHolder reads who has the lock. It may be read while it is being written: then nobody is named.
func readHolder(f *os.File) Holder {
	b, err := readUpTo(f, 0, 4096)
	if err != nil {
		return Holder{}
	}
	var h Holder
	if json.Unmarshal(b, &h) != nil {
		return Holder{}
	}
	return h
}

// File is the open lock file. A child process that inherits it keeps the directory locked for as long as it lives.
func (l *Lock) File() *os.File { return l.file }

// Close gives the lock up, unless a child process that inherited it still lives.
func (l *Lock) Close() error { return l.file.Close() }
