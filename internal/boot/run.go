package boot

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/vmentry/vmentry/internal/console"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/status"
	"github.com/vmentry/vmentry/internal/supervise"
)

// How long things may take that have nothing to do with the guest.
const (
	qmpAnswer   = time.Second
	qmpStart    = 30 * time.Second // a QEMU that is being started on a busy node
	pressAgain  = 3 * time.Second
	flushDisks  = 3 * time.Second
	drainOutput = time.Second
	lastReads   = 3 * time.Second // more than drainOutput
)

// vm is a QEMU that runs, and what is known of its guest.
type vm struct {
	plan       Plan
	log        *slog.Logger
	milestones *status.Milestones
	front      *front
	process    *supervise.Process
	helpers    *helpers
	stderr     *lastWords
	agent      *guestAgent
	readers    sync.WaitGroup // end with QEMU

	mu     sync.Mutex
	end    supervise.End
	port   exitPort
	errors diskErrors
	unfed  chan struct{} // holds something when the watchdog has stopped the guest
	full   string        // why the guest is paused for want of space; empty if it is not
}

// start starts QEMU, with its guest paused, and connects to it. When it fails nothing of it is left.
func start(ctx context.Context, plan Plan, reaper *supervise.Reaper, helpers *helpers, streams Streams, keep []*os.File, front *front, log *slog.Logger, milestones *status.Milestones) (*vm, *qemu.Monitor, error) {
	stderr, qemuStderr, err := os.Pipe()
	if err != nil {
		return nil, nil, err
	}
	v := &vm{plan: plan, log: log, milestones: milestones, front: front, helpers: helpers, stderr: &lastWords{log: log, name: "QEMU", level: slog.LevelWarn}, port: exitPort{uefi: plan.flash.code != ""}, errors: diskErrors{full: make(chan string, 8)}, unfed: make(chan struct{}, 1)}
	v.agent = newGuestAgent(plan, log)
	v.process, err = plan.startQEMU(reaper, keep, qemuStderr, log)
	qemuStderr.Close()
	if err != nil {
		stderr.Close()
		return nil, nil, err
	}
	v.read(func() { v.stderr.read(stderr) })
	monitor, err := v.connect(ctx, streams)
	if err != nil {
		v.abandon()
		if h := helpers.gone(); h != nil {
			return nil, nil, stopped(ctx, h.failure())
		}
		return nil, nil, stopped(ctx, fail(supervise.Software, "QEMU could not be started: %s", v.stderr.or(err)))
	}
	return v, monitor, nil
}

// letGo lets the guest begin.
func (v *vm) letGo(monitor *qemu.Monitor) error {
	ctx, cancel := context.WithTimeout(context.Background(), qmpStart)
	defer cancel()
	if err := monitor.Resume(ctx); err != nil {
		return fail(supervise.Software, "the guest could not be started: %s", v.stderr.or(err))
	}
	v.milestones.Reach(status.QEMUStarted, "pid", v.process.PID)
	return nil
}

// abandon ends a QEMU whose guest has not run.
func (v *vm) abandon() {
	v.process.Kill()
	<-v.process.Done()
	v.finish()
}

// finish waits for QEMU's last events and words, which are still on their way when it has ended. It does not wait for ever:
// where QEMU has left a process behind that holds its descriptors, nobody would hear a stop any more.
func (v *vm) finish() {
	read := make(chan struct{})
	go func() {
		v.readers.Wait()
		close(read)
	}()
	select {
	case <-read:
	case <-time.After(lastReads):
		v.log.Warn("QEMU has ended, and something that it has started still holds its connections: they are not waited for")
	}
}

// read runs f, which ends when QEMU does.
func (v *vm) read(f func()) {
	v.readers.Add(1)
	go func() {
		defer v.readers.Done()
		f()
	}()
}

