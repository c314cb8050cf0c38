package boot

import (
	"os"

	"golang.org/x/sys/unix"

	"github.com/vmentry/vmentry/internal/confine"
)

// around gives the command by which vmentry, at self, runs another one in a cell, with these files for its reach.
func around(self string, cell confine.Cell) func(read, write, command []string) []string {
	return func(read, write, command []string) []string {
		cell.Reach = confine.Reach{Read: read, Write: write}
		return cell.Around(self, command)
	}
}

// forFiles is the cell of a program that reads and writes files of the user's, whoever they belong to, and does nothing else. Where the kernel has no
// Landlock, it still has no other capability, and no way to one.
func forFiles() confine.Cell {
	return confine.Cell{Strip: true, Keep: confine.Has(unix.CAP_DAC_OVERRIDE), NoNetwork: true}
}

// aroundQEMUImg is around for qemu-img, which reads what others have made. Nil where the system does not say which program this is.
func aroundQEMUImg() func(read, write, command []string) []string {
	self, err := os.Executable()
	if err != nil {
		return nil
	}
	inside := around(self, forFiles())
	return func(read, write, command []string) []string {
		// it tries there which kind of locks the kernel has
		return inside(read, append([]string{os.DevNull}, write...), command)
	}
}
