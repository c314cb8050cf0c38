package supervise

import (
	"fmt"
	"syscall"
)

// The exit codes of vmentry, as docs/lifecycle.md explains them. Those from 64 to 78 are of sysexits.h.
const (
	OK            = 0
	Usage         = 64
	Unavailable   = 69
	Software      = 70
	Panicked      = 71
	Hung          = 72
	IOError       = 74
	ForcedOff     = 75
	Rebooted      = 76
	Misconfigured = 78
	Signalled     = 128 // plus the signal's number
	Stopped       = Signalled + int(syscall.SIGTERM)
)

// Reasons in QMP's SHUTDOWN event (ShutdownCause in QEMU's qapi/run-state.json).
const (
	byGuest      = "guest-shutdown"
	byReset      = "guest-reset"
	byPanic      = "guest-panic"
	byHostSignal = "host-signal"
	byQuit       = "host-qmp-quit"
	byButton     = "host-qmp-system-reset"
)

// Unfed is what the user wants of a guest that does not feed its watchdog, where that is its end.
type Unfed string

// The ends that such a guest can have. Only one of them counts as a failure.
const (
	UnfedPowerOff Unfed = "poweroff"
	UnfedExit     Unfed = "exit"
)

// End is how a VM came to its end.
type End struct {
	Status   syscall.WaitStatus // QEMU's
	Shutdown string             // the reason of the last SHUTDOWN event, or ""
	Stopped  bool               // vmentry was asked to stop
	Forced   string             // why vmentry ended QEMU without the guest's consent, or ""
	Unfed    Unfed              // QEMU was ended because the guest's watchdog was not fed, or ""
	Lost     string             // the helper that the VM could not go on without and that ended, with its reason, or ""
	Job      bool               // the guest had opened its exit port
	Chosen   *int               // the code that the guest chose, from 0 to 63
}

// Closed says that QEMU has ended by itself and without a failure, so that it has closed its disks.
func (e End) Closed() bool { return e.Status.Exited() && e.Status.ExitStatus() == 0 }

// Code is the exit code for e, and one line that explains it.
func (e End) Code() (int, string) {
	switch {
	case e.Lost != "":
		return Unavailable, "the VM was ended, because what it needs has: " + e.Lost
	case e.Forced != "":
		return ForcedOff, "the guest was forced off: " + e.Forced
	case e.Unfed == UnfedExit:
		return Hung, "the guest hangs: it has not fed its watchdog"
	case e.Unfed != "" && e.Chosen != nil:
		return *e.Chosen, fmt.Sprintf("the guest chose %d, and was powered off because it has not fed its watchdog", *e.Chosen)
	case e.Unfed != "" && e.Job:
		return Hung, "a job has not fed its watchdog, and was powered off before it had chosen its exit code"
	case e.Unfed != "":
		return OK, "the guest was powered off, because it has not fed its watchdog"
	case e.Status.Signaled():
		s := e.Status.Signal()
		return Signalled + int(s), fmt.Sprintf("QEMU was killed by signal %d (%s)", int(s), s)
	case e.Shutdown == byPanic:
		return Panicked, "the guest's kernel panicked; its last words are on the console"
	case e.Status.ExitStatus() != 0:
		return Software, fmt.Sprintf("QEMU ended with status %d", e.Status.ExitStatus())
	case e.Shutdown == byHostSignal:
		return Software, "QEMU was told to end by a signal that vmentry did not send"
	case e.Shutdown == byQuit:
		return Software, "QEMU was told to quit by somebody else"
	case e.Shutdown == byGuest && e.Chosen != nil:
		return *e.Chosen, fmt.Sprintf("the guest chose %d", *e.Chosen)
	case e.Shutdown == byReset || e.Shutdown == byButton:
		return Rebooted, "the guest rebooted, and VM_REBOOT is exit"
	case e.Shutdown == byGuest && e.Stopped && e.Job:
		return Stopped, "a job was stopped before it had chosen its exit code"
	case e.Shutdown == byGuest && e.Stopped:
		return OK, "the guest shut down as asked"
	case e.Shutdown == byGuest:
		return OK, "the guest powered itself off"
	case e.Shutdown != "":
		return Software, fmt.Sprintf("QEMU ended by itself (%s)", e.Shutdown)
	default:
		return Software, "QEMU ended without saying why"
	}
}
