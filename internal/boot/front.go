package boot

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/vmentry/vmentry/internal/agent"
	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/console"
	"github.com/vmentry/vmentry/internal/peer"
	"github.com/vmentry/vmentry/internal/probe"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/status"
	"github.com/vmentry/vmentry/internal/supervise"
	"github.com/vmentry/vmentry/internal/web"
)

// front is where those who come from outside meet vmentry, for as long as the run directory belongs to this start. It is there before the
// guest is, so that they can watch it begin.
type front struct {
	plan     Plan
	build    Build
	log      *slog.Logger
	hub      *console.Hub
	vm       *status.VM
	consoles *console.Server // nil where there is no console
	counts   counts
	silence  context.CancelFunc
	serving  sync.WaitGroup
}

// openFront begins to listen in the run directory, and where VM_HTTP says.
func (p Plan) openFront(build Build, milestones *status.Milestones, log *slog.Logger) (*front, error) {
	f := &front{plan: p, build: build, log: log, vm: status.NewVM(p.Ready, p.Config.RunDir, milestones)}
	f.vm.Is(p.about(build))
	searching := search{vm: f.vm, log: log}
	f.hub = console.NewHub(console.Watcher{
		First: func() { milestones.Reach(status.FirstByte) },
		Line: func(line string) {
			if console.Provisioned(line) {
				milestones.Reach(status.Provisioned)
			}
			if console.Booted(line) {
				f.vm.Boots()
			}
			searching.line(line)
		},
	})
	ctx, silence := context.WithCancel(context.Background())
	f.silence = silence
	if !p.Config.Supervise {
		return f, nil
	}
	if err := f.listen(ctx); err != nil {
		f.close()
		return nil, err
	}
	return f, nil
}

func (f *front) listen(ctx context.Context) error {
	if f.plan.Config.Console != config.ConsoleNone {
		l, err := f.plan.listen(consoleSocket, f.log)
		if err != nil {
			return err
		}
		f.consoles = f.hub.Serve(l)
	}
	site := web.Site{
		Probes:  f.probes(),
		Status:  func(ctx context.Context) any { return f.vm.Report(ctx) },
		Metrics: status.MetricsHandler(f.vm, f.sample),
		Log:     f.log,
	}
	own, err := f.plan.listen(answerSocket, f.log)
	if err != nil {
		return err
	}
	f.serve(ctx, site, own)
	if f.plan.Config.HTTP.IsZero() {
		return nil
	}
	address := f.plan.httpAddress()
	public, err := net.Listen("tcp", address)
	if err != nil {
		return fail(supervise.Unavailable, "VM_HTTP=%s: %w%s", f.plan.Config.HTTP, err, whyNotBound(err))
	}
	site.Page = f.page()
	f.serve(ctx, site, public)
	f.log.Info("serving HTTP", "address", public.Addr().String(), "read-only", f.plan.token == "")
	return nil
}

// listen listens in the run directory, for those who come from outside.
func (p Plan) listen(name string, log *slog.Logger) (net.Listener, error) {
	l, err := peer.Listen(p.file(name), log)
	if err != nil {
		return nil, fail(supervise.IOError, "the run directory cannot be used: %w", err)
	}
	return l, nil
}

func (f *front) serve(ctx context.Context, site web.Site, l net.Listener) {
	f.serving.Go(func() {
		if err := site.Serve(ctx, l); err != nil {
			f.log.Error(err.Error())
		}
	})
}

// probes are the questions, by their paths.
func (f *front) probes() map[string]func(context.Context) (bool, string) {
	plain := func(ask func(context.Context) status.Answer) func(context.Context) (bool, string) {
		return func(ctx context.Context) (bool, string) {
			a := ask(ctx)
			return a.OK, a.Reason
		}
	}
	return map[string]func(context.Context) (bool, string){
		probe.Paths["live"]:    plain(f.vm.Live),
		probe.Paths["ready"]:   plain(f.vm.Ready),
		probe.Paths["startup"]: plain(func(context.Context) status.Answer { return f.vm.Startup() }),
	}
}

// page is what people get.
func (f *front) page() *web.Page {
	page := &web.Page{Token: f.plan.token, Press: f.press}
	if f.consoles != nil {
		page.Console = func() web.Console { return seat{f.hub.Attach(true), f.hub} }
	}
	if f.plan.Config.Display == config.DisplayVNC {
		page.Screen = func(ctx context.Context) (net.Conn, error) {
			var d net.Dialer
			return d.DialContext(ctx, "unix", f.plan.file(vncSocket))
		}
	}
	return page
}

