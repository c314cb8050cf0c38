package disk

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

func TestLockIsExclusive(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "not", "yet", "there")
	since := time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)
	if holder, held := HeldBy(dir); held {
		t.Errorf("a directory that is not there is held by %s", holder)
	}
	first, err := TakeLock(t.Context(), dir, Holder{Host: "pod-with-a-rather-long-name-0", PID: 1, Since: since}, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = TakeLock(t.Context(), dir, Holder{Host: "b"}, 0)
	checkError(t, err, KindIO, "in use by pod-with-a-rather-long-name-0 (process 1, since 2026-07-01T12:00:00Z)")
	if holder, held := HeldBy(dir); !held || holder.Host != "pod-with-a-rather-long-name-0" {
		t.Errorf("it is held by %s, %v", holder, held)
	}
	first.Close()
	if holder, held := HeldBy(dir); held {
		t.Errorf("it is still held by %s", holder)
	}
	second, err := TakeLock(t.Context(), dir, Holder{Host: "b"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = TakeLock(t.Context(), dir, Holder{Host: "c"}, 0)
	checkError(t, err, KindIO, "in use by b ")
	second.Close()
}

// TestHolderIsPrintable: who has a lock has written the name itself.
func TestHolderIsPrintable(t *testing.T) {
	for _, tt := range []struct {
		h    Holder
		want string
	}{
		{Holder{Pod: "vm-0", Namespace: "lab", Node: "n1.example"}, "pod lab/vm-0 on node n1.example"},
		{Holder{Host: "a\nERR the end\x1b[2J"}, `"a\nERR the end\x1b[2J"`},
		{Holder{Pod: "x", Namespace: "a b", Node: "\u202e"}, `pod "a b"/x on node "\u202e"`},
		{Holder{Host: strings.Repeat("h", 4000)}, `"` + strings.Repeat("h", 253) + `"`},
	} {
		if got := tt.h.String(); got != tt.want+" (process 0, since 0001-01-01T00:00:00Z)" {
			t.Errorf("%q, want %q", got, tt.want)
		}
	}
}

func TestLockWaitsForAPredecessor(t *testing.T) {
	dir := t.TempDir()
	first, err := TakeLock(t.Context(), dir, Holder{}, 0)
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(200*time.Millisecond, func() { first.Close() })
	second, err := TakeLock(t.Context(), dir, Holder{}, LockWait)
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(100*time.Millisecond, cancel)
	if _, err := TakeLock(ctx, dir, Holder{}, time.Minute); !errors.Is(err, context.Canceled) {
		t.Errorf("stopped while waiting: %v", err)
	}
}

// childHold takes the lock, starts a program that inherits it as QEMU would, and waits to be killed.
func childHold() {
	lock, err := TakeLock(context.Background(), os.Getenv("DIR"), Holder{Host: "killed"}, 0)
	if err != nil {
		panic(err)
	}
	cmd := exec.Command("sleep", "60")
	cmd.ExtraFiles = []*os.File{lock.File()}
	if err := cmd.Start(); err != nil {
		panic(err)
	}
	fmt.Println(cmd.Process.Pid)
	time.Sleep(time.Hour)
}

func TestLockOutlivesAKilledHolderInItsChild(t *testing.T) {
	dir := t.TempDir()
	cmd := childCommand(t, "hold", "DIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	var heir int
	if _, err := fmt.Sscan(line, &heir); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Kill(heir, unix.SIGKILL) }()
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	_, err = TakeLock(t.Context(), dir, Holder{}, 100*time.Millisecond)
	checkError(t, err, KindIO, "in use by killed")
	time.AfterFunc(100*time.Millisecond, func() { _ = unix.Kill(heir, unix.SIGKILL) })
	lock, err := TakeLock(t.Context(), dir, Holder{}, LockWait)
	if err != nil {
		t.Fatal(err)
	}
	lock.Close()
}

// childNoLock is on a file system without locks, as far as it can see: flock says what ERRNO says.
func childNoLock() {
	var errno unix.Errno
	if _, err := fmt.Sscan(os.Getenv("ERRNO"), (*uintptr)(unsafe.Pointer(&errno))); err != nil {
		panic(err)
	}
	runtime.LockOSThread()
	if err := failFlock(errno); err != nil {
		panic(err)
	}
	_, err := TakeLock(context.Background(), os.Getenv("DIR"), Holder{}, 0)
	fmt.Print(err)
}

// failFlock makes flock(2) fail in this process from now on, by a seccomp filter.
func failFlock(errno unix.Errno) error {
	arch := map[string]uint32{"amd64": unix.AUDIT_ARCH_X86_64, "arm64": unix.AUDIT_ARCH_AARCH64}[runtime.GOARCH]
	// struct seccomp_data: the number of the call at 0, the architecture at 4.
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 4},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: arch, Jf: 3},
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_FLOCK, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	prog := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, e := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&prog)))
	if e != 0 {
		return e
	}
	return nil
}

func TestFileSystemWithoutLocks(t *testing.T) {
	for _, errno := range []unix.Errno{unix.ENOLCK, unix.EOPNOTSUPP, unix.ENOSYS} {
		out, err := childCommand(t, "no-lock", "DIR="+t.TempDir(), fmt.Sprintf("ERRNO=%d", errno)).Output()
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(string(out), "its file system has no locks ("+errno.Error()+")") {
			t.Errorf("%v: %s", errno, out)
		}
	}
}

func TestLockOnABrokenHolder(t *testing.T) {
	dir := t.TempDir()
	lock, err := TakeLock(t.Context(), dir, Holder{Host: "a"}, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	write(t, filepath.Join(dir, "lock"), []byte(`{"host": 3`))
	_, err = TakeLock(t.Context(), dir, Holder{}, 0)
	checkError(t, err, KindIO, "in use by somebody who left no name")
}
