package disk

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// runQEMUImg runs qemu-img to its end, or ends it with ctx. It inherits the lock: if vmentry is killed, the next start waits
// for the helper and does not work on the same file beside it. Its words on standard error are the error.
func runQEMUImg(ctx context.Context, p Plan, lock *Lock, args []string) error {
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, p.Input.QEMUImg, args...)
	cmd.Env = []string{"LC_ALL=C"}
	cmd.Stderr = &stderr
	cmd.ExtraFiles = []*os.File{lock.File()}
	err := cmd.Run()
	if err == nil {
		return nil
	}
	words := strings.Join(strings.Fields(stderr.String()), " ")
	if words == "" {
		return fmt.Errorf("qemu-img: %w", err)
	}
	return &helperError{words: words, errno: errnoIn(words)}
}

// helperError is what a helper said on standard error; it begins with the helper's name.
type helperError struct {
	words string
	errno error // may be nil
}

func (e *helperError) Error() string { return e.words }

// Unwrap gives the system error that the helper spoke of, so that the advice can be the same as for one of our own.
func (e *helperError) Unwrap() error { return e.errno }

// errnoIn finds the system error that a helper's last words end with. In the C locale its text is Go's, but for the capital.
func errnoIn(words string) error {
	for _, errno := range []error{unix.ENOSPC, unix.EDQUOT, unix.EROFS, unix.EACCES, unix.EPERM} {
		if strings.Contains(strings.ToLower(words), errno.Error()) {
			return errno
		}
	}
	return nil
}
