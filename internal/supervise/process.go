package supervise

import (
	"os"
	"os/signal"
	"runtime"
	"syscall"
)

// Command is a program to start.
type Command struct {
	Path   string
	Args   []string // without the program's own name
	Env    []string
	Stdin  *os.File // nil is /dev/null
	Stdout *os.File
	Stderr *os.File
	Files  []*os.File     // become descriptors 3, 4, …
	Last   syscall.Signal // what the kernel sends it if vmentry is killed
	// Within calls fork once, on a thread whose rights the program is to have, with what belongs to them. The thread must live until ended is closed.
	// Nil: the program has vmentry's.
	Within func(fork func(*syscall.SysProcAttr), ended <-chan struct{}) error
}

// Process is a program that was started.
type Process struct {
	PID  int
	done chan struct{}
	wait syscall.WaitStatus
}

// Done is closed when the process has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Status says how the process ended. It may be asked only after Done.
func (p *Process) Status() syscall.WaitStatus {
	<-p.done
	return p.wait
}

// Kill ends the process at once.
func (p *Process) Kill() { p.signal(syscall.SIGKILL) }

// Terminate sends SIGTERM, on which QEMU flushes its disks and ends, without asking the guest.
func (p *Process) Terminate() { p.signal(syscall.SIGTERM) }

func (p *Process) signal(s syscall.Signal) {
	select {
	case <-p.done: // the number may be somebody else's by now
	default:
		syscall.Kill(p.PID, s)
	}
}

// Reaper starts processes and waits for all that end, also for orphans that the kernel hands to PID 1. There is
// one for the whole program, and while it runs nothing else may wait: os/exec beside a wait for any child loses
// exit statuses.
type Reaper struct{ start chan startRequest }

type startRequest struct {
	command Command
	result  chan<- startResult
}

type startResult struct {
	process *Process
	err     error
}

// NewReaper begins to reap.
func NewReaper() *Reaper {
	r := &Reaper{start: make(chan startRequest)}
	go r.run()
	return r
}

// Start starts a program.
func (r *Reaper) Start(c Command) (*Process, error) {
	result := make(chan startResult)
	r.start <- startRequest{c, result}
	s := <-result
	return s.process, s.err
}

// run never returns and never lets its thread go: the kernel sends a child its death signal when the *thread* that
// made it ends (prctl(2), PR_SET_PDEATHSIG). Those of [Command.Within] are made by others meanwhile.
func (r *Reaper) run() {
	runtime.LockOSThread()
	ended := make(chan os.Signal, 1)
	signal.Notify(ended, syscall.SIGCHLD)
	running := map[int]*Process{}
	for {
		select {
		case req := <-r.start:
			p, err := req.command.fork()
			if err == nil {
				running[p.PID] = p
			}
			req.result <- startResult{p, err}
		case <-ended:
		}
		reap(running)
	}
}

// reap takes every child that has ended. One signal may stand for several.
func reap(running map[int]*Process) {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, syscall.WNOHANG, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || pid <= 0 {
			return
		}
		if p := running[pid]; p != nil {
			delete(running, pid)
			p.wait = status
			close(p.done)
		}
	}
}

func (c Command) fork() (*Process, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	var fds []uintptr
	for _, f := range append([]*os.File{c.Stdin, c.Stdout, c.Stderr}, c.Files...) {
		if f == nil {
			f = null
		}
		fds = append(fds, f.Fd())
	}
	p := &Process{done: make(chan struct{})}
	fork := func(sys *syscall.SysProcAttr) {
		sys.Pdeathsig, sys.Setpgid = c.Last, true // its own group: a terminal's Ctrl-C is not for it
		p.PID, err = syscall.ForkExec(c.Path, append([]string{c.Path}, c.Args...), &syscall.ProcAttr{Env: c.Env, Files: fds, Sys: sys})
		err = os.NewSyscallError("exec "+c.Path, err)
	}
	if c.Within == nil {
		fork(&syscall.SysProcAttr{})
	} else if refused := c.Within(fork, p.done); refused != nil {
		err = refused
	}
	runtime.KeepAlive(c.Files)
	if err != nil {
		close(p.done)
		return nil, err
	}
	return p, nil
}
