package confine

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
	"kernel.org/pub/linux/libs/security/libcap/psx"
)

// mostFiles is how many files a helper may have open. virtiofsd has one for each that the guest's kernel remembers.
const mostFiles = 1_000_000

// run lets a program take this process's place, with what c says. It returns only if that fails.
func (c Cell) run(command []string) error {
	runtime.LockOSThread() // what is given up here is the thread's, and the program is what this thread becomes
	parent := os.Getppid()
	death, err := deathSignal()
	if err != nil {
		return err
	}
	if c.ManyFiles {
		if err := allowFiles(); err != nil {
			return fmt.Errorf("cannot raise the limit of open files: %w", err)
		}
	}
	if err := unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{}); err != nil {
		return fmt.Errorf("cannot forbid core files: %w", err)
	}
	if err := c.shut(command[0]); err != nil {
		return err
	}
	if err := c.become(); err != nil {
		return err
	}
	// another user loses it (prctl(2)), and whoever has started this may be gone by now
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(death), 0, 0, 0); err != nil {
		return fmt.Errorf("cannot set the signal of the parent's death: %w", err)
	}
	if os.Getppid() != parent {
		return fmt.Errorf("whoever has started this has ended")
	}
	err = syscall.Exec(command[0], command, os.Environ())
	return fmt.Errorf("cannot execute %s: %w", command[0], err)
}

// shut takes from the calling thread all ways to more rights, and what is not in the cell's reach.
func (c Cell) shut(program string) error {
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot set no_new_privs: %w", err)
	}
	if len(c.Read)+len(c.Write) == 0 {
		return nil
	}
	if err := c.restrict(c.NoNetwork); err != nil {
		return fmt.Errorf("cannot shut %s in: %w", program, err)
	}
	return nil
}

// allowFiles raises the soft limit to the hard one.
func allowFiles() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = min(limit.Max, mostFiles)
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
}

func deathSignal() (int32, error) {
	var signal int32
	if err := unix.Prctl(unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&signal)), 0, 0, 0); err != nil {
		return 0, fmt.Errorf("cannot read the signal of the parent's death: %w", err)
	}
	return signal, nil
}

// become gives up the user and the capabilities that the calling thread shall not have.
func (c Cell) become() error {
	if c.Strip {
		dropBounding(c.Keep)
	}
	if u := c.User; u != nil {
		if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
			return fmt.Errorf("cannot keep capabilities: %w", err)
		}
		if err := u.become(); err != nil {
			return err
		}
	}
	if !c.Strip {
		return nil
	}
	return c.strip()
}

// strip takes all capabilities but those of Keep from the calling thread, and from a program that it becomes or starts.
func (c Cell) strip() error {
	if err := setCapabilities(c.Keep); err != nil {
		return fmt.Errorf("cannot give up capabilities: %w", err)
	}
	for _, n := range c.Keep { // so that a program of an ordinary user's has them too
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(n), 0, 0); err != nil {
			return fmt.Errorf("cannot keep capability %d: %w", n, err)
		}
	}
	return nil
}

// become makes the calling thread the user's, and no other: Go's own functions change all threads.
func (u *User) become() error {
	groups := make([]uint32, len(u.Groups)+1) // one more, so that there is a first
	for i, g := range u.Groups {
		groups[i] = uint32(g)
	}
	for _, call := range []struct {
		name             string
		trap, a, b, last uintptr
	}{
		{"setgroups", unix.SYS_SETGROUPS, uintptr(len(u.Groups)), uintptr(unsafe.Pointer(&groups[0])), 0},
		{"setresgid", unix.SYS_SETRESGID, uintptr(u.GID), uintptr(u.GID), uintptr(u.GID)},
		{"setresuid", unix.SYS_SETRESUID, uintptr(u.UID), uintptr(u.UID), uintptr(u.UID)},
	} {
		if _, _, errno := unix.RawSyscall(call.trap, call.a, call.b, call.last); errno != 0 {
			return fmt.Errorf("cannot become user %d, group %d: %s: %w", u.UID, u.GID, call.name, errno)
		}
	}
	runtime.KeepAlive(groups)
	return nil
}