// connect joins vmentry to QEMU's sockets. QMP comes last in QEMU's own start, so when it answers the others are there.
func (v *vm) connect(ctx context.Context, streams Streams) (*qemu.Monitor, error) {
	ctx, cancel := context.WithTimeout(ctx, qmpStart)
	defer cancel()
	monitor, err := qemu.DialWait(ctx, v.plan.file(qmpSocket), v.process.Done(), v.event)
	if err != nil {
		return nil, err
	}
	v.read(func() { <-monitor.Done() })
	if v.plan.Machine.Console.Kind == qemu.ConsoleSocket {
		conn, err := net.Dial("unix", v.plan.file(serialSocket))
		if err != nil {
			return nil, err
		}
		v.read(func() { v.console(conn, streams) })
	}
	conn, err := net.Dial("unix", v.plan.file(exitSocket))
	if err != nil {
		return nil, err
	}
	v.read(func() { v.exitPort(conn) })
	return monitor, nil
}

func (v *vm) console(conn net.Conn, streams Streams) {
	defer conn.Close()
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	restore := console.Raw(streams.In)
	defer restore()
	go console.Feed(ctx, streams.In, v.front.hub)
	output := v.front.hub.Follow(streams.Out)
	v.front.hub.Carry(conn)
	if lost := output.Finish(drainOutput); lost > 0 {
		v.log.Warn("part of the console was dropped: nobody read it", "bytes", lost)
	}
}

// exitPort reads the code that the guest chooses: a number from 0 to 63 on a line, or before the port is closed. The
// last one counts. Nothing that a guest writes there can be more than an annoyance: a few bytes are kept, once, and a few lines are logged.
func (v *vm) exitPort(conn net.Conn) {
	defer conn.Close()
	lines := bufio.NewReaderSize(conn, 64)
	refused, long := false, false
	const mostWords = 8 // about the codes; a guest could fill a disk with them
	words := 0
	for {
		line, err := lines.ReadSlice('\n')
		rest := long // of a line that is no number anyway
		long = errors.Is(err, bufio.ErrBufferFull)
		if code, ok := exitCode(line); ok && !rest && !long {
			v.mu.Lock()
			v.end.Job, v.end.Chosen = true, &code
			v.mu.Unlock()
			if words++; words <= mostWords {
				v.log.Info("the guest has chosen its exit code", "code", code)
			}
		} else if len(line) > 0 && !refused {
			refused = true
			v.log.Warn("the guest's exit port takes a number from 0 to 63", "got", fmt.Sprintf("%.64q", line))
		}
		if err != nil && !long {
			return
		}
	}
}

// event takes what QEMU says of the guest.
func (v *vm) event(e qemu.Event) {
	var data struct {
		Reason string
		ID     string
		Open   bool
		Action string
	}
	json.Unmarshal(e.Data, &data)
	v.log.Debug("QMP event", "event", e.Name, "data", string(e.Data))
	v.agent.event(e.Name, data.ID, data.Open)
	v.mu.Lock()
	defer v.mu.Unlock()
	switch e.Name {
	case "SHUTDOWN":
		v.end.Shutdown = data.Reason
	case "GUEST_PANICKED":
		v.log.Error("the guest's kernel has panicked")
	case "RESET":
		v.log.Info("the guest restarts", "reason", data.Reason)
		v.front.resets()
		v.port.reset()
	case "WATCHDOG":
		v.watchdog(data.Action)
	case "VSERPORT_CHANGE":
		if data.ID == "exit-port" && v.port.change(data.Open) {
			v.log.Info("the guest has opened its exit port: it is a job, and its end is for it to choose")
		}
	case "BLOCK_IO_ERROR":
		v.diskError(e)
	}
}

// supervise stays with the VM until it has ended, and says how it did.
func (v *vm) supervise(signals <-chan os.Signal, panel *qemu.Monitor) supervise.End {
	watch, cancel := context.WithCancel(context.Background())
	defer cancel()
	go v.watchReady(watch)
	go v.watchSpace(watch, panel)
	go v.agent.watchPauses(watch)
	select {
	case <-v.process.Done():
	case <-v.unfed:
		v.endUnfed(panel)
	case <-v.helpers.Done():
		v.outliveHelper(signals, panel)
	case s := <-signals:
		v.stop(s, signals, panel)
	}
	v.finish()
	v.mu.Lock()
	defer v.mu.Unlock()
	v.end.Status = v.process.Status()
	v.end.Job = v.end.Job || v.port.isJob()
	return v.end
}

// stop brings the VM down because of the signal s.
func (v *vm) stop(s os.Signal, signals <-chan os.Signal, panel supervise.Panel) {
	v.mu.Lock()
	v.end.Stopped = true
	v.mu.Unlock()
	v.front.vm.Stops()
	v.descend(s, signals, panel)
}

