package boot

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// hasten keeps the garbage collector from running until the heap has some 32 MiB, which no ordinary start comes to: it would take its time from
// one that is over in a moment. relax lets it run as it does by default.
func hasten() { debug.SetGCPercent(800) }
func relax()  { debug.SetGCPercent(100) }

// giveBack gives the kernel the memory back that only the preparation needed: what was translated, and those pages of the program's
// file that did it. Who stays with the VM is a small part of this program, and uses little. A page that is needed after all comes back
// from the file.
func giveBack() {
	relax()
	debug.FreeOSMemory()
	maps, err := os.Open("/proc/self/smaps")
	if err != nil {
		return
	}
	defer maps.Close()
	for _, m := range ofFiles(maps) {
		unix.Syscall(unix.SYS_MADVISE, m.start, m.end-m.start, unix.MADV_DONTNEED)
	}
}

// mapped is a range of addresses.
type mapped struct{ start, end uintptr }

// ofFiles are the ranges in /proc/PID/smaps (proc_pid_smaps(5)) that have what is in a file and nothing else, so that nothing is lost with their
// pages: they cannot be written, and have not been either. A dynamic linker writes into some before it forbids it.
func ofFiles(smaps io.Reader) []mapped {
	var all []mapped
	var this mapped
	for lines := bufio.NewScanner(smaps); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		switch {
		case len(fields) >= 5 && strings.Contains(fields[0], "-"):
			this = mapped{}
			if fields[1][1] != 'w' && fields[4] != "0" {
				fmt.Sscanf(fields[0], "%x-%x", &this.start, &this.end)
			}
		case len(fields) == 3 && fields[0] == "Anonymous:" && fields[1] == "0" && this.start < this.end:
			all = append(all, this)
		}
	}
	return all
}
