package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/status"
)

// Names of the sockets in the run directory. Each QMP socket serves one client at a time, so each kind of client has
// its own, and a probe never stands in the way of a shutdown.
const (
	qmpSocket     = "qmp.sock"    // the supervisor's
	statusSocket  = "status.sock" // the readiness watch's
	probeSocket   = "probe.sock"  // whoever comes from outside
	consoleSocket = "console.sock"
	agentSocket   = "agent.sock"       // the supervisor's
	agentRelay    = "guest-agent.sock" // whoever comes from outside asks the supervisor
	agentLock     = "agent.lock"       // without a supervisor they take turns
	exitSocket    = "exit.sock"
	controlSocket = "control.sock" // whoever wants something of the supervisor
)

// ProbeReady answers `vmentry probe ready`: whether the VM of the run directory is ready, and why or why not.
func ProbeReady(ctx context.Context) (bool, string) {
	runDir := runDir()
	facts, err := status.ReadFacts(runDir)
	if err != nil {
		return false, err.Error()
	}
	m, err := dialOutside(ctx, runDir)
	if err != nil {
		return false, err.Error()
	}
	defer m.Close()
	a := outsideAgent(runDir)
	defer a.Close()
	ready, reason := facts.Ready.Check(ctx, asked(facts.Ready, m, a, runDir, prober))
	if full, ok, _ := status.ReadFull(runDir); ok && !ready {
		reason = full.String()
	}
	return ready, reason
}

// buttons are those of a VM.
var buttons = map[string]func(*qemu.Monitor, context.Context) error{
	"powerdown": (*qemu.Monitor).Powerdown, "reset": (*qemu.Monitor).Reset,
	"pause": (*qemu.Monitor).Pause, "resume": (*qemu.Monitor).Resume,
}

// Press presses a button of the VM of the run directory: "powerdown", "reset", "pause" or "resume".
func Press(ctx context.Context, button string) error {
	runDir := runDir()
	if _, err := status.ReadFacts(runDir); err != nil {
		return err
	}
	m, err := dialOutside(ctx, runDir)
	if err != nil {
		return err
	}
	defer m.Close()
	return press(ctx, m, runDir, button)
}

// press presses a button, and notes that a user has paused the guest, or lets it run again.
func press(ctx context.Context, m *qemu.Monitor, runDir, button string) error {
	switch button {
	case "pause":
		if err := status.Hold(runDir); err != nil {
			return err
		}
	case "resume":
		status.Release(runDir)
	}
	return buttons[button](m, ctx)
}

// runDir is the run directory that the environment names. Whoever comes from outside has the container's environment.
func runDir() string {
	cfg, _, _ := config.Parse(os.Environ())
	return cfg.RunDir
}

// dialOutside connects to the socket for those from outside. While QEMU is being started, and after it has ended,
// nobody listens there.
func dialOutside(ctx context.Context, runDir string) (*qemu.Monitor, error) {
	m, err := qemu.Dial(ctx, filepath.Join(runDir, probeSocket), nil)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, errors.New("QEMU does not answer")
	case err != nil:
		return nil, fmt.Errorf("the VM does not run (yet): %w", err)
	}
	return m, nil
}

// ProbeTimeout is how long a probe waits for an answer if nothing else is asked for.
const ProbeTimeout = 3 * time.Second
