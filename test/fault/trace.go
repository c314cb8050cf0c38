//go:build amd64

// Package fault ends vmentry and its helpers in the middle of everything that they change in the data directory, and looks whether
// the next start finds the guest's data.
package fault

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Harm is what happens at the n-th system call that changes something below a directory, counted over all threads of a process
// and all its children. It happens before the call is carried out.
type Harm struct {
	At    int        `json:"at"`    // counted from 1; 0 is never
	All   bool       `json:"all"`   // kill everything, else only the process that makes the call
	Errno unix.Errno `json:"errno"` // not kill: the call fails with this
}

// Course is how a run that was watched went.
type Course struct {
	Changes int    `json:"changes"` // calls that change something, up to the end
	Step    string `json:"step"`    // that at which harm was done; empty if the end came before
	Exit    int    `json:"exit"`    // the exit code; -1 if it was killed
	Opened  int    `json:"opened"`  // calls that open the file that nobody has any business with
}

// Order is what to watch.
type Order struct {
	Dir    string // changes below it are counted
	Canary string // a file that is not to be opened
	Harm   Harm
}

// changing are the system calls that change files, by where they name the file: as a descriptor or as a path.
var changing = map[uint64]struct {
	name string
	file func(pid int, args [6]uint64) string
}{
	unix.SYS_WRITE:     {"write", byDescriptor},
	unix.SYS_PWRITE64:  {"write", byDescriptor},
	unix.SYS_PWRITEV:   {"write", byDescriptor},
	unix.SYS_FSYNC:     {"sync", byDescriptor},
	unix.SYS_FDATASYNC: {"sync", byDescriptor},
	unix.SYS_FTRUNCATE: {"truncate", byDescriptor},
	unix.SYS_FALLOCATE: {"allocate", byDescriptor},
	unix.SYS_FCHMOD:    {"chmod", byDescriptor},
	unix.SYS_FSETXATTR: {"label", byDescriptor},
	unix.SYS_FCHMODAT:  {"chmod", byPath},
	unix.SYS_MKDIRAT:   {"mkdir", byPath},
	unix.SYS_UNLINKAT:  {"remove", byPath},
	unix.SYS_RENAMEAT:  {"rename", byPath},
	unix.SYS_RENAMEAT2: {"rename", byPath},
	unix.SYS_OPENAT:    {"make", byNewPath},
}

func byDescriptor(pid int, args [6]uint64) string {
	path, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%d", pid, args[0]))
	if err != nil {
		return ""
	}
	return path
}

func byPath(pid int, args [6]uint64) string {
	path := readString(pid, args[1])
	if path != "" && !filepath.IsAbs(path) {
		at := "cwd"
		if int32(args[0]) != unix.AT_FDCWD {
			at = fmt.Sprintf("fd/%d", int32(args[0]))
		}
		dir, err := os.Readlink(fmt.Sprintf("/proc/%d/%s", pid, at))
		if err != nil {
			return ""
		}
		path = filepath.Join(dir, path)
	}
	return path
}

func byNewPath(pid int, args [6]uint64) string {
	if args[2]&(unix.O_CREAT|unix.O_TRUNC) == 0 {
		return ""
	}
	return byPath(pid, args)
}

// readString reads a C string of another process.
func readString(pid int, address uint64) string {
	const page = 4096 // what follows the string's page may not be there
	b := make([]byte, page-address%page)
	n, err := unix.ProcessVMReadv(pid, []unix.Iovec{{Base: &b[0], Len: uint64(len(b))}},
		[]unix.RemoteIovec{{Base: uintptr(address), Len: len(b)}}, 0)
	if err != nil {
		return ""
	}
	s, _, _ := strings.Cut(string(b[:n]), "\x00")
	return s
}