// dropBounding takes capabilities away for good. Without SETPCAP nobody may, and no_new_privs has to do: with it, a program of root's gets no
// capability that its process did not have before.
func dropBounding(keep []int) {
	for n := 0; n <= unix.CAP_LAST_CAP; n++ {
		if !slices.Contains(keep, n) {
			_ = unix.Prctl(unix.PR_CAPBSET_DROP, uintptr(n), 0, 0, 0)
		}
	}
}

// setCapabilities gives up all capabilities but keep, as far as the calling thread has those.
func setCapabilities(keep []int) error {
	return unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &capabilities(keep)[0])
}

func capabilities(keep []int) *[2]unix.CapUserData {
	var data [2]unix.CapUserData
	for _, n := range keep {
		d, bit := &data[n/32], uint32(1)<<(n%32)
		d.Effective, d.Permitted, d.Inheritable = d.Effective|bit, d.Permitted|bit, d.Inheritable|bit
	}
	return &data
}

// Has says which of some capabilities this process may use.
func Has(wanted ...int) []int {
	var data [2]unix.CapUserData
	if unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]) != nil {
		return nil
	}
	var has []int
	for _, n := range wanted {
		if data[n/32].Effective&(1<<(n%32)) != 0 {
			has = append(has, n)
		}
	}
	return has
}

// Try says whether a program with the user and the capabilities of c could open files: those of read to read them, those of write to write
// them, too; and go through the directories of enter. The reach does not count.
func (c Cell) Try(read, write, enter []string) error {
	result, thread := make(chan error, 1), 0
	apart(func() {
		thread = unix.Gettid()
		result <- c.try(read, write, enter)
	})
	err := <-result
	for unix.Tgkill(unix.Getpid(), thread, 0) == nil { // until it has ended: it has less than [GiveUp] is to leave to all threads
		time.Sleep(100 * time.Microsecond)
	}
	return err
}

// apart runs f on a thread that nobody else uses before or after it, and that ends with f. The process's first thread would not end.
func apart(f func()) {
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		elsewhere := make(chan struct{})
		go func() {
			runtime.LockOSThread()
			close(elsewhere)
			f()
		}()
		<-elsewhere
		runtime.UnlockOSThread()
	}()
}

func (c Cell) try(read, write, enter []string) error {
	if c.User != nil {
		if err := c.User.become(); err != nil {
			return err
		}
	} else if err := setCapabilities(c.Keep); err != nil {
		return err
	}
	for _, tried := range []struct {
		files []string
		mode  uint32
	}{{read, unix.R_OK}, {write, unix.R_OK | unix.W_OK}, {enter, unix.X_OK}} {
		for _, f := range tried.files {
			if err := unix.Faccessat(unix.AT_FDCWD, f, tried.mode, unix.AT_EACCESS); err != nil {
				return &os.PathError{Op: "access", Path: f, Err: err}
			}
		}
	}
	return nil
}

// GiveUp takes all capabilities but keep from every thread of this process, and all ways to more rights from it and its children, and keeps
// other processes of the same user out of its memory.
func GiveUp(keep []int) error {
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("prctl PR_SET_DUMPABLE: %w", err)
	}
	header, data := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, capabilities(keep)
	for i := range data {
		data[i].Inheritable = 0
	}
	_, _, errno := psx.Syscall3(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(data)), 0)
	runtime.KeepAlive(data)
	if errno != 0 {
		return fmt.Errorf("capset: %w", errno)
	}
	if _, _, errno := psx.Syscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); errno != 0 {
		return fmt.Errorf("prctl PR_SET_NO_NEW_PRIVS: %w", errno)
	}
	return nil
}
