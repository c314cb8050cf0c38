package boot

import (
	"bufio"
	"fmt"
	"os"
	"runtime/debug"
	"strings"

	"golang.org/x/sys/unix"
)

// giveBack gives the kernel the memory back that only the preparation needed: what was translated, and those pages of the program's
// file that did it. Who stays with the VM is a small part of this program, and uses little. A page that is needed after all comes back
// from the file.
func giveBack() {
	debug.FreeOSMemory()
	maps, err := os.Open("/proc/self/maps")
	if err != nil {
		return
	}
	defer maps.Close()
	for lines := bufio.NewScanner(maps); lines.Scan(); {
		if start, end, ok := readOnlyFile(lines.Text()); ok {
			unix.Syscall(unix.SYS_MADVISE, start, end-start, unix.MADV_DONTNEED)
		}
	}
}

// readOnlyFile is the range of a line of /proc/PID/maps (proc_pid_maps(5)) that a file is mapped to and that has never been written, so that
// nothing is lost with its pages.
func readOnlyFile(line string) (start, end uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) < 6 || fields[1][1] == 'w' || fields[4] == "0" {
		return 0, 0, false
	}
	_, err := fmt.Sscanf(fields[0], "%x-%x", &start, &end)
	return start, end, err == nil && start < end
}