// watch runs a command, does the harm, and tells how it went. What it has started is gone when it returns only if the process
// ends then, too: the kernel kills what a tracer leaves behind.
func watch(cmd *exec.Cmd, order Order) (Course, error) {
	runtime.LockOSThread() // ptrace(2) is for the thread that began it
	cmd.SysProcAttr = &unix.SysProcAttr{Ptrace: true}
	if err := cmd.Start(); err != nil {
		return Course{}, err
	}
	t := tracer{main: cmd.Process.Pid, dir: order.Dir, canary: order.Canary, harm: order.Harm, known: map[int]bool{cmd.Process.Pid: true}, failing: map[int]bool{}}
	var status unix.WaitStatus
	if _, err := unix.Wait4(t.main, &status, unix.WALL, nil); err != nil {
		return Course{}, err
	}
	const options = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK | unix.PTRACE_O_TRACEVFORK |
		unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(t.main, options); err != nil {
		return Course{}, err
	}
	if err := unix.PtraceSyscall(t.main, 0); err != nil {
		return Course{}, err
	}
	return t.run()
}

type tracer struct {
	main    int
	dir     string
	canary  string
	harm    Harm
	known   map[int]bool // threads and processes that have been seen
	failing map[int]bool // those in a call that is to fail
	course  Course
}

func (t *tracer) run() (Course, error) {
	for {
		var status unix.WaitStatus
		pid, err := unix.Wait4(-1, &status, unix.WALL, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return t.course, err
		}
		if status.Exited() || status.Signaled() {
			delete(t.known, pid)
			if pid == t.main {
				t.course.Exit = -1
				if status.Exited() {
					t.course.Exit = status.ExitStatus()
				}
				return t.course, nil
			}
			continue
		}
		signal := status.StopSignal()
		switch {
		case signal == unix.SIGTRAP|0x80:
			if done := t.call(pid); done {
				t.course.Exit = -1
				return t.course, nil
			}
			signal = 0
		case signal == unix.SIGTRAP && status.TrapCause() > 0:
			signal = 0
		case signal == unix.SIGSTOP && !t.known[pid]: // a new one
			t.known[pid] = true
			signal = 0
		}
		_ = unix.PtraceSyscall(pid, int(signal)) // it may be gone by now
	}
}

// call looks at a system call, at its beginning and its end. It says whether all is to end now.
func (t *tracer) call(pid int) (end bool) {
	entry, nr, args := syscallInfo(pid)
	if !entry {
		if t.failing[pid] {
			delete(t.failing, pid)
			setResult(pid, t.harm.Errno)
		}
		return false
	}
	if nr == unix.SYS_OPENAT && t.canary != "" && byPath(pid, args) == t.canary {
		t.course.Opened++
	}
	call, ok := changing[nr]
	if !ok {
		return false
	}
	file := call.file(pid, args)
	if file != t.dir && !strings.HasPrefix(file, t.dir+"/") {
		return false
	}
	t.course.Changes++
	if t.course.Changes != t.harm.At {
		return false
	}
	t.course.Step = call.name + " " + plain(strings.TrimPrefix(file, t.dir))
	switch {
	case t.harm.Errno != 0:
		t.failing[pid] = true
		skipCall(pid)
	case t.harm.All:
		return true
	default:
		_ = unix.Kill(threadGroup(pid), unix.SIGKILL)
	}
	return false
}

// plain is a path without the digits that are another each time.
func plain(path string) string { return regexp.MustCompile(`\d+`).ReplaceAllString(path, "N") }

// threadGroup is the process that a thread is of.
func threadGroup(tid int) int {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", tid))
	var pid int
	if _, rest, ok := strings.Cut(string(b), "\nTgid:"); ok {
		fmt.Sscan(rest, &pid)
	}
	return pid
}

// syscallInfo asks with PTRACE_GET_SYSCALL_INFO (ptrace(2)), which is the same on every architecture.
func syscallInfo(pid int) (entry bool, nr uint64, args [6]uint64) {
	const getSyscallInfo = 0x420e
	var b [88]byte
	_, _, e := unix.Syscall6(unix.SYS_PTRACE, getSyscallInfo, uintptr(pid), uintptr(len(b)), uintptr(unsafe.Pointer(&b[0])), 0, 0)
	if e != 0 || b[0] != 1 {
		return false, 0, args
	}
	for i := range args {
		args[i] = binary.NativeEndian.Uint64(b[32+8*i:])
	}
	return true, binary.NativeEndian.Uint64(b[24:]), args
}