// outliveHelper stays with a VM whose helper has ended: for a while, because a helper ends when QEMU lets go of it, a moment
// before QEMU's own end; then it brings the VM down.
func (v *vm) outliveHelper(signals <-chan os.Signal, panel supervise.Panel) {
	select {
	case <-v.process.Done():
		return
	case s := <-signals:
		v.stop(s, signals, panel)
		return
	case <-time.After(lastReads):
	}
	reason := v.helpers.gone().failure().Error()
	v.mu.Lock()
	ending := v.end.Shutdown != ""
	if !ending {
		v.end.Lost = reason
	}
	v.mu.Unlock()
	if !ending {
		v.log.Error(reason)
		v.descend(nil, signals, panel)
		return
	}
	select { // QEMU takes its time over its disks
	case <-v.process.Done():
	case s := <-signals:
		v.stop(s, signals, panel)
	}
}

// descend brings the VM down by the ladder; first is nil if no signal is the reason.
func (v *vm) descend(first os.Signal, signals <-chan os.Signal, panel supervise.Panel) {
	forced := v.ladder().Descend(v.process, panel, first, signals)
	v.mu.Lock()
	if forced != "" && v.full != "" {
		forced += "; " + v.full
	}
	v.end.Forced = forced
	v.mu.Unlock()
}

func (v *vm) ladder() supervise.Ladder {
	return supervise.Ladder{Timeout: v.plan.Config.ShutdownTimeout, Press: pressAgain, Flush: flushDisks, Answer: qmpAnswer,
		Second: v.agent.Shutdown, Unfed: v.unfed, Log: v.log}
}

// watchReady lets those outside ask of the guest, and asks itself until the guest is ready, less and less often.
func (v *vm) watchReady(ctx context.Context) {
	m, err := qemu.Dial(ctx, v.plan.file(statusSocket), nil)
	if err != nil {
		v.log.Warn("readiness cannot be watched", "error", err)
		return
	}
	defer m.Close()
	v.front.begin(ctx, m, v.agent.Agent, v.process.PID)
	defer v.front.end()
	const pause, longest = 250 * time.Millisecond, 2 * time.Second
	last := ""
	for wait := pause; ; wait = min(wait*5/4, longest) {
		ask, cancel := context.WithTimeout(ctx, ProbeTimeout)
		answer := v.front.vm.Ready(ask)
		cancel()
		if answer.OK {
			break
		}
		if answer.Reason != last {
			v.log.Debug("not ready", "because", answer.Reason)
			last = answer.Reason
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
	<-ctx.Done()
}

// lastWords logs what QEMU or a helper writes to standard error and remembers the end of it.
type lastWords struct {
	log  *slog.Logger
	name string // whose they are

	mu    sync.Mutex
	level slog.Level // at which they are logged
	last  string
}

func (w *lastWords) read(r io.ReadCloser) {
	defer r.Close()
	for lines := bufio.NewScanner(r); lines.Scan(); {
		w.mu.Lock()
		w.last = lines.Text()
		level := w.level
		w.mu.Unlock()
		w.log.Log(context.Background(), level, w.name+" says", "text", lines.Text())
	}
	io.Copy(io.Discard, r) // a line too long must not block the writer
}

// begin forgets what was said so far, and has the rest logged at a level.
func (w *lastWords) begin(level slog.Level) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.level, w.last = level, ""
}

// or is the last word, or err where there was none.
func (w *lastWords) or(err error) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.last == "":
		return err.Error()
	case strings.Contains(w.last, "host forwarding rule"):
		return w.last + ": that port of HOSTFWD is taken by another process here, or may not be bound (those below 1024 need a right)"
	case w.name == "QEMU" && (strings.Contains(w.last, "Permission denied") || strings.Contains(w.last, "Operation not permitted")):
		return w.last + "; QEMU is shut in, and reaches what VM_ARGS names by an absolute path; with VM_ARGS=\"-sandbox off\" it has all of vmentry's rights"
	default:
		return w.last
	}
}

// file is the path of a file in the run directory.
func (p Plan) file(name string) string { return filepath.Join(p.Config.RunDir, name) }
