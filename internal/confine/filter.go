package confine

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (seccomp(2)): the call's number, and its fifth argument, of sendto(2) the address. The machines that vmentry runs
// on are all little-endian.
const (
	callNumber  = 0
	sendtoLow   = 16 + 4*8
	sendtoHigh  = sendtoLow + 4
	returnAllow = 0x7fff0000 // SECCOMP_RET_ALLOW
	returnAsk   = 0x7fc00000 // SECCOMP_RET_USER_NOTIF
)

// Of seccomp(2).
const (
	setModeFilter   = 1
	flagNewListener = 1 << 3
	flagKillable    = 1 << 5 // a call that is being judged is not interrupted by signals (Linux 5.19)
)

// asking is the filter by which the kernel asks about every connect(2), and every sendto(2) that names an address. It is there against guests, which
// make QEMU call these, and not against a QEMU that has been taken over, which can do the same by other calls.
var asking = []unix.SockFilter{
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: callNumber},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_CONNECT, Jt: 5},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_SENDTO, Jf: 5},
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: sendtoLow},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jf: 2},
	{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: sendtoHigh},
	{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: 0, Jt: 1},
	{Code: unix.BPF_RET | unix.BPF_K, K: returnAsk},
	{Code: unix.BPF_RET | unix.BPF_K, K: returnAllow},
}

// filter puts the calling thread, and all that it starts, under a filter, and returns the descriptor at which the kernel asks.
func filter() (listener int, err error) {
	program := unix.SockFprog{Len: uint16(len(asking)), Filter: &asking[0]}
	for _, flags := range []uintptr{flagNewListener | flagKillable, flagNewListener} {
		fd, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, flags, uintptr(unsafe.Pointer(&program)))
		if errno == 0 {
			return int(fd), nil
		}
		err = fmt.Errorf("seccomp: %w", errno)
	}
	return 0, err
}
