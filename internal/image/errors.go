package image

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// Kind is the sort of a failure. The caller maps it to an exit code.
type Kind int

// The kinds of failure.
const (
	// KindConfig: what was asked for cannot be, and asking for something else is the way out.
	KindConfig Kind = iota + 1
	// KindIO: the image could not be fetched, read, verified or written, or it was refused.
	KindIO
	// KindMissing: a program that belongs to the installation is not there.
	KindMissing
)

// Error is every failure that this package returns, except that of a context that ended: that one wraps the context's cause.
type Error struct {
	Kind Kind
	// Op is what could not be done, to be read after "cannot": "fetch https://…".
	Op string
	// Err is why.
	Err error
	// Advice is what the user can do about it; may be empty.
	Advice string
}

// Error is one line: what could not be done, why, and what to do.
func (e *Error) Error() string {
	s := "cannot " + e.Op + ": " + e.Err.Error()
	if e.Advice != "" {
		s += "; " + e.Advice
	}
	return s
}

// Unwrap gives the cause.
func (e *Error) Unwrap() error { return e.Err }

// configError is a mistake in what was asked for.
func configError(op, advice, format string, args ...any) *Error {
	return &Error{Kind: KindConfig, Op: op, Err: fmt.Errorf(format, args...), Advice: advice}
}

// refusal is an image that is not used because using it would be unsafe, or because it is not what it should be.
func refusal(op, advice, format string, args ...any) *Error {
	return &Error{Kind: KindIO, Op: op, Err: fmt.Errorf(format, args...), Advice: advice}
}

// ioError is a failed system call with the advice that belongs to its errno. The path is in op: it is cut from the cause. An error
// that is an *Error already stays as it is.
func ioError(op string, err error) error {
	var ours *Error
	if errors.As(err, &ours) {
		return err
	}
	var pathErr *os.PathError
	if errors.As(err, &pathErr) && strings.Contains(op, pathErr.Path) {
		err = pathErr.Err
	}
	return &Error{Kind: KindIO, Op: op, Err: err, Advice: ioAdvice(err)}
}

func ioAdvice(err error) string {
	switch {
	case errors.Is(err, unix.EROFS):
		return "mount a writable volume for the data directory, or name one in VM_DATA_DIR"
	case errors.Is(err, unix.EACCES), errors.Is(err, unix.EPERM):
		return fmt.Sprintf("give user %d of this container access to it (in Kubernetes: securityContext.fsGroup)", os.Geteuid())
	case errors.Is(err, unix.ENOSPC):
		return "free space on the data directory's volume or make it larger; nothing that was there has been changed"
	case errors.Is(err, unix.EDQUOT):
		return "raise the quota of the data directory's volume or free space; nothing that was there has been changed"
	}
	return ""
}
