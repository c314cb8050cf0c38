package test

import (
	"crypto/sha256"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/transcript"
)

// withAgent are the settings for the tiny guest with Debian's guest agent.
func withAgent(t *testing.T, words string, settings ...string) []string {
	t.Helper()
	all := tiny(t, "vmtest.agent "+words)
	for i, s := range all {
		if initrd, ok := strings.CutPrefix(s, "VM_INITRD="); ok {
			all[i] = "VM_INITRD=" + filepath.Join(filepath.Dir(initrd), "initrd-agent")
		}
	}
	return append(all, settings...)
}

// answer is what a vmentry command has written, and its exit code.
type answer struct {
	out, err string
	code     int
}

// ask runs a vmentry command against the VM, with input on its standard input.
func (m *machine) ask(input string, args ...string) answer {
	m.t.Helper()
	cmd := exec.Command(binaries.VMEntry, args...)
	cmd.Env = environment(m.data, m.run)
	var out, errOut strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &out, &errOut
	if err := cmd.Start(); err != nil {
		m.t.Fatal(err)
	}
	give := time.AfterFunc(transcript.Patience, func() { cmd.Process.Kill() })
	defer give.Stop()
	cmd.Wait()
	return answer{out.String(), errOut.String(), cmd.ProcessState.ExitCode()}
}

// inGuest runs a shell's line in the guest, which must succeed, and returns its output.
func (m *machine) inGuest(line string) string {
	m.t.Helper()
	a := m.ask("", "exec", "--", "sh", "-c", line)
	if a.code != 0 {
		m.t.Fatalf("%s: %d\n%s%s", line, a.code, a.out, a.err)
	}
	return a.out
}

