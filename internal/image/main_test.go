package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// childEnv names the function of children that a re-executed test binary runs instead of the tests.
const childEnv = "VMENTRY_IMAGE_TEST_CHILD"

// children are run in processes of their own: to be killed, in a mount namespace, or with an environment of their own.
var children = map[string]func(){
	"apply": childApply,
	"full":  childFull,
	"fetch": childFetch,
}

func TestMain(m *testing.M) {
	if child := os.Getenv(childEnv); child != "" {
		children[child]()
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// childCommand is this test binary, running one of children.
func childCommand(name string, env ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(append(os.Environ(), childEnv+"="+name), env...)
	return cmd
}

// command runs a program and gives its output.
func command(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, stderr.String())
	}
	return out
}

func write(t testing.TB, path string, content []byte) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, content, 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// diskContent is a disk of size bytes with a boot record, data that do not pack, and a large hole.
func diskContent(size int, seed uint64) []byte {
	b := make([]byte, size)
	r := rand.NewChaCha8([32]byte{byte(seed), 7})
	r.Read(b[:size/4])
	r.Read(b[size-size/8:])
	b[450], b[510], b[511] = 0x83, 0x55, 0xaa
	copy(b[446:450], []byte{0x80, 0, 0, 0})
	copy(b[454:462], []byte{1, 0, 0, 0, 1, 0, 0, 0})
	copy(b[462:510], make([]byte, 48))
	return b
}

func sum(b []byte) string {
	s := sha256.Sum256(b)
	return hex.EncodeToString(s[:])
}

// input is an Input with a data directory of its own for a path or URL.
func input(t testing.TB, source string) Input {
	t.Helper()
	in := Input{Path: source, DataDir: filepath.Join(t.TempDir(), "data")}
	if strings.Contains(source, "://") {
		u, err := url.Parse(source)
		if err != nil {
			t.Fatal(err)
		}
		shown := *u
		shown.User, shown.RawQuery = nil, ""
		in.URL, in.Path, in.Name = u, "", shown.String()
	}
	return in
}

// plan looks and plans.
func plan(in Input) (Plan, error) {
	facts, err := Inspect(in)
	if err != nil {
		return Plan{}, err
	}
	return MakePlan(in, facts)
}

// logged collects what is logged.
type logged struct{ bytes.Buffer }

func (l *logged) output() Output {
	return Output{Log: slog.New(slog.NewTextHandler(&l.Buffer, &slog.HandlerOptions{Level: slog.LevelDebug}))}
}

// quick is an applier that does not wait long.
func quick(p Plan, lock *os.File, out Output) *applier {
	a := &applier{plan: p, held: lock, out: out, step: func(string) {}, bomb: bombFloor}
	a.client = func(verified bool) *client {
		c := newClient(p.input.name(), out.Log, verified)
		c.pause, c.longest, c.stall = time.Millisecond, 20*time.Millisecond, 2*time.Second
		return c
	}
	return a
}

// makeImage plans and applies; change may change the applier before.
func makeImage(ctx context.Context, in Input, log *logged, change ...func(*applier)) (*Local, error) {
	p, err := plan(in)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(in.DataDir, 0o755); err != nil {
		return nil, err
	}
	lock, err := os.OpenFile(filepath.Join(in.DataDir, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return nil, err
	}
	defer lock.Close()
	a := quick(p, lock, log.output())
	for _, c := range change {
		c(a)
	}
	return a.apply(ctx)
}

// mustMake is makeImage that has to come off.
func mustMake(t testing.TB, in Input, change ...func(*applier)) *Local {
	t.Helper()
	var log logged
	local, err := makeImage(t.Context(), in, &log, change...)
	if err != nil {
		t.Fatalf("%v\n%s", err, log.String())
	}
	return local
}

// wantContent checks what a guest would read of an image.
func wantContent(t testing.TB, local *Local, want []byte) {
	t.Helper()
	got, err := os.ReadFile(local.Path)
	if err != nil {
		t.Fatal(err)
	}
	if local.Format == QCOW2 {
		raw := filepath.Join(t.TempDir(), "raw")
		command(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", local.Path, raw)
		if got, err = os.ReadFile(raw); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the content of %s is another: %d bytes, want %d", local.Path, len(got), len(want))
	}
}

// wantError checks an error's kind and words.
func wantError(t testing.TB, err error, kind Kind, words ...string) {
	t.Helper()
	var ours *Error
	if !errors.As(err, &ours) {
		t.Fatalf("the error is %v (%T)", err, err)
	}
	if ours.Kind != kind {
		t.Errorf("%v is of kind %d, want %d", err, ours.Kind, kind)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

// wantFiles checks the names in the directory of images, without the records.
func wantFiles(t testing.TB, in Input, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(in.DataDir, dirName))
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	var got []string
	for _, e := range entries {
		if filepath.Ext(e.Name()) != ".json" || strings.HasPrefix(e.Name(), ".") {
			got = append(got, e.Name())
		}
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("in images are %q, want %q", got, want)
	}
}

// pack packs with a real program.
func pack(t testing.TB, program string, content []byte, args ...string) []byte {
	t.Helper()
	var out, stderr bytes.Buffer
	cmd := exec.Command(program, append(args, "-c")...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(content), &out, &stderr
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s: %v: %s", program, err, stderr.String())
	}
	return out.Bytes()
}

// packers are the real programs.
var packers = map[Format]string{Gzip: "gzip", Bzip2: "bzip2", XZ: "xz", Zstd: "zstd"}

// convertTo makes a disk in a format with qemu-img.
func convertTo(t testing.TB, content []byte, format string, options ...string) []byte {
	t.Helper()
	dir := t.TempDir()
	in, out := write(t, filepath.Join(dir, "in"), content), filepath.Join(dir, "out")
	command(t, "qemu-img", append(append([]string{"convert", "-f", "raw", "-O", format}, options...), in, out)...)
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func mustURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}
