package disk

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

var someHolder = Holder{Host: "vm-0", Pod: "vm-0", Namespace: "lab", Node: "n1", PID: 1, Since: time.Date(2026, 7, 1, 12, 0, 0, 0, time.UTC)}

func TestHolderNames(t *testing.T) {
	for want, h := range map[string]Holder{
		"somebody who left no name":                                       {},
		"vm-0 (process 1, since 2026-07-01T12:00:00Z)":                    {Host: "vm-0", PID: 1, Since: someHolder.Since},
		"pod lab/vm-0 on node n1 (process 1, since 2026-07-01T12:00:00Z)": someHolder,
		"pod lab/vm-0 (process 1, since 2026-07-01T12:00:00Z)":            {Host: "vm-0", Namespace: "lab", PID: 1, Since: someHolder.Since},
		"pod vm-0 (process 1, since 2026-07-01T12:00:00Z)":                {Host: "host", Pod: "vm-0", PID: 1, Since: someHolder.Since},
	} {
		if got := h.String(); got != want {
			t.Errorf("%+v: %q, want %q", h, got, want)
		}
	}
}

// TestPatience: only a holder that may be this container's own last start is waited for.
func TestPatience(t *testing.T) {
	me := Holder{Host: "vm-0"}
	for host, want := range map[string]time.Duration{"vm-0": LockWait, "": LockWait, "vm-1": strangerWait} {
		if got := me.patience(Holder{Host: host}, LockWait); got != want {
			t.Errorf("a lock of %q is waited for %v, want %v", host, got, want)
		}
	}
	if got := me.patience(Holder{Host: "vm-1"}, 0); got != 0 {
		t.Errorf("no wait was asked for, and there is one of %v", got)
	}
}

// checkImageLock checks that an image has one writer or any number of readers. named: the file system keeps the holder's name.
func checkImageLock(t *testing.T, path string, named bool) {
	t.Helper()
	take := func(s Sharing) (*ImageLock, error) { return LockImage(context.Background(), path, s, someHolder, 0) }
	must := func(s Sharing) *ImageLock {
		t.Helper()
		l, err := take(s)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	want := "in use by pod lab/vm-0 on node n1 (process 1, since 2026-07-01T12:00:00Z)"
	if !named {
		want = "in use by somebody who left no name"
	}
	writer := must(Exclusive)
	for _, second := range []Sharing{Exclusive, Shared} {
		_, err := take(second)
		checkError(t, err, KindIO, want)
	}
	writer.Close()
	if h := imageHolder(must(Shared).File()); h.Host != "" {
		t.Errorf("the name of %v was left behind", h)
	}
	_, err := take(Exclusive) // the reader was not closed
	checkError(t, err, KindIO, "in use by somebody who left no name")
}

func TestImageLock(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "disk.img"), pattern(1000, 1))
	checkImageLock(t, path, true)
	_, err := LockImage(t.Context(), path+"-gone", Shared, someHolder, 0)
	checkError(t, err, KindIO, "no such file")
}

// TestImageLockBesideQEMU: a QEMU's own locks on an image and ours do not stand in each other's way.
func TestImageLockBesideQEMU(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "disk.img"), make([]byte, 1<<20))
	lock, err := LockImage(t.Context(), path, Exclusive, someHolder, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Close()
	run(t, "qemu-io", "-f", "raw", "-c", "write -P 7 0 64k", path) // it locks the image for itself alone
	cmd := exec.Command("qemu-io", "-f", "raw", path)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { in.Close(); _ = cmd.Wait() }()
	waitFor(t, "qemu-io to lock the image", func() bool {
		locks, err := os.ReadFile("/proc/locks")
		return err == nil && strings.Count(string(locks), inodeOf(t, path)+" ") > 1
	})
	lock.Close()
	again, err := LockImage(t.Context(), path, Exclusive, someHolder, 0)
	if err != nil {
		t.Fatalf("while QEMU has it: %v", err)
	}
	again.Close()
}

// inodeOf is the file's number as /proc/locks has it.
func inodeOf(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf(":%d", st.Ino)
}

