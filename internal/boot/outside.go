package boot

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/console"
	"github.com/vmentry/vmentry/internal/probe"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/status"
)

// Names of the sockets in the run directory. Each QMP socket serves one client at a time, so each kind of client has
// its own, and a probe never stands in the way of a shutdown.
const (
	qemuDir = "qemu" // QEMU's own directory, for what it makes itself; its user may have no right to the others

	qmpSocket     = qemuDir + "/qmp.sock"    // the supervisor's
	statusSocket  = qemuDir + "/status.sock" // vmentry's, to answer those who ask how the VM is
	probeSocket   = qemuDir + "/probe.sock"  // whoever comes from outside
	serialSocket  = qemuDir + "/serial.sock" // the guest's serial port
	consoleSocket = "console.sock"           // vmentry's own, for all who attach to the console
	answerSocket  = probe.Socket             // vmentry's own: HTTP, for probes and status
	vncSocket     = qemuDir + "/vnc.sock"    // the guest's screen
	agentSocket   = qemuDir + "/agent.sock"  // the supervisor's
	agentRelay    = "guest-agent.sock"       // whoever comes from outside asks the supervisor
	agentLock     = "agent.lock"             // without a supervisor they take turns
	exitSocket    = qemuDir + "/exit.sock"
	controlSocket = "control.sock" // whoever wants something of the supervisor
)

// Probe answers `vmentry probe` where [probe] has not: whether the VM of the run directory has started up, is ready, or lives, and why or why not.
func Probe(ctx context.Context, what string) (bool, string) {
	runDir := runDir()
	ok, text, err := askVMentry(ctx, runDir, probe.Paths[what])
	switch {
	case err == nil:
		return ok, strings.TrimSpace(text)
	case ctx.Err() != nil:
		return false, probe.Silence
	}
	return probeAlone(ctx, runDir, what)
}

// askVMentry asks the vmentry of the run directory over HTTP. ok says whether its answer was 200.
func askVMentry(ctx context.Context, runDir, path string) (ok bool, text string, err error) {
	client := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "unix", filepath.Join(runDir, answerSocket))
	}}}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://vmentry"+path, nil)
	if err != nil {
		return false, "", err
	}
	response, err := client.Do(request)
	if err != nil {
		return false, "", err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return response.StatusCode == http.StatusOK, string(body), err
}

// probeAlone probes a QEMU that has no vmentry beside it. Nobody remembers then whether it was ready once.
func probeAlone(ctx context.Context, runDir, what string) (bool, string) {
	facts, err := status.ReadFacts(runDir)
	if err != nil {
		return false, err.Error()
	}
	m, err := dialOutside(ctx, runDir)
	if err != nil {
		return false, err.Error()
	}
	defer m.Close()
	if what == "live" {
		return status.Live(ctx, m)
	}
	a := outsideAgent(runDir)
	defer a.Close()
	ready, reason := facts.Ready.Check(ctx, asked(facts.Ready, m, a, runDir, prober))
	if full, ok, _ := status.ReadFull(runDir); ok && !ready {
		reason = full.String()
	}
	return ready, reason
}

// Status writes the state of the VM of the run directory to out, as JSON or for people.
func Status(ctx context.Context, out io.Writer, asJSON bool) error {
	runDir := runDir()
	_, text, err := askVMentry(ctx, runDir, "/status")
	if ctx.Err() != nil {
		return errors.New(probe.Silence)
	}
	if err != nil {
		if text, err = statusAlone(ctx, runDir); err != nil {
			return err
		}
	}
	if asJSON {
		_, err = io.WriteString(out, text)
		return err
	}
	var report status.Report
	if err := json.Unmarshal([]byte(text), &report); err != nil {
		return fmt.Errorf("the status is not to be understood: %w", err)
	}
	_, err = io.WriteString(out, report.Text())
	return err
}

// statusAlone is what can be known of a QEMU that has no vmentry beside it.
func statusAlone(ctx context.Context, runDir string) (string, error) {
	facts, err := status.ReadFacts(runDir)
	if err != nil {
		return "", err
	}
	report := status.Report{
		About:   status.About{Name: facts.Name, Network: status.Network{Mode: facts.Mode, Addresses: []netip.Addr{}, Forwards: []string{}}},
		State:   status.Unknown,
		Started: facts.Started.UTC(), Uptime: status.Seconds(time.Since(facts.Started).Seconds()), Milestones: []status.Passed{},
	}
	m, err := dialOutside(ctx, runDir)
	if err != nil {
		return "", err
	}
	defer m.Close()
	if state, err := m.RunState(ctx); err == nil {
		report.State = state
	}
	report.QEMU = m.Version.String()
	report.Live.OK, report.Live.Reason = status.Live(ctx, m)
	a := outsideAgent(runDir)
	defer a.Close()
	g := asked(facts.Ready, m, a, runDir, prober)
	report.Interfaces = g.Interfaces(ctx)
	report.Ready.OK, report.Ready.Reason = facts.Ready.Check(ctx, g)
	report.Startup = report.Ready
	text, err := json.MarshalIndent(report, "", "  ")
	return string(text) + "\n", err
}

// buttons are what can be pressed.
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
		return nil, fmt.Errorf("QEMU does not answer, or answers somebody else: of those who come by %s it hears one at a time", probeSocket)
	case err != nil:
		return nil, fmt.Errorf("the VM does not run (yet): %w", err)
	}
	return m, nil
}

// ProbeTimeout is how long a probe waits for an answer if nothing else is asked for.
const ProbeTimeout = probe.Timeout

// Console attaches the streams to the console of the VM of the run directory, until it ends, ctx does, or the person leaves. An input that
// is no terminal's may end before: the console is then followed until it has been silent for so long, if idle is not 0.
func Console(ctx context.Context, streams Streams, idle time.Duration) error {
	runDir := runDir()
	facts, err := status.ReadFacts(runDir)
	if err != nil && !errors.Is(err, status.ErrNoVM) { // one that is being prepared has a console already
		return err
	}
	conn, dialErr := net.Dial("unix", filepath.Join(runDir, consoleSocket))
	switch {
	case err != nil && dialErr != nil:
		return err
	case dialErr != nil:
		return fmt.Errorf("the console of this VM cannot be attached to: %w (there is none with VM_CONSOLE=none or VM_SUPERVISE=false)", dialErr)
	}
	defer conn.Close()
	person := term.IsTerminal(int(streams.In.Fd()))
	if person {
		fmt.Fprintf(streams.Err, "The console of %s. Ctrl-] twice leaves it.\r\n", cmp.Or(facts.Name, "the VM"))
	}
	err = console.Attachment{In: streams.In, Out: streams.Out, Idle: idle}.Run(ctx, conn)
	switch {
	case errors.Is(err, console.ErrDetached):
		err = nil
	case err == nil && person:
		fmt.Fprintln(streams.Err, "The console has ended.")
	}
	return err
}
