package agent

import (
	"context"
	"fmt"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lockRetry is the time between two looks at a lock that somebody has.
const lockRetry = 20 * time.Millisecond

// Locked is dial for a socket that nobody owns: its clients take turns by a lock on the file at path (flock(2)), each for as long as it
// is connected. A client that is killed gives its turn up.
func Locked(path string, dial func(context.Context) (net.Conn, error)) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		lock, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return nil, err
		}
		if err := await(ctx, lock); err != nil {
			lock.Close()
			return nil, err
		}
		conn, err := dial(ctx)
		if err != nil {
			lock.Close()
			return nil, err
		}
		return &lockedConn{conn, lock}, nil
	}
}

func await(ctx context.Context, lock *os.File) error {
	for {
		err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return err
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: it is busy with another request", ErrSilent)
		case <-time.After(lockRetry):
		}
	}
}

type lockedConn struct {
	net.Conn
	lock *os.File
}

func (c *lockedConn) Close() error {
	err := c.Conn.Close()
	c.lock.Close()
	return err
}