// waitFor waits for a condition, for as long as a busy machine may need.
func waitFor(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for began := time.Now(); !cond(); time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > time.Minute {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

// TestLocksOnFileSystems tries the locks on every kind of file system that can be had here, mounted in a namespace of its own.
func TestLocksOnFileSystems(t *testing.T) {
	if os.Getenv(mountedEnv) == "" {
		again := exec.Command("/proc/self/exe", "-test.run=^TestLocksOnFileSystems$", "-test.v")
		again.Env = append(os.Environ(), mountedEnv+"=1")
		again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
		out, err := again.CombinedOutput()
		if err != nil {
			t.Errorf("%v:\n%s", err, out)
		}
		for _, line := range strings.Split(string(out), "\n") {
			if strings.Contains(line, "locks hold") {
				t.Log(strings.TrimSpace(line))
			}
		}
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	for name, mount := range map[string]func(t *testing.T, dir string){
		"tmpfs":     func(t *testing.T, dir string) { run(t, "mount", "-t", "tmpfs", "none", dir) },
		"ext4":      loopMount("mkfs.ext4", "-q"),
		"xfs":       loopMount("mkfs.xfs", "-q"),
		"overlayfs": mountOverlay,
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			mount(t, dir)
			defer run(t, "umount", "-l", dir)
			var st unix.Statfs_t
			if err := unix.Statfs(dir, &st); err != nil || fileSystems[int64(st.Type)].name != name {
				t.Fatalf("%s is mounted: %v", fileSystems[int64(st.Type)].name, err)
			}
			path := filepath.Join(dir, "disk.img")
			if name != "overlayfs" { // there it lies in the lower layer
				write(t, path, pattern(1000, 1))
			}
			checkImageLock(t, path, unix.Setxattr(path, "user.test", nil, 0) == nil)
			data := filepath.Join(dir, "data")
			first, err := TakeLock(t.Context(), data, someHolder, 0)
			if err != nil {
				t.Fatal(err)
			}
			_, err = TakeLock(t.Context(), data, Holder{Host: "b"}, 0)
			checkError(t, err, KindIO, "in use by pod lab/vm-0 on node n1")
			first.Close()
			killedHolder(t, data)
			t.Logf("%s: locks hold", name)
		})
	}
}

const mountedEnv = "VMENTRY_DISK_TEST_MOUNTED"

// killedHolder has a process take the directory, kills it with its child, and takes the directory without waiting.
func killedHolder(t *testing.T, dir string) {
	t.Helper()
	cmd := childCommand(t, "hold", "DIR="+dir)
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var heir int
	if _, err := fmt.Fscan(out, &heir); err != nil {
		t.Fatal(err)
	}
	_, err = TakeLock(t.Context(), dir, Holder{Host: "b"}, 0)
	checkError(t, err, KindIO, "in use by killed")
	_ = unix.Kill(heir, unix.SIGKILL)
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	lock, err := TakeLock(t.Context(), dir, Holder{Host: "b"}, LockWait)
	if err != nil {
		t.Fatalf("after the holder was killed: %v", err)
	}
	lock.Close()
}

// loopMount mounts a file system made by a program in a file.
func loopMount(mkfs string, options ...string) func(*testing.T, string) {
	return func(t *testing.T, dir string) {
		file := filepath.Join(t.TempDir(), "fs")
		write(t, file, nil)
		if err := os.Truncate(file, 400<<20); err != nil {
			t.Fatal(err)
		}
		run(t, mkfs, append(options, file)...)
		run(t, "mount", "-o", "loop", file, dir)
	}
}

// mountOverlay mounts an overlayfs as a container has it, with an image in the lower layer.
func mountOverlay(t *testing.T, dir string) {
	parts := t.TempDir()
	run(t, "mount", "-t", "tmpfs", "none", parts)
	t.Cleanup(func() { run(t, "umount", "-l", parts) })
	write(t, parts+"/lower/disk.img", pattern(1000, 1))
	run(t, "mkdir", parts+"/upper", parts+"/work")
	run(t, "mount", "-t", "overlay", "none", "-o", fmt.Sprintf("lowerdir=%[1]s/lower,upperdir=%[1]s/upper,workdir=%[1]s/work", parts), dir)
}

// TestBlockDeviceLock claims a loop device under two names, as two containers have it.
func TestBlockDeviceLock(t *testing.T) {
	file := write(t, filepath.Join(t.TempDir(), "disk.img"), make([]byte, 1<<20))
	device := strings.TrimSpace(run(t, "losetup", "--find", "--show", file))
	t.Cleanup(func() { run(t, "losetup", "-d", device) })
	other := filepath.Join(t.TempDir(), "xvda")
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(other, unix.S_IFBLK|0o600, int(st.Rdev)); err != nil {
		t.Fatal(err)
	}
	first, err := LockImage(t.Context(), device, Exclusive, someHolder, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = LockImage(t.Context(), other, Exclusive, someHolder, 0)
	checkError(t, err, KindIO, "in use on this machine")
	run(t, "qemu-io", "-c", "write -P 7 0 64k", "--image-opts", "driver=raw,file.driver=host_device,file.filename="+device)
	reader, err := LockImage(t.Context(), other, Shared, someHolder, 0)
	if err != nil {
		t.Fatal(err)
	}
	reader.Close()
	first.Close()
	second, err := LockImage(t.Context(), other, Exclusive, someHolder, 0)
	if err != nil {
		t.Fatal(err)
	}
	second.Close()
}
