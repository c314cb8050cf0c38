package boot

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/internal/supervise"
)

// TestStopBeforeQEMUTakesOver: a signal that comes when nobody reads signals any more is not lost.
func TestStopBeforeQEMUTakesOver(t *testing.T) {
	signals := supervise.CatchSignals()
	syscall.Kill(syscall.Getpid(), syscall.SIGTERM)
	time.Sleep(100 * time.Millisecond)
	err := Plan{QEMU: Program{Path: "/no/such/qemu"}}.replace(context.Background(), signals, nil)
	if !errors.As(err, new(supervise.Stop)) {
		t.Errorf("%v", err)
	}
}
