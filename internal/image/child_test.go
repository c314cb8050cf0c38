package image

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// childInput is the input that a child's environment names.
func childInput() Input {
	var t testing.T // input only fails on URLs that the parent has made
	in := Input{Path: os.Getenv("SOURCE"), DataDir: os.Getenv("DATA")}
	if strings.Contains(in.Path, "://") {
		in.URL = mustURL(&t, in.Path)
		in.Name, in.Path = in.Path, ""
	}
	return in
}

// childFetch makes an image once.
func childFetch() {
	var log logged
	if _, err := makeImage(context.Background(), childInput(), &log, func(a *applier) {
		inner := a.client
		a.client = func(verified bool) *client {
			c := inner(verified)
			c.attempts = 2
			return c
		}
	}); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// childApply makes an image and kills itself at the step with the number in KILL.
func childApply() {
	left, _ := strconv.Atoi(os.Getenv("KILL"))
	var log logged
	_, err := makeImage(context.Background(), childInput(), &log, func(a *applier) {
		a.step = func(done string) {
			if left--; left == 0 {
				fmt.Println(done)
				syscall.Kill(os.Getpid(), syscall.SIGKILL)
				select {}
			}
		}
	})
	if err != nil {
		fmt.Println(err, log.String())
		os.Exit(1)
	}
}

// TestKilledAtEveryStep kills a start after each change to the disk, one after the other, with the remains of the last one in place;
// then once more at a random one. The next start always gives the image, and nothing else is left.
func TestKilledAtEveryStep(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	content := diskContent(3<<20, 13)
	files := map[string][]byte{
		"raw": content, "xz": pack(t, "xz", content), "vmdk": convertTo(t, content, "vmdk"), "vmdk.gz": pack(t, "gzip", convertTo(t, content, "vmdk")),
		"fixed": convertTo(t, content, "vpc", "-o", "subformat=fixed,force_size=on"),
	}
	kills := 0
	for name, file := range files {
		s := newBadServer(t, file)
		s.before = func(w http.ResponseWriter, r *http.Request) bool { return false }
		path := write(t, filepath.Join(t.TempDir(), "disk"), file)
		for _, source := range []string{s.url(), path} {
			if name == "raw" && source == path {
				continue // it stays where it is
			}
			data := t.TempDir()
			var steps []string
			for kill := 1; ; kill++ {
				if kill > 40 {
					t.Fatalf("%s: it never comes to its end: %q", name, steps)
				}
				out, err := childCommand("apply", "SOURCE="+source, "DATA="+data, fmt.Sprint("KILL=", kill)).Output()
				if err == nil {
					break
				}
				var exit *exec.ExitError
				if !errors.As(err, &exit) || !exit.Sys().(syscall.WaitStatus).Signaled() {
					t.Fatalf("%s: %v: %s", name, err, out)
				}
				kills++
				steps = append(steps, strings.TrimSpace(string(out)))
				wantWhole(t, data, file)
				if random.IntN(2) == 0 { // else the next start finds what this one has left
					clearDir(t, data)
				}
			}
			in := childInputOf(t, source, data)
			wantContent(t, mustMake(t, in), content)
			format := Raw
			if strings.HasPrefix(name, "vmdk") {
				format = QCOW2
			}
			wantFiles(t, in, sum(file)+"."+string(format))
			t.Logf("%s from %.4s: killed after %q", name, source, steps)
		}
	}
	t.Logf("%d kills", kills)
}

// wantWhole checks that what has an image's name is one.
func wantWhole(t *testing.T, data string, file []byte) {
	t.Helper()
	for _, format := range []Format{Raw, QCOW2} {
		path := filepath.Join(data, dirName, sum(file)+"."+string(format))
		if info, err := os.Stat(path); err == nil && format == QCOW2 {
			command(t, "qemu-img", "check", "-q", path)
		} else if err == nil && info.Size() != 3<<20 {
			t.Errorf("a partial image of %d bytes", info.Size())
		}
	}
}

func clearDir(t *testing.T, dir string) {
	t.Helper()
	if err := os.RemoveAll(filepath.Join(dir, dirName)); err != nil {
		t.Fatal(err)
	}
}

func childInputOf(t testing.TB, source, data string) Input {
	in := Input{Path: source, DataDir: data}
	if strings.Contains(source, "://") {
		in.URL, in.Name, in.Path = mustURL(t, source), source, ""
	}
	return in
}

// childFull mounts a small tmpfs on DATA and makes an image in it.
func childFull() {
	if err := unix.Mount("tmpfs", os.Getenv("DATA"), "tmpfs", 0, "size=4m"); err != nil {
		fmt.Println("mount:", err)
		os.Exit(2)
	}
	in := childInput()
	_, err := makeImage(context.Background(), in, new(logged))
	left, _ := filepath.Glob(filepath.Join(in.DataDir, dirName, "*"))
	hidden, _ := filepath.Glob(filepath.Join(in.DataDir, dirName, ".*"))
	fmt.Println(err)
	fmt.Println("left:", append(left, hidden...))
}

// TestFullVolume: too little space is noticed before anything is written where it can be, and is one clear error in the middle
// where it cannot. Nothing is left behind.
func TestFullVolume(t *testing.T) {
	data := diskContent(32<<20, 14) // 12 MiB of it are no zeros
	noise := make([]byte, 16<<20)
	for i := range noise {
		noise[i] = byte(i>>12) | 1 // no zeros, and packs well
	}
	for _, tt := range []struct {
		name string
		file []byte
		says []string
	}{
		{"qcow2", convertTo(t, data, "qcow2"), []string{"it takes 12.3 MiB, and", "has 4.0 MiB left"}},
		{"packed", pack(t, "xz", data), []string{"it takes 12.0 MiB, and", "has 4.0 MiB left"}},
		{"raw", data, []string{"no space left on device; free space"}},
		{"packed well", pack(t, "xz", noise), []string{"no space left on device; free space"}},
		{"vmdk", pack(t, "gzip", convertTo(t, noise, "vmdk", "-o", "subformat=streamOptimized")), []string{"o space left on device", "free space"}},
	} {
		s := newBadServer(t, tt.file)
		cmd := exec.Command("unshare", "--mount", "--propagation", "private", "/proc/self/exe")
		self, err := os.Executable()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Args[len(cmd.Args)-1] = self
		cmd.Env = append(os.Environ(), childEnv+"=full", "SOURCE="+s.url(), "DATA="+t.TempDir())
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%s: %v: %s", tt.name, err, out)
		}
		for _, want := range append(tt.says, "cannot fetch "+s.url(), "left: []") {
			if !strings.Contains(string(out), want) {
				t.Errorf("%s: %q is not in\n%s", tt.name, want, out)
			}
		}
	}
}
