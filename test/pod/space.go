package pod

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/sys/unix"
)

// Space is a network namespace of the test's own, by the name that `ip netns` knows it by.
type Space string

// spaces counts the namespaces that this process has made, so that each gets a name of its own.
var spaces atomic.Int32

// newSpace makes a namespace that is there until the test has ended.
func newSpace(t testing.TB, role string) Space {
	t.Helper()
	s := Space(fmt.Sprintf("vmpod-%d-%d-%s", os.Getpid(), spaces.Add(1), role))
	host(t, "ip", "netns", "add", string(s))
	t.Cleanup(func() {
		if out, err := exec.Command("ip", "netns", "del", string(s)).CombinedOutput(); err != nil {
			t.Errorf("cannot delete the namespace %s: %v\n%s", s, err, out)
		}
	})
	s.Run(t, "ip", "link", "set", "lo", "up")
	return s
}

// Path is the file that stands for the namespace.
func (s Space) Path() string { return "/run/netns/" + string(s) }

// Command is a command that will run in the namespace, and sees all else as the test does.
func (s Space) Command(name string, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--net=" + s.Path(), "--", name}, args...)...)
}

// Run runs a command in the namespace that must succeed, and returns what it prints.
func (s Space) Run(t testing.TB, args ...string) string {
	t.Helper()
	return output(t, s.Command(args[0], args[1:]...))
}

// script runs lines of shell in the namespace, each of which must succeed.
func (s Space) script(t testing.TB, lines string) {
	t.Helper()
	s.Run(t, "sh", "-ec", lines)
}

// read runs a command that prints JSON and takes that into v.
func (s Space) read(t testing.TB, v any, args ...string) {
	t.Helper()
	if out := s.Run(t, args...); strings.TrimSpace(out) != "" { // ip prints nothing for an empty list now and then
		if err := json.Unmarshal([]byte(out), v); err != nil {
			t.Fatalf("%s: %v\n%s", strings.Join(args, " "), err, out)
		}
	}
}

// Do runs f in the namespace: the sockets that f opens are the namespace's, for as long as they live.
func (s Space) Do(f func() error) error {
	failed := make(chan error)
	go func() {
		// The thread is never unlocked: it ends with this goroutine, so that no other one finds itself in the namespace.
		runtime.LockOSThread()
		failed <- s.enter(f)
	}()
	return <-failed
}

func (s Space) enter(f func() error) error {
	file, err := os.Open(s.Path())
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("cannot enter %s: %w", s, err)
	}
	return f()
}

// Processes are the numbers of the processes in the namespace.
func (s Space) Processes(t testing.TB) []string {
	t.Helper()
	return strings.Fields(host(t, "ip", "netns", "pids", string(s)))
}

// Describe is what a person wants to see of the namespace when a test has failed.
func (s Space) Describe() string {
	script := "ip addr | grep -v valid_lft; ip route show table all | grep -vE '^(broadcast|multicast|anycast)'; ip neigh; bridge link; nft list ruleset"
	out, _ := s.Command("sh", "-c", script).CombinedOutput()
	return string(out)
}

// host runs a command outside of all namespaces that must succeed.
func host(t testing.TB, args ...string) string {
	t.Helper()
	return output(t, exec.Command(args[0], args[1:]...))
}

func output(t testing.TB, cmd *exec.Cmd) string {
	t.Helper()
	out, err := cmd.Output()
	if err != nil {
		var failed *exec.ExitError
		errors.As(err, &failed)
		if failed != nil {
			out = append(out, failed.Stderr...)
		}
		t.Fatalf("%s: %v\n%s", strings.Join(cmd.Args, " "), err, out)
	}
	return string(out)
}
