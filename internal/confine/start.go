package confine

import (
	"fmt"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Start calls fork, which is to start a program with what sys says, on a thread that has what c says, and so gives the program no more. It saves the
// program the start of another vmentry before its own. The thread ends when ended is closed, and not before the program has: a child gets its
// signal of the parent's death when the *thread* that made it ends (prctl(2)).
//
// What is the whole process's is not for a thread to give up: limits ([Cell.ManyFiles] is for [Cell.Around] alone), and the user, whom the kernel
// would take for everybody's who has it. The program itself changes that, between fork and exec, and until then keeps what it takes to do so.
func (c Cell) Start(program string, fork func(sys *syscall.SysProcAttr), ended <-chan struct{}) error {
	c = c.with(program)
	started := make(chan error, 1)
	apart(func() {
		sys, err := c.enter(program)
		if err == nil {
			fork(sys)
		}
		started <- err
		if err == nil {
			<-ended
		}
	})
	return <-started
}

// enter gives up what the calling thread and its children shall not have, and says what a child has to give up itself.
func (c Cell) enter(program string) (*syscall.SysProcAttr, error) {
	if err := c.shut(program); err != nil {
		return nil, err
	}
	if c.Strip {
		dropBounding(c.Keep)
	}
	sys := &syscall.SysProcAttr{}
	switch {
	case c.User != nil:
		sys.Credential = c.User.credential()
		if err := c.handOn(sys); err != nil {
			return nil, err
		}
	case c.Strip:
		if err := c.strip(); err != nil {
			return nil, err
		}
	}
	if g := c.Guard; g != nil {
		listener, err := filter()
		if err == nil {
			g.listener = os.NewFile(uintptr(listener), "seccomp")
		}
		g.refused = err
	}
	return sys, nil
}

// handOn lets a child that becomes another user have the capabilities of Keep. All others it loses by that (capabilities(7)), but for those that can
// be inherited.
func (c Cell) handOn(sys *syscall.SysProcAttr) error {
	if !c.Strip {
		return nil
	}
	for _, n := range c.Keep {
		sys.AmbientCaps = append(sys.AmbientCaps, uintptr(n))
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return fmt.Errorf("cannot read capabilities: %w", err)
	}
	for i := range data {
		data[i].Inheritable = 0
	}
	if err := unix.Capset(&header, &data[0]); err != nil {
		return fmt.Errorf("cannot give up capabilities: %w", err)
	}
	return nil
}

// credential is the user as a child becomes it.
func (u *User) credential() *syscall.Credential {
	c := &syscall.Credential{Uid: uint32(u.UID), Gid: uint32(u.GID)}
	for _, g := range u.Groups {
		c.Groups = append(c.Groups, uint32(g))
	}
	return c
}
