package disk

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// childEnv names the function of children that a re-executed test binary runs instead of the tests.
const childEnv = "VMENTRY_DISK_TEST_CHILD"

// children are run in processes of their own: to be killed, or in a mount namespace or under a filter of system calls.
var children = map[string]func(){
	"apply":      childApply,
	"apply-more": childApplyMore,
	"no-lock":    childNoLock,
	"small":      childSmallTmpfs,
	"hold":       childHold,
	"nobody":     childNobody,
	"read-only":  childReadOnly,
}

func TestMain(m *testing.M) {
	if child := os.Getenv(childEnv); child != "" {
		children[child]()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// childCommand is this test binary, running one of children.
func childCommand(t *testing.T, name string, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), childEnv+"="+name), env...)
	cmd.Stderr = os.Stderr
	return cmd
}

// run runs a program and gives its standard output.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, stderr.String())
	}
	return string(out)
}

// info is what qemu-img says of an image, in the words of this package's test.
type info struct {
	Format        string `json:"format"`
	VirtualSize   int64  `json:"virtual-size"`
	ClusterSize   int64  `json:"cluster-size"`
	Encrypted     bool   `json:"encrypted"`
	Backing       string `json:"backing-filename"`
	BackingFormat string `json:"backing-filename-format"`
	Dirty         bool   `json:"dirty-flag"`
	Snapshots     []any  `json:"snapshots"`
	Specific      struct {
		Data struct {
			Compat          string `json:"compat"`
			CompressionType string `json:"compression-type"`
			RefcountBits    int    `json:"refcount-bits"`
			LazyRefcounts   bool   `json:"lazy-refcounts"`
			Corrupt         bool   `json:"corrupt"`
			ExtendedL2      bool   `json:"extended-l2"`
			DataFile        string `json:"data-file"`
		} `json:"data"`
	} `json:"format-specific"`
}

func imgInfo(t *testing.T, path string) info {
	t.Helper()
	var i info
	if err := json.Unmarshal([]byte(run(t, "qemu-img", "info", "--output=json", path)), &i); err != nil {
		t.Fatal(err)
	}
	return i
}

// write makes a file with content.
func write(t *testing.T, path string, content []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// pattern is content that differs from place to place.
func pattern(n int, seed uint32) []byte {
	b := make([]byte, n)
	for i := range b {
		seed = seed*1664525 + 1013904223
		b[i] = byte(seed >> 24)
	}
	return b
}

// baseImage makes a raw image of size bytes that looks like a disk: boot code, signature and a partition.
func baseImage(t *testing.T, path string, size int, seed uint32) string {
	t.Helper()
	b := pattern(size, seed)
	copy(b[446:], make([]byte, 64))
	b[450], b[458] = 0x83, 1
	b[510], b[511] = 0x55, 0xaa
	copy(b[512:], make([]byte, 64<<10))
	return write(t, path, b)
}

// fixture is an image and a data directory.
type fixture struct{ in Input }

func newFixture(t *testing.T) fixture {
	t.Helper()
	dir := t.TempDir()
	return fixture{Input{
		Image: baseImage(t, filepath.Join(dir, "image", "disk.img"), 3<<20, 1),
		Size:  16 << 20, DataDir: filepath.Join(dir, "data"),
	}}
}

// looksLike knows enough formats for the tests.
func looksLike(r io.ReaderAt, size int64) (Format, error) {
	head, err := readUpTo(r, 0, min(size, headBytes))
	for _, s := range []signature{{"qcow2", 0, qcow2Magic}, {"vmdk", 0, "KDMV"}, {"gzip", 0, "\x1f\x8b"}, {"iso", 16*2048 + 1, "CD001"}} {
		if hasBytes(head, s) {
			return Format(s.name), err
		}
	}
	return FormatRaw, err
}

// recognised fills in what the caller knows of the image, which may be gone.
func (in Input) recognised() Input {
	in.Recognise = looksLike
	if f, err := os.Open(in.Image); err == nil {
		defer f.Close()
		if in.Format, err = looksLike(f, headBytes); err != nil {
			panic(err)
		}
	}
	return in
}

func (f fixture) plan(t *testing.T) Plan {
	t.Helper()
	p, err := planOf(f.in)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func planOf(in Input) (Plan, error) {
	in = in.recognised()
	facts, err := Inspect(in)
	if err != nil {
		return Plan{}, err
	}
	return MakePlan(in, facts)
}

// apply takes the lock, plans and applies.
func (f fixture) apply(t *testing.T) Plan {
	t.Helper()
	p, err := applyInput(context.Background(), f.in, func(string) {})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func applyInput(ctx context.Context, in Input, step func(string)) (Plan, error) {
	lock, err := TakeLock(ctx, in.DataDir, Holder{Host: "test", PID: os.Getpid(), Since: time.Now()}, LockWait)
	if err != nil {
		return Plan{}, err
	}
	defer lock.Close()
	p, err := planOf(in)
	if err != nil {
		return Plan{}, err
	}
	quiet := applier{step: step, note: func(string) {}, progress: func(string, float64) {}, now: time.Now}
	return p, quiet.apply(ctx, p, lock)
}

// guestWrites writes a pattern into the overlay as a guest would.
func guestWrites(t *testing.T, overlay string, value byte, off, n int) {
	t.Helper()
	run(t, "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -P %d %d %d", value, off, n), "-c", "flush", overlay)
}

// guestReads checks that the pattern is there.
func guestReads(t *testing.T, overlay string, value byte, off, n int) {
	t.Helper()
	out := run(t, "qemu-io", "-r", "-f", "qcow2", "-c", fmt.Sprintf("read -P %d %d %d", value, off, n), overlay)
	if bytes.Contains([]byte(out), []byte("Pattern verification failed")) {
		t.Errorf("the guest's data at %d are lost: %s", off, out)
	}
}
