// Package peer makes the sockets at which people, scripts and probes ask something of vmentry. A QEMU that its guest has taken over, or a
// helper, may have vmentry's own user, and with that the right to connect. It is told from the others by where it comes from: what vmentry
// has started, itself or through others, is below it in the tree of processes, and stays there. What `docker exec` and `kubectl exec` start is
// not.
package peer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	often       = time.Minute // between two lines in the log about who was not let in
	generations = 256         // more than that are between nobody and the first process
)

// Listen listens at a path to which nobody but its owner may connect, in place of a socket that an earlier start has left there. Of its
// owner's processes it lets those in that this process has not started.
func Listen(path string, log *slog.Logger) (net.Listener, error) {
	// else who loses its parent would get the container's first process for one, and that need not be this one
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return nil, fmt.Errorf("prctl PR_SET_CHILD_SUBREAPER: %w", err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// bind(2) gives the file the mode that the socket has: there is no moment at which others could connect
	private := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		return control(c, func(fd int) error { return unix.Fchmod(fd, 0o600) })
	}}
	l, err := private.Listen(context.Background(), "unix", path)
	if err != nil {
		return nil, err
	}
	return &listener{UnixListener: l.(*net.UnixListener), log: log}, nil
}

// listener lets nobody in whom this process has started.
type listener struct {
	*net.UnixListener
	log *slog.Logger

	mu   sync.Mutex
	last time.Time // of the last line in the log
}

// Accept waits for the next one who may come in.
func (l *listener) Accept() (net.Conn, error) {
	for {
		c, err := l.AcceptUnix()
		if err != nil {
			return nil, err
		}
		pid, err := examine(c)
		if err == nil {
			return c, nil
		}
		c.Close()
		l.refused(pid, err)
	}
}

// refused logs that somebody was not let in, but no more often than there is something to learn from.
func (l *listener) refused(pid int, why error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if errors.Is(why, errGone) || time.Since(l.last) < often {
		return
	}
	l.last = time.Now()
	name, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
	l.log.Warn("a process may not ask anything of vmentry, and has tried to", "because", why, "socket", l.Addr(), "pid", pid, "name", string(bytes.TrimSpace(name)))
}

var (
	errOwn  = errors.New("vmentry has started it, or it comes from one that vmentry has started")
	errGone = errors.New("it has ended")
)

// examine says which process has made a connection, 0 for one of another PID namespace, where none of this process' descendants can have got
// to; and why it may not come in.
func examine(c *net.UnixConn) (pid int, err error) {
	raw, err := c.SyscallConn()
	if err != nil {
		return 0, err
	}
	var who *unix.Ucred
	handle := -1 // of the process; none before Linux 6.5
	err = control(raw, func(fd int) (err error) {
		if who, err = unix.GetsockoptUcred(fd, unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			return err
		}
		handle, err = unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PEERPIDFD)
		if err == unix.ENOPROTOOPT {
			handle, err = -1, nil
		}
		return err
	})
	if err != nil {
		return 0, err
	}
	if handle >= 0 {
		defer unix.Close(handle)
	}
	pid = int(who.Pid)
	if err := descends(pid, os.Getpid()); err != nil {
		return pid, err
	}
	// what was read was this process', if it has its number still
	if handle >= 0 && unix.PidfdSendSignal(handle, 0, nil, 0) == unix.ESRCH {
		return pid, errGone
	}
	return pid, nil
}

// descends is [errOwn] if a process is another one's descendant, or that one itself.
func descends(pid, from int) (err error) {
	for range generations {
		switch pid {
		case from:
			return errOwn
		case 0:
			return nil
		}
		if pid, err = parent(pid); err != nil {
			return fmt.Errorf("%w: %w", errGone, err)
		}
	}
	return errors.New("it has too many ancestors")
}

// parent is the number of a process' parent; 0 for one of another PID namespace (proc(5)).
func parent(pid int) (int, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	fields := bytes.Fields(stat[bytes.LastIndexByte(stat, ')')+1:]) // the name may be anything
	if len(fields) < 2 {
		return 0, fmt.Errorf("/proc/%d/stat is %q", pid, stat)
	}
	return strconv.Atoi(string(fields[1]))
}

func control(c syscall.RawConn, f func(fd int) error) error {
	var err error
	if closed := c.Control(func(fd uintptr) { err = f(int(fd)) }); closed != nil {
		return closed
	}
	return err
}
