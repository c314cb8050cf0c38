package supervise

import (
	"strings"
	"syscall"
	"testing"
)

// exited and killed make wait statuses as the kernel encodes them (wait(2)).
func exited(code int) syscall.WaitStatus         { return syscall.WaitStatus(code << 8) }
func killed(s syscall.Signal) syscall.WaitStatus { return syscall.WaitStatus(s) }
func chosen(n int) *int                          { return &n }

func TestCode(t *testing.T) {
	tests := []struct {
		name string
		end  End
		want int
		says string
	}{
		{"guest powers off", End{Shutdown: "guest-shutdown"}, 0, "powered itself off"},
		{"stopped in time", End{Shutdown: "guest-shutdown", Stopped: true}, 0, "as asked"},
		{"job stopped before it chose", End{Shutdown: "guest-shutdown", Stopped: true, Job: true}, 143, "job"},
		{"job ends without choosing", End{Shutdown: "guest-shutdown", Job: true}, 0, "powered itself off"},
		{"guest chose", End{Shutdown: "guest-shutdown", Job: true, Chosen: chosen(42)}, 42, "chose 42"},
		{"guest chose 0 and was stopped", End{Shutdown: "guest-shutdown", Stopped: true, Job: true, Chosen: chosen(0)}, 0, "chose 0"},
		{"too slow", End{Stopped: true, Forced: "too slow", Shutdown: "host-qmp-quit"}, 75, "too slow"},
		{"too slow, and killed", End{Stopped: true, Forced: "too slow", Status: killed(syscall.SIGKILL)}, 75, "too slow"},
		{"too slow after it chose", End{Forced: "too slow", Chosen: chosen(0)}, 75, "too slow"},
		{"a helper has ended", End{Lost: "passt has ended", Shutdown: "guest-shutdown"}, 69, "passt has ended"},
		{"a helper has ended, and the guest was too slow", End{Lost: "passt has ended", Forced: "too slow", Shutdown: "host-qmp-quit"}, 69, "passt has ended"},
		{"panic", End{Shutdown: "guest-panic"}, 71, "panicked"},
		{"panic of a job", End{Shutdown: "guest-panic", Job: true, Chosen: chosen(0)}, 71, "panicked"},
		{"hangs", End{Unfed: UnfedExit, Shutdown: "host-qmp-quit"}, 72, "watchdog"},
		{"a job hangs", End{Unfed: UnfedExit, Job: true, Chosen: chosen(0), Shutdown: "host-qmp-quit"}, 72, "watchdog"},
		{"hangs, and QEMU does", End{Unfed: UnfedExit, Status: killed(syscall.SIGKILL)}, 72, "watchdog"},
		{"hangs while it shuts down", End{Forced: "it has not fed its watchdog", Stopped: true}, 75, "watchdog"},
		{"powered off by its watchdog", End{Unfed: UnfedPowerOff, Shutdown: "host-qmp-quit"}, 0, "watchdog"},
		{"powered off by its watchdog after it chose", End{Unfed: UnfedPowerOff, Job: true, Chosen: chosen(3)}, 3, "chose 3"},
		{"powered off by its watchdog before it chose", End{Unfed: UnfedPowerOff, Job: true}, 72, "job"},
		{"reboot", End{Shutdown: "guest-reset"}, 76, "VM_REBOOT"},
		{"reset button", End{Shutdown: "host-qmp-system-reset"}, 76, "VM_REBOOT"},
		{"QEMU gives up", End{Shutdown: "host-error"}, 70, "host-error"},
		{"QEMU fails", End{Status: exited(1)}, 70, "status 1"},
		{"QEMU is told to end", End{Shutdown: "host-signal"}, 70, "signal"},
		{"QEMU is told to quit", End{Shutdown: "host-qmp-quit"}, 70, "quit"},
		{"QEMU ends without a word while stopping", End{Stopped: true}, 70, "without saying why"},
		{"the guest reboots while stopping", End{Stopped: true, Shutdown: "guest-reset"}, 76, "rebooted"},
		{"QEMU ends without a word", End{}, 70, "without saying why"},
		{"QEMU is killed", End{Status: killed(syscall.SIGKILL)}, 137, "signal 9"},
		{"QEMU crashes", End{Status: killed(syscall.SIGSEGV)}, 139, "signal 11"},
		{"QEMU crashes while stopping", End{Status: killed(syscall.SIGSEGV), Stopped: true}, 139, "signal 11"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			code, why := tt.end.Code()
			if code != tt.want || !strings.Contains(why, tt.says) {
				t.Errorf("got %d, %q; want %d and %q in it", code, why, tt.want, tt.says)
			}
		})
	}
}
