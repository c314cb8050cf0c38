package boot

import (
	"context"
	"errors"
	"fmt"

	"github.com/vmentry/vmentry/internal/supervise"
)

// Failure is why a start did not come to its end, and the exit code that says so.
type Failure struct {
	Code int
	Err  error
}

func (f *Failure) Error() string { return f.Err.Error() }
func (f *Failure) Unwrap() error { return f.Err }

// fail makes a [Failure]; format is that of fmt.Errorf.
func fail(code int, format string, args ...any) *Failure {
	return &Failure{code, fmt.Errorf(format, args...)}
}

// ExitCode is the code that err stands for.
func ExitCode(err error) int {
	var f *Failure
	var stop supervise.Stop
	switch {
	case err == nil:
		return supervise.OK
	case errors.As(err, &stop):
		return supervise.Stopped
	case errors.As(err, &f):
		return f.Code
	default:
		return supervise.Software
	}
}

// stopped is the request to stop that has cancelled ctx, or err if there was none.
func stopped(ctx context.Context, err error) error {
	var stop supervise.Stop
	if errors.As(context.Cause(ctx), &stop) {
		return stop
	}
	return err
}
