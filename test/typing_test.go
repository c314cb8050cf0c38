package test

import (
	"fmt"
	"io"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/vmentry/vmentry/test/process"
)

// typing is a machine at whose console somebody types: a tiny guest with the word vmtest.commands.
type typing struct {
	*machine
	typed int
}

// startTyping starts vmentry in the given directories. The command line is put before vmentry's own, for what sets a stage.
func startTyping(t testing.TB, data, run string, settings []string, before ...string) *typing {
	t.Helper()
	line := append(before, binaries.VMEntry)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = environment(data, run, settings...)
	p := process.StartTyping(t, cmd)
	return &typing{machine: &machine{t: t, cmd: cmd, process: p, data: data, run: run, stdout: p.Stdout, stderr: p.Stderr}}
}

// begin types a shell command, which the guest runs when it has run those before it.
func (m *typing) begin(command string) (id string) {
	m.t.Helper()
	m.typed++
	id = fmt.Sprintf("q%d", m.typed)
	if _, err := io.WriteString(m.process.Stdin, id+" "+command+"\n"); err != nil {
		m.t.Fatalf("the guest takes no command: %v", err)
	}
	return id
}

// await waits for a command's end, which must be a good one, and returns what it printed.
func (m *typing) await(id string) string {
	m.t.Helper()
	m.stdout.Await(m.t, "vmtest: "+id+" ended")
	var lines []string
	code := -1
	for line := range strings.Lines(m.stdout.String()) {
		line = strings.TrimRight(line, "\r\n")
		if text, ok := strings.CutPrefix(line, "vmtest: "+id+"| "); ok {
			lines = append(lines, text)
		}
		if text, ok := strings.CutPrefix(line, "vmtest: "+id+" code "); ok {
			code, _ = strconv.Atoi(text)
		}
	}
	out := strings.Join(lines, "\n")
	if code != 0 {
		m.t.Fatalf("the guest's command %s: %d\n%s", id, code, out)
	}
	return out
}

// tell has the guest run a shell command.
func (m *typing) tell(command string) string {
	m.t.Helper()
	return m.await(m.begin(command))
}
