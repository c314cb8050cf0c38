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
	if n := strings.Count(panicked, "\n"); n != 1+lastLines {
		t.Errorf("%d lines", n)
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
