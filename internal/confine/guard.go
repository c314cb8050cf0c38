package confine

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Guard says where a program may connect to whose [Cell] has it. The kernel lets the program wait while the guard thinks.
type Guard struct {
	User  *User // whose the program is, if that is not who starts it: nobody else may read its memory
	Keep  []int // its capabilities, which the guard must have too
	Allow func(Connection) bool

	listener *os.File // where the kernel asks, once the program was started
	refused  error    // why there is none
}

// Connection is what a program is about to make, or a datagram that it is about to send.
type Connection struct {
	To  netip.AddrPort
	PID int // of the thread that asks
	FD  int // its socket
}

// Start begins to answer, once the program was started and until it has ended. It returns when the guard no longer needs any capability but Keep. It is an
// error where the kernel, or who has started vmentry, does not let the program have a guard: then it runs without one.
func (g *Guard) Start() error {
	if g.listener == nil {
		return g.refused
	}
	ready := make(chan error, 1)
	apart(func() { // the thread deals with files as the program's user from here on
		defer g.listener.Close()
		err := g.become()
		ready <- err
		if err == nil {
			g.serve()
		}
	})
	return <-ready
}

// become makes the calling thread one that may read the program's memory: in /proc a user is asked for as who he deals with files (ptrace(2),
// PTRACE_MODE_FSCREDS), and he must have what the program has (capabilities(7)). By all else the thread stays vmentry's own, so that the program can neither
// send it signals nor set its limits. What it may have it keeps, so that what is taken from all threads (see [GiveUp]) can be taken from it.
func (g *Guard) become() error {
	if g.User == nil {
		return nil
	}
	for _, call := range []struct {
		name string
		trap uintptr
		id   int
	}{{"setfsgid", unix.SYS_SETFSGID, g.User.GID}, {"setfsuid", unix.SYS_SETFSUID, g.User.UID}} {
		unix.RawSyscall(call.trap, uintptr(call.id), 0, 0) // it returns the one before, also where nothing has changed
		if now, _, _ := unix.RawSyscall(call.trap, ^uintptr(0), 0, 0); int(now) != call.id {
			return fmt.Errorf("%s %d: it is still %d", call.name, call.id, now)
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return err
	}
	want := capabilities(g.Keep)
	for i := range data {
		data[i].Effective = data[i].Permitted & want[i].Permitted
	}
	return unix.Capset(&header, &data[0])
}

// notification and response are struct seccomp_notif and seccomp_notif_resp (seccomp_unotify(2)).
type notification struct {
	id          uint64
	pid, flags  uint32
	call        int32
	arch        uint32
	instruction uint64
	args        [6]uint64
}

type response struct {
	id    uint64
	value int64
	errno int32
	flags uint32
}

// The ioctls of seccomp_unotify(2), and the flag that lets the kernel go on with the call.
const (
	notifyReceive = 0xc0502100
	notifySend    = 0xc0182101
	goOn          = 1
)

func (g *Guard) serve() {
	fd := int(g.listener.Fd())
	for {
		events := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		if _, err := unix.Poll(events, -1); err != nil && err != unix.EINTR {
			return
		}
		if events[0].Revents&unix.POLLIN == 0 {
			if events[0].Revents != 0 {
				return // the program has ended
			}
			continue
		}
		var n notification
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifyReceive, uintptr(unsafe.Pointer(&n))); errno != 0 {
			continue // who asked is gone
		}
		r := response{id: n.id, flags: goOn}
		if !g.judge(n) {
			// as from a port where nobody listens: what is refused is not to be told from what is not there
			r.errno, r.flags = -int32(unix.ECONNREFUSED), 0
		}
		unix.Syscall(unix.SYS_IOCTL, uintptr(fd), notifySend, uintptr(unsafe.Pointer(&r)))
	}
}

// judge reads where the call leads to. What it cannot read is refused.
func (g *Guard) judge(n notification) bool {
	at, length := n.args[1], n.args[2] // connect(2)
	if n.call == unix.SYS_SENDTO {
		at, length = n.args[4], n.args[5]
	}
	memory, err := os.Open(fmt.Sprintf("/proc/%d/mem", n.pid)) // of whoever asks: the program may have children
	if err != nil {
		return false
	}
	defer memory.Close()
	address := make([]byte, min(length, unix.SizeofSockaddrAny))
	if _, err := memory.ReadAt(address, int64(at)); err != nil {
		return false
	}
	to, internet, known := destination(address, n.call == unix.SYS_CONNECT)
	return known && (!internet || g.Allow(Connection{to, int(n.pid), int(int32(n.args[0]))}))
}

// destination reads a socket address, of connect(2) or sendto(2). internet says whether it is one of IPv4 or IPv6, known whether it is one of these or of others
// that QEMU needs: helpers' sockets, and what the C library asks the kernel before it looks up names. To send to no family is to send by IPv4
// (net/ipv4/udp.c, udp_sendmsg), and to connect there is to disconnect.
func destination(b []byte, connect bool) (to netip.AddrPort, internet, known bool) {
	if len(b) < 2 {
		return to, false, false
	}
	family := binary.NativeEndian.Uint16(b)
	switch {
	case family == unix.AF_UNIX, family == unix.AF_NETLINK, family == unix.AF_UNSPEC && connect:
		return to, false, true
	case (family == unix.AF_INET || family == unix.AF_UNSPEC) && len(b) >= unix.SizeofSockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4([4]byte(b[4:8])), binary.BigEndian.Uint16(b[2:])), true, true
	case family == unix.AF_INET6 && len(b) >= unix.SizeofSockaddrInet6-4: // the kernel takes one without a scope
		return netip.AddrPortFrom(netip.AddrFrom16([16]byte(b[8:24])).Unmap(), binary.BigEndian.Uint16(b[2:])), true, true
	}
	return to, false, false
}
