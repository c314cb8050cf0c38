package supervise

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"syscall"
	"time"
)

// Panel is what the ladder presses. Each call must end when its context does.
type Panel interface {
	Powerdown(context.Context) error // the power button: the guest decides
	Resume(context.Context) error    // a paused guest cannot see a button
	Quit(context.Context) error      // end QEMU, flushing its disks
}

// Ladder is how a VM is brought down: the power button, again and again, because a guest that is still booting
// misses the first; then QEMU is told to quit, so that it flushes its disks; then it is killed.
type Ladder struct {
	Timeout time.Duration // how long the guest may take
	Press   time.Duration // from one press of the button to the next
	Flush   time.Duration // how long QEMU may take to quit
	Answer  time.Duration // how long a QMP command may take
	// Second asks the guest in another way than by the button, when it has not heeded that for a third of Timeout. Nil: there is
	// none. It must end when its context does, and may take no longer than to be asked.
	Second func(context.Context) error
	// Unfed gets something when the guest is known to hang, because it has not fed its watchdog: it is not waited for any longer.
	// Nil: there is none.
	Unfed <-chan struct{}
	Log   *slog.Logger
}

// Descend brings vm down and returns when it has ended. It says whether the guest was forced off, and why; a second
// SIGINT on signals is such a reason. The first signal is nil where none is the reason to stop.
func (l Ladder) Descend(vm *Process, panel Panel, first os.Signal, signals <-chan os.Signal) (forced string) {
	log := l.Log
	if first != nil {
		log = log.With("signal", Name(first))
	}
	log.Info("stopping: pressing the guest's power button", "timeout", l.Timeout)
	forced = l.press(vm, panel, first, signals)
	if forced == "" {
		return ""
	}
	l.Force(vm, panel, forced)
	return forced
}

// Force brings vm down without asking the guest, for the reason that is given, and returns when it has ended.
func (l Ladder) Force(vm *Process, panel Panel, reason string) {
	l.Log.Warn("forcing the guest off", "reason", reason)
	if err := l.try(panel.Quit); err != nil {
		l.Log.Warn("QEMU does not take the order to quit, it gets SIGTERM", "error", err)
		vm.Terminate()
	}
	if ended(vm, l.Flush) {
		return
	}
	l.Log.Error("QEMU does not end, it is killed; the guest's last writes may be lost", "waited", l.Flush)
	vm.Kill()
	<-vm.Done()
}

// Starved is why a guest that hangs is not waited for.
const Starved = "it has not fed its watchdog"

// press returns "" when the VM has ended by itself, else the reason why the guest is not waited for any longer.
func (l Ladder) press(vm *Process, panel Panel, first os.Signal, signals <-chan os.Signal) string {
	deadline := time.NewTimer(l.Timeout)
	defer deadline.Stop()
	again := time.NewTicker(l.Press)
	defer again.Stop()
	second := time.NewTimer(l.Timeout / 3)
	defer second.Stop()
	interrupts := 0
	if first == syscall.SIGINT {
		interrupts = 1
	}
	pressed := l.button(panel)
	for {
		select {
		case <-vm.Done():
			return ""
		case <-deadline.C:
			return fmt.Sprintf("it did not shut down within %s (VM_SHUTDOWN_TIMEOUT)", l.Timeout)
		case <-l.Unfed:
			return Starved
		case <-second.C:
			if l.Second != nil {
				go l.second()
			}
		case <-again.C:
			select {
			case err := <-pressed:
				if err != nil { // and not because the VM has just ended
					l.Log.Warn("the power button could not be pressed", "error", err)
				}
				pressed = l.button(panel)
			default: // QEMU has not answered yet
			}
		case s := <-signals:
			if s == syscall.SIGINT {
				interrupts++
			}
			if interrupts > 1 {
				return "a second SIGINT: no more waiting"
			}
			l.Log.Info("already stopping", "signal", Name(s))
		}
	}
}

// button presses the power button, and does not wait for it: a QEMU that does not answer must not hold up the ladder.
func (l Ladder) button(panel Panel) (pressed <-chan error) {
	done := make(chan error, 1)
	go func() {
		// resume first: it does nothing to a guest that is running
		if err := l.try(panel.Resume); err != nil {
			l.Log.Debug("resume", "error", err)
		}
		done <- l.try(panel.Powerdown)
	}()
	return done
}

// secondWay is how long the second way may take to be taken.
const secondWay = 10 * time.Second

// second asks the guest in the second way. Like the button it is not waited for.
func (l Ladder) second() {
	ctx, cancel := context.WithTimeout(context.Background(), secondWay)
	defer cancel()
	if err := l.Second(ctx); err != nil {
		l.Log.Info("the guest does not heed its power button, and cannot be asked in another way", "error", err)
		return
	}
	l.Log.Info("the guest does not heed its power button: its agent was asked to shut it down")
}

func (l Ladder) try(f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(context.Background(), l.Answer)
	defer cancel()
	return f(ctx)
}

func ended(vm *Process, within time.Duration) bool {
	select {
	case <-vm.Done():
		return true
	case <-time.After(within):
		return false
	}
}
