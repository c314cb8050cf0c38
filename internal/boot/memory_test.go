package boot

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

func TestOfFiles(t *testing.T) {
	const smaps = `00400000-00e50000 r-xp 00000000 fe:00 1234                           /usr/bin/vmentry
Rss:                8180 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
00e50000-01a05000 r--p 00ab0000 fe:00 1234                           /usr/bin/vmentry (deleted)
Anonymous:             0 kB
01a05000-01a9f000 rw-p 01605000 fe:00 1234                           /usr/bin/vmentry
Anonymous:             0 kB
7fd000000000-7fd000001000 r--p 00000000 fe:00 99                     /lib/relocated.so
Anonymous:             4 kB
c000000000-c000800000 r--p 00000000 00:00 0
Anonymous:             0 kB
7ffd08fd2000-7ffd08fd4000 r-xp 00000000 00:00 0                      [vdso]
Anonymous:             0 kB
`
	want := []mapped{{0x400000, 0xe50000}, {0xe50000, 0x1a05000}}
	if got := ofFiles(strings.NewReader(smaps)); !slices.Equal(got, want) {
		t.Errorf("%x, want %x", got, want)
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
