package boot

import (
	"fmt"
	"os"
	"strings"
	"testing"
)

func TestReadOnlyFile(t *testing.T) {
	for _, c := range []struct {
		name, line string
		start, end uintptr
		ok         bool
	}{
		{"OK the program's text", "00400000-00e50000 r-xp 00000000 fe:00 1234   /usr/bin/vmentry", 0x400000, 0xe50000, true},
		{"OK its constants", "00e50000-01a05000 r--p 00ab0000 fe:00 1234   /usr/bin/vmentry (deleted)", 0xe50000, 0x1a05000, true},
		{"bad its variables", "01a05000-01a9f000 rw-p 01605000 fe:00 1234   /usr/bin/vmentry", 0, 0, false},
		{"bad the heap", "c000000000-c000800000 rw-p 00000000 00:00 0", 0, 0, false},
		{"bad the kernel's own page", "7ffd08fd2000-7ffd08fd4000 r-xp 00000000 00:00 0   [vdso]", 0, 0, false},
		{"bad nothing", "", 0, 0, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			if start, end, ok := readOnlyFile(c.line); ok != c.ok || ok && (start != c.start || end != c.end) {
				t.Errorf("%x-%x, %v", start, end, ok)
			}
		})
	}
}

// TestGiveBack: less of the program is in memory, and it goes on.
func TestGiveBack(t *testing.T) {
	before := residentFile(t)
	giveBack()
	if after := residentFile(t); after >= before {
		t.Errorf("of files %d KiB were in memory, and now %d", before, after)
	}
}

// residentFile is how much of files is in this process's memory, in KiB (proc_pid_status(5)).
func residentFile(t *testing.T) (size int) {
	t.Helper()
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "RssFile:")
	if _, err := fmt.Sscan(rest, &size); err != nil {
		t.Fatal(err)
	}
	return size
}
