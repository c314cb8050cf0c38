package fault

import "golang.org/x/sys/unix"

// skipCall makes a call that is about to begin none.
func skipCall(pid int) {
	var r unix.PtraceRegs
	if unix.PtraceGetRegs(pid, &r) == nil {
		r.Orig_rax = ^uint64(0)
		_ = unix.PtraceSetRegs(pid, &r)
	}
}

// setResult gives a call that has just ended another result.
func setResult(pid int, errno unix.Errno) {
	var r unix.PtraceRegs
	if unix.PtraceGetRegs(pid, &r) == nil {
		r.Rax = -uint64(errno)
		_ = unix.PtraceSetRegs(pid, &r)
	}
}
