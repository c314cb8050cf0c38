package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/vmentry/vmentry/internal/supervise"
)

func TestLastMessage(t *testing.T) {
	console := []byte(strings.Repeat("earlier\r\n", 1000) + "\x1b[31mKernel panic\x1b[0m - not syncing: é\r\nCPU: 0\r\n")
	panicked := lastMessage("the guest's kernel panicked", supervise.Panicked, console)
	if !strings.HasPrefix(panicked, "the guest's kernel panicked (exit code 71)\n") || !strings.HasSuffix(panicked, "\nKernel panic - not syncing: \nCPU: 0\n") {
		t.Errorf("%q", panicked)
	}
	if len(panicked) > maxTermination || !strings.Contains(panicked, "(exit code 71)\nearlier\nearlier\n") {
		t.Errorf("%d bytes: %q", len(panicked), panicked)
	}
	trace := []byte("before\r\n[ 1.0] Kernel panic - not syncing: why\r\n" + strings.Repeat("[ 1.1]  in_some_function+0x1/0x2\r\n", 200))
	traced := lastMessage("x", supervise.Panicked, trace)
	if len(traced) > maxTermination || !strings.HasPrefix(traced, "x (exit code 71)\n[ 1.0] Kernel panic - not syncing: why\n[ 1.1]  in") {
		t.Errorf("the reason of the panic is not in it: %q", traced)
	}
	if hung := lastMessage("the guest hangs", supervise.Hung, console); !strings.HasSuffix(hung, "CPU: 0\n") {
		t.Errorf("%q", hung)
	}
	if long := lastMessage("x", supervise.Panicked, []byte(strings.Repeat("y", 10000))); len(long) > maxTermination {
		t.Errorf("%d bytes", len(long))
	}
	if got := lastMessage("the guest chose 3", 3, console); got != "the guest chose 3 (exit code 3)\n" {
		t.Errorf("%q: the console of a guest that has not failed may hold anything", got)
	}
}

// TestLeaveMessage: it replaces what is there, makes no file, and does not mind one that cannot be written.
func TestLeaveMessage(t *testing.T) {
	path := filepath.Join(t.TempDir(), "termination-log")
	leaveMessage(path, "off", 0, nil)
	if _, err := os.Stat(path); !os.IsNotExist(err) {
		t.Error("a file was made")
	}
	if err := os.WriteFile(path, []byte(strings.Repeat("old", 1000)), 0o644); err != nil {
		t.Fatal(err)
	}
	leaveMessage(path, "off", 0, nil)
	if text, _ := os.ReadFile(path); string(text) != "off (exit code 0)\n" {
		t.Errorf("%q", text)
	}
	leaveMessage("/proc/version", "off", 0, nil) // returns
}