// TestExec: a real agent, in a real guest.
func TestExec(t *testing.T) {
	t.Parallel()
	m := start(t, withAgent(t, "", "VM_READY=agent"))
	m.stderr.Await(t, "QEMU started")
	if a := m.ask("", "exec", "--", "true"); a.code != 69 || !strings.Contains(a.err, "qemu-guest-agent") {
		t.Errorf("before there is an agent: %+v", a)
	}
	m.probe(1)
	m.stderr.Await(t, "the guest's agent answers")
	m.probe(0)
	for _, tt := range []struct {
		name  string
		input string
		args  []string
		want  answer
	}{
		{"output", "", []string{"--", "sh", "-c", "echo out; echo err >&2; exit 3"}, answer{"out\n", "err\n", 3}},
		{"input", "a\x00b\xff\n", []string{"--", "cat"}, answer{"a\x00b\xff\n", "", 0}},
		{"no input", "x", []string{"-n", "--", "cat"}, answer{"", "", 0}},
		{"without the dashes", "", []string{"echo", "-n", "x"}, answer{"x", "", 0}},
		{"arguments as they are", "", []string{"--", "printf", "%s|", "a b", "", "*"}, answer{"a b||*|", "", 0}},
		{"environment", "", []string{"-e", "A=b c", "--", "/bin/sh", "-c", "echo $A"}, answer{"b c\n", "", 0}},
		{"a signal", "", []string{"--", "sh", "-c", "kill -9 $$"}, answer{"", "", 137}},
		{"not found", "", []string{"--", "no-such-command"}, answer{"", "no-such-command", 127}},
		{"not to be run", "", []string{"--", "/etc"}, answer{"", "/etc", 126}},
		{"too long", "", []string{"--timeout", "1s", "--", "sleep", "1000"}, answer{"", "", 124}},
		{"no command", "", nil, answer{"", "exec takes a command", 64}},
		{"large", strings.Repeat("0123456789abcde\n", 1<<16), []string{"--", "sha256sum"}, answer{}},
	} {
		got := m.ask(tt.input, append([]string{"exec"}, tt.args...)...)
		if tt.name == "large" {
			tt.want.out = fmt.Sprintf("%x  -\n", sha256.Sum256([]byte(tt.input)))
		}
		if got.code != tt.want.code || got.out != tt.want.out || !strings.Contains(got.err, tt.want.err) {
			t.Errorf("%s: %+v, want %+v", tt.name, got, tt.want)
		}
	}
	if a := m.ask("", "status"); !strings.Contains(a.out, "10.0.2.15/24") {
		t.Errorf("the guest's address is not in its status: %+v", a)
	}
	if out := m.inGuest("dd if=/dev/zero bs=1M count=17 2>/dev/null"); len(out) != 16<<20 {
		t.Errorf("%d bytes of 17 MiB came", len(out))
	}

	// who goes away does not leave the command behind, where it can be reached
	cmd := exec.Command(binaries.VMEntry, "exec", "--", "sleep", "4242")
	cmd.Env = environment(m.data, m.run)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	for !strings.Contains(m.inGuest("ps"), "sleep 4242") {
		time.Sleep(100 * time.Millisecond)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	cmd.Wait()
	if code := cmd.ProcessState.ExitCode(); code != 143 || strings.Contains(m.inGuest("ps"), "sleep 4242") {
		t.Errorf("after SIGTERM: %d, and the guest has\n%s", code, m.inGuest("ps"))
	}

	// the clock stands still with the guest, and is set: as after an hour
	m.inGuest("date -s @$(($(date +%s) - 3600))")
	m.press("pause")
	if a := m.ask("", "exec", "--", "true"); a.code != 69 || !strings.Contains(a.err, "paused") {
		t.Errorf("while it is paused: %+v", a)
	}
	m.press("resume")
	m.stderr.Await(t, "the guest's clock was set")
	var guest int64
	fmt.Sscan(m.inGuest("date +%s"), &guest)
	if off := time.Since(time.Unix(guest, 0)); off.Abs() > 10*time.Minute {
		t.Errorf("the guest's clock is off by %s", off)
	}

	m.signal(syscall.SIGTERM)
	m.wants(0)
	if a := m.ask("", "exec", "--", "true"); a.code != 69 || !strings.Contains(a.err, "no VM runs here") {
		t.Errorf("after the end: %+v", a)
	}
}

// TestAgentShutsDown: a guest that ignores its button is asked by its agent, before it is forced off.
func TestAgentShutsDown(t *testing.T) {
	t.Parallel()
	m := start(t, withAgent(t, "vmtest.ignore-button", "VM_READY=exec:sh -c 'test -e /run/done || { touch /run/done; exit 1; }'", "VM_SHUTDOWN_TIMEOUT=60s"))
	m.stderr.Await(t, "sh succeeds in the guest")
	m.signal(syscall.SIGTERM)
	m.wants(0, "its agent was asked")
	if !strings.Contains(m.stdout.String(), "vmtest: shutdown by the agent") {
		t.Error("the agent did not do it")
	}
}

// TestExecWithoutSupervisor: those from outside ask QEMU's own socket then, in turns.
func TestExecWithoutSupervisor(t *testing.T) {
	t.Parallel()
	m := start(t, withAgent(t, "", "VM_READY=agent", "VM_SUPERVISE=false", "VM_IMAGE="+image(t, "raw")))
	m.stdout.Await(t, tinyReady)
	for _, code := m.call("probe", "ready"); code != 0; _, code = m.call("probe", "ready") {
		time.Sleep(100 * time.Millisecond)
	}
	done := make(chan answer)
	for range 3 {
		go func() { done <- m.ask("x", "exec", "--", "cat") }()
	}
	for range 3 {
		if a := <-done; a.out != "x" {
			t.Errorf("%+v", a)
		}
	}
	if a := m.ask("", "status"); !strings.Contains(a.out, "10.0.2.15/24") {
		t.Errorf("the guest's address is not in its status: %+v", a)
	}
	m.does(69, "runs without supervision", "snapshot", "create", "one")
	m.signal(syscall.SIGTERM)
	m.exit()
}
