package boot

import (
	"os"

	"github.com/vmentry/vmentry/internal/confine"
	"github.com/vmentry/vmentry/internal/supervise"
)

// around gives the command by which vmentry, at self, runs another one that reaches these files alone, and what it is made of.
func around(self string) func(read, write, command []string) []string {
	return func(read, write, command []string) []string {
		return confine.Reach{Read: read, Write: write}.Around(self, command)
	}
}

// aroundQEMUImg is around for qemu-img, which reads what others have made. Nil where there is nothing to shut it in with.
func aroundQEMUImg() func(read, write, command []string) []string {
	self, err := os.Executable()
	if err != nil || confine.Landlock() == 0 {
		return nil
	}
	inside := around(self)
	return func(read, write, command []string) []string {
		// it tries there which kind of locks the kernel has
		return inside(read, append([]string{os.DevNull}, write...), command)
	}
}

// Confine lets a program take this process's place; see [confine.Run].
func Confine(r confine.Reach, command []string) error {
	return fail(supervise.Unavailable, "%w", confine.Run(r, command, os.Environ()))
}
