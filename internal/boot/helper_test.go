package boot

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/vmentry/vmentry/internal/supervise"
)

// reaper is the only one of this process: it takes every child that ends.
var reaper = supervise.NewReaper()

// script is a helper that is a shell script; it is ready when it has made the file "ready" in dir.
func script(dir, name, text string) beside {
	return beside{name: name, path: "/bin/sh", args: []string{"-c", "cd " + dir + "; " + text}, greets: slog.LevelDebug,
		ready: func() bool {
			_, err := os.Stat(filepath.Join(dir, name+".ready"))
			return err == nil
		}}
}

func begin(ctx context.Context, all ...beside) (*helpers, error) {
	return startAll(ctx, all, reaper, os.Environ(), slog.New(slog.NewTextHandler(io.Discard, nil)))
}

// TestHelpersTogether: they are started side by side, so that one may wait for another, and one's end is the end of them all.
func TestHelpersTogether(t *testing.T) {
	dir := t.TempDir()
	hs, err := begin(context.Background(),
		script(dir, "one", "until [ -e two.ready ]; do sleep 0.01; done; >one.ready; exec sleep 1000"),
		script(dir, "two", ">two.ready; until [ -e end ]; do sleep 0.01; done; echo worn out >&2; exit 3"))
	if err != nil {
		t.Fatal(err)
	}
	if h := hs.gone(); h != nil {
		t.Fatalf("%s is gone", h.name)
	}
	if err := os.WriteFile(filepath.Join(dir, "end"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	<-hs.Done()
	h := hs.gone()
	if h == nil || h.name != "two" || h.failure().Error() != "two has ended: worn out" || ExitCode(h.failure()) != supervise.Unavailable {
		t.Errorf("%+v", h)
	}
	hs.close()
	if s := hs.running[0].process.Status(); !s.Signaled() {
		t.Errorf("the other one has not been ended: %v", s)
	}
}

// TestHelperThatFails: the start fails with its reason, and does not wait for the others, which are ended.
func TestHelperThatFails(t *testing.T) {
	dir := t.TempDir()
	slow := script(dir, "slow", "echo $$ >new; mv new pid; exec sleep 1000")
	bad := script(dir, "bad", "until [ -e pid ]; do sleep 0.01; done; echo no room >&2; exit 1")
	bad.advise = func(words string) string { return words + "; make some" }
	began := time.Now()
	_, err := begin(context.Background(), slow, bad)
	if err == nil || err.Error() != "bad has ended: no room; make some" {
		t.Errorf("%v", err)
	}
	if time.Since(began) >= helperStart {
		t.Error("the slow one was waited for")
	}
	pid, err := os.ReadFile(filepath.Join(dir, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat("/proc/" + strings.TrimSpace(string(pid))); err == nil {
		t.Error("the slow one still runs")
	}
}

// TestHelperStopped: a stop ends the start that waits.
func TestHelperStopped(t *testing.T) {
	dir := t.TempDir()
	ctx, stop := context.WithCancelCause(context.Background())
	go func() {
		for !script(dir, "began", "").ready() {
			time.Sleep(time.Millisecond)
		}
		stop(supervise.Stop{Signal: os.Interrupt})
	}()
	_, err := begin(ctx, script(dir, "slow", ">began.ready; exec sleep 1000"))
	if ExitCode(err) != supervise.Stopped {
		t.Errorf("%v", err)
	}
}

// TestHelperFiles: what a helper inherits is its own alone.
func TestHelperFiles(t *testing.T) {
	dir := t.TempDir()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	b := script(dir, "writer", ">writer.ready; echo hello >&3; exec 3>&-; exec sleep 1000")
	b.files = []*os.File{write}
	hs, err := begin(context.Background(), b)
	if err != nil {
		t.Fatal(err)
	}
	defer hs.close()
	if got, err := io.ReadAll(read); err != nil || string(got) != "hello\n" { // to the end: nobody else holds it
		t.Errorf("%q, %v", got, err)
	}
}