// seat is somebody who reads the console and types.
type seat struct {
	*console.Reader
	hub *console.Hub
}

// typingTime is how long one waits for a guest that does not read its console.
const typingTime = 2 * time.Second

func (s seat) Write(b []byte) (int, error) { return s.hub.Type(b, typingTime) }

// press presses a button, for somebody who came over HTTP.
func (f *front) press(ctx context.Context, button string) error {
	m, _ := f.counts.running()
	if m == nil {
		return errors.New("the VM does not run")
	}
	return press(ctx, m, f.plan.Config.RunDir, button)
}

// pollMemory is how often a guest is asked for its memory's statistics where somebody may read them, in seconds.
const pollMemory = 10

// begin lets those outside ask of the guest, through m.
func (f *front) begin(ctx context.Context, m *qemu.Monitor, a *agent.Agent, pid int) {
	f.counts.begin(m, pid)
	f.vm.Runs(asked(f.plan.Ready, m, a, f.plan.Config.RunDir, watcher))
	if f.plan.Config.HTTP.IsZero() {
		return
	}
	if err := m.PollMemory(ctx, pollMemory); err != nil {
		f.log.Debug("there will be no statistics of the guest's memory", "error", err)
	}
}

// end tells those outside that there is no guest any more.
func (f *front) end() {
	f.counts.end()
	f.vm.Ends()
}

// resets takes that the guest begins anew.
func (f *front) resets() {
	f.counts.reset()
	f.vm.Resets()
}

// close lets those who are attached see the end of the console, and ends all others.
func (f *front) close() {
	f.vm.Ends()
	f.hub.Close()
	if f.consoles != nil {
		f.consoles.Close(drainOutput)
	}
	f.silence()
	f.serving.Wait()
}

// httpAddress is where VM_HTTP is served. The address of a pod in bridge mode is the guest's, unless the port is taken from it.
func (p Plan) httpAddress() string {
	a := p.Config.HTTP
	if p.Config.Network == config.ModeBridge && !p.Config.HTTPIntercept && !a.IP.IsLoopback() {
		a.IP = loopback
		if p.Config.HTTP.IP.Is6() {
			a.IP = netip.IPv6Loopback()
		}
	}
	return a.String()
}

// httpToken is what VM_HTTP_TOKEN, or the file that stands for it, holds.
func httpToken(cfg config.Config, mistakes *config.Mistakes) string {
	if cfg.HTTPTokenFile == "" {
		return string(cfg.HTTPToken)
	}
	wrong := func(problem string) {
		*mistakes = append(*mistakes, config.Mistake{Variable: "VM_HTTP_TOKEN_FILE", Value: cfg.HTTPTokenFile, Problem: problem})
	}
	text, err := os.ReadFile(cfg.HTTPTokenFile)
	token := strings.TrimSpace(string(text))
	switch {
	case err != nil:
		wrong(reason(err))
	case token == "" || len(token) > maxToken:
		wrong(fmt.Sprintf("holds no token; write a line of 1 to %d bytes into it", maxToken))
	}
	return token
}

// maxToken is the longest token, in bytes: the page's form and the header have to carry it.
const maxToken = 1 << 10

// Build says what vmentry this is.
type Build struct{ Version, Commit string }

// about is what does not change about the VM.
func (p Plan) about(build Build) status.About {
	a := status.About{
		Name: p.Machine.Name, Version: build.Version, QEMU: p.QEMU.Version.String(),
		Accelerator: string(p.Machine.Accel), Firmware: p.firmware(), CPUs: p.Machine.CPUs, Memory: p.Machine.Memory,
		Network: status.Network{Mode: string(p.Network.Mode), Addresses: []netip.Addr{}, Forwards: []string{}},
	}
	for _, b := range p.Network.Bridges {
		a.Network.Addresses = append(a.Network.Addresses, b.Reach.Guest...)
	}
	for _, fw := range p.Config.Forwards {
		a.Network.Forwards = append(a.Network.Forwards, fw.String())
	}
	return a
}

func (p Plan) firmware() string {
	switch {
	case p.Machine.Kernel != nil:
		return "none"
	case p.Machine.Firmware != nil:
		if p.Disk.Input.SecureBoot {
			return "secureboot"
		}
		return "uefi"
	default:
		return "bios"
	}
}
