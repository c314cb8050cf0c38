package boot

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/confine"
	"github.com/vmentry/vmentry/internal/console"
	"github.com/vmentry/vmentry/internal/disk"
	"github.com/vmentry/vmentry/internal/network"
	"github.com/vmentry/vmentry/internal/provision"
	"github.com/vmentry/vmentry/internal/status"
	"github.com/vmentry/vmentry/internal/supervise"
	"github.com/vmentry/vmentry/internal/tpm"
	"github.com/vmentry/vmentry/internal/volume"
)

// Streams are standard input, output and error.
type Streams struct{ In, Out, Err *os.File }

// Run is vmentry's main command: it boots the VM, stays with it until it is off, and returns the exit code.
func Run(signals *supervise.Signals, began time.Time, streams Streams, build Build, qemuArgs []string) int {
	hasten()
	// neither this process nor its children leave what they know in a core file
	_ = unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	cfg, warnings, mistakes := config.Parse(os.Environ())
	logged := console.NewWriter(streams.Err) // whoever reads the log must not be able to stop a shutdown
	defer logged.Flush(drainOutput)
	log := newLogger(logged, string(cfg.LogFormat), cfg.LogLevel)
	milestones := status.NewMilestones(began, log)
	for _, w := range warnings {
		log.Warn(w.String()) // before all mistakes: a misspelt variable may be the reason of them
	}

	// until the guest runs, the first signal ends everything that is under way
	ctx, handOver := signals.Until(context.Background())
	var last []byte // of the guest's console
	end, err := func() (supervise.End, error) {
		plan, err := prepare(ctx, cfg, mistakes, qemuArgs, "")
		if err != nil {
			return supervise.End{}, err
		}
		plan.announce(log)
		if !plan.Pending() {
			plan.announceMachine(log)
		}
		milestones.Reach(status.Configured)
		run, err := plan.makeRunDir(ctx)
		if err != nil {
			return supervise.End{}, err
		}
		defer run.Close()
		defer plan.clearRunDir() // of secrets first of all, however far the start has come
		front, err := plan.openFront(build, milestones, log)
		if err != nil {
			return supervise.End{}, err
		}
		defer front.close()
		defer func() { last = front.hub.Last(2 * maxTermination) }()
		if err := plan.release(); err != nil {
			return supervise.End{}, err
		}
		held, err := plan.lockData(ctx)
		if err != nil {
			return supervise.End{}, stopped(ctx, err)
		}
		defer func() { held.close() }()
		if err := plan.makeImage(ctx, held.data, streams, log); err != nil {
			return supervise.End{}, err
		}
		locked, unlock, err := plan.lockMore(ctx)
		if err != nil {
			return supervise.End{}, err
		}
		defer unlock()
		if err := plan.apply(ctx, &held, log, milestones); err != nil {
			return supervise.End{}, err
		}
		keep := slices.Concat([]*os.File{run}, held.files(), locked)
		if err := held.begins(); err != nil {
			return supervise.End{}, err
		}
		if !cfg.Supervise {
			if err := held.settle(); err != nil {
				return supervise.End{}, err
			}
			milestones.Reach(status.NetworkReady, "mode", string(plan.Network.Mode))
			handOver()
			logged.Flush(drainOutput)
			return supervise.End{}, plan.replace(ctx, signals, keep)
		}
		end, err := plan.run(ctx, handOver, signals, streams, &held, keep, front, log, milestones)
		if err == nil && end.Closed() {
			if err := held.ended(); err != nil {
				log.Warn("the next start will check the disk", "error", err)
			}
		}
		return end, err
	}()
	if err != nil {
		code := ExitCode(err)
		report(log, err, code)
		leaveMessage(terminationLog, err.Error(), code, nil)
		return code
	}
	code, why := end.Code()
	log.Log(context.Background(), severity(code), "the end: "+why, "exit", code)
	leaveMessage(terminationLog, why, code, last)
	return code
}

// severity is how bad an exit code is.
func severity(code int) slog.Level {
	switch {
	case code == supervise.OK || code == supervise.Rebooted || code == supervise.Stopped:
		return slog.LevelInfo
	case code < supervise.Usage:
		return slog.LevelInfo // the guest's own
	default:
		return slog.LevelError
	}
}

// report logs a failure, an event for each of its lines.
func report(log *slog.Logger, err error, code int) {
	if errors.As(err, new(supervise.Stop)) {
		log.Info("the end: "+err.Error()+" before the guest ran", "exit", code)
		return
	}
	lines := strings.Split(err.Error(), "\n")
	for i, line := range lines {
		attrs := []any{}
		if i == len(lines)-1 {
			attrs = append(attrs, "exit", code)
		}
		log.Error(strings.TrimRight(line, " "), attrs...)
	}
}

// announce logs the warnings, and what is worth one about the guest's configuration.
func (p Plan) announce(log *slog.Logger) {
	for _, w := range slices.Concat(p.Image.Warnings, p.Network.Warnings, p.Volumes.Warnings) {
		log.Warn(w)
	}
	if confine.Landlock() == 0 {
		log.Debug("QEMU and its helpers reach all files that their user may: this kernel has no Landlock, or it is switched off")
	}
	for _, m := range p.Provision.Messages {
		level := slog.LevelInfo
		if m.Severity >= provision.Warning {
			level = slog.LevelWarn
		}
		log.Log(context.Background(), level, m.String())
	}
}

// announceMachine logs what was chosen for the machine and its disk. All of that is known once the image is there.
func (p Plan) announceMachine(log *slog.Logger) {
	for _, w := range slices.Concat(p.Disk.Warnings, p.More.Warnings) {
		log.Warn(w)
	}
	for _, c := range p.Chosen {
		level := slog.LevelDebug
		if slices.Contains([]string{"accelerator", "firmware", "network"}, c.Name) {
			level = slog.LevelInfo // what decides about the guest's speed, whether it boots, and how it is reached
		}
		log.Log(context.Background(), level, c.Name+": "+c.Value, "because", c.Why)
	}
	if len(p.Volumes.Shares) > 0 {
		log.Info("virtiofsd runs "+p.Volumes.Sandbox.String(), "volumes", len(p.Volumes.Shares), "version", p.Volumes.Virtiofsd.Version)
	}
	if p.TPM.Wanted() {
		log.Info("the TPM is swtpm's", "version", p.TPM.Swtpm.Version, "state", p.TPM.State)
	}
	log.Debug("QEMU runs " + p.Cell.String())
	log.Info("booting", "name", p.Machine.Name, "cpus", p.Machine.CPUs, "memory", config.Bytes(p.Machine.Memory).String(),
		"network", string(p.Network.Mode), "QEMU", p.QEMU.Version.String())
}

// apply makes everything that the guest needs. What it makes is whole or not there, and it may be done again.
func (p Plan) apply(ctx context.Context, held *locks, log *slog.Logger, milestones *status.Milestones) error {
	if err := held.lockImage(ctx, p.Disk); err != nil {
		return stopped(ctx, err)
	}
	if err := p.applyDisk(ctx, held.data, log); err != nil {
		return stopped(ctx, err)
	}
	if held.data != nil {
		held.meanwhile(func() error { return rememberIdentity(p.Config.DataDir, p.Identity) })
	}
	if err := p.prepareTPM(); err != nil {
		return err
	}
	milestones.Reach(status.DiskReady)
	if err := p.Provision.Write(p.Config.RunDir); err != nil {
		return fail(supervise.IOError, "the guest's configuration cannot be written: %w", err)
	}
	facts := status.Facts{Name: p.Machine.Name, PID: os.Getpid(), Started: time.Now(), Mode: string(p.Network.Mode), Ready: p.Ready}
	if err := facts.Write(p.Config.RunDir); err != nil {
		return fail(supervise.IOError, "the run directory cannot be written: %w", err)
	}
	return stopped(ctx, nil)
}

// runFiles are what a start leaves in the run directory, besides QEMU's own directory.
var runFiles = slices.Concat([]string{
	provision.IgnitionFile, provision.FWCfgFile, provision.SeedFile, // these hold secrets
	consoleSocket, answerSocket, agentRelay, agentLock, controlSocket, network.PasstSocket, network.PasstPIDFile, tpm.Socket,
}, status.Files)

// leftBehind says whether an earlier start has left a file of that name: half of one of the above, or a volume's socket, of which there may have
// been more than now.
func leftBehind(name string) bool {
	if socket, _ := filepath.Match(volume.Socket("*"), name); socket {
		return true
	}
	return slices.ContainsFunc(runFiles, func(whole string) bool { return strings.HasPrefix(name, "."+whole+"-") })
}

// makeRunDir makes the run directory, takes it for this start alone, and clears it of what a start that was killed has left
// there. It is taken for as long as the file that is returned is open, here or in a QEMU that has inherited it (flock(2)): a
// second vmentry must not take the sockets away from under the first.
func (p Plan) makeRunDir(ctx context.Context) (*os.File, error) {
	dir := p.Config.RunDir
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fail(supervise.IOError, "VM_RUN_DIR=%s cannot be made: %w; mount a writable directory there (--tmpfs %s, or an emptyDir)", dir, err, dir)
	}
	if err := unix.Access(dir, unix.W_OK); err != nil {
		return nil, fail(supervise.IOError, "VM_RUN_DIR=%s is not writable: %w; mount a writable directory there (--tmpfs %s, or an emptyDir)", dir, err, dir)
	}
	f, err := os.Open(dir)
	if err != nil {
		return nil, fail(supervise.IOError, "VM_RUN_DIR cannot be used: %w", err)
	}
	for began := time.Now(); ; {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK {
			break // a file system without locks is no reason to refuse
		}
		select {
		case <-ctx.Done():
			err = stopped(ctx, ctx.Err())
		case <-time.After(50 * time.Millisecond):
			if time.Since(began) < disk.LockWait { // a predecessor that was killed may still be on its way out
				continue
			}
			err = fail(supervise.IOError, "VM_RUN_DIR=%s is in use by another vmentry; stop that one first, or give this VM a run directory of its own", dir)
		}
		f.Close()
		return nil, err
	}
	p.clearRunDir()
	narrow(f)
	if err := os.Mkdir(p.file(qemuDir), 0o700); err != nil {
		f.Close()
		return nil, fail(supervise.IOError, "VM_RUN_DIR=%s cannot be used: %w; remove what is there, or name another directory", dir, err)
	}
	return f, nil
}

// narrow leaves others than owner and group nothing of a directory but the way through it, which a QEMU with a user of its own has to go. A new volume
// and an emptyDir are everybody's. One that belongs to somebody else stays as it is, and one in which there is more than own: it may be meant for others.
func narrow(dir *os.File, own ...string) {
	info, err := dir.Stat()
	if err != nil || info.Sys().(*syscall.Stat_t).Uid != uint32(os.Geteuid()) {
		return
	}
	names, err := dir.Readdirnames(-1)
	if err == nil && !slices.ContainsFunc(names, func(name string) bool { return !slices.Contains(own, name) }) {
		dir.Chmod(info.Mode() &^ 0o006)
	}
}

func (p Plan) clearRunDir() {
	for _, name := range runFiles {
		os.Remove(p.file(name))
	}
	entries, _ := os.ReadDir(p.Config.RunDir)
	for _, e := range entries {
		if leftBehind(e.Name()) {
			os.Remove(p.file(e.Name()))
		}
	}
	os.RemoveAll(p.file(qemuDir)) // nobody knows what QEMU has put there
}

// run starts the VM and stays with it. QEMU inherits the files of keep, so that what they lock stays locked for as long as
// it lives.
func (p Plan) run(ctx context.Context, handOver func(), signals *supervise.Signals, streams Streams, held *locks, keep []*os.File, front *front, log *slog.Logger, milestones *status.Milestones) (supervise.End, error) {
	relays, err := p.bindRelays()
	if err != nil {
		return supervise.End{}, err
	}
	defer relays.close()
	joined, err := p.join()
	if err != nil {
		return supervise.End{}, err
	}
	defer joined.Close()
	serving, silence := context.WithCancel(context.Background())
	wait, err := p.serve(serving, joined, front, log)
	defer wait()
	defer silence()
	if err != nil {
		return supervise.End{}, err
	}
	front.vm.Is(p.about(front.build))
	reaper := supervise.NewReaper()
	helpers, err := p.startHelpers(ctx, reaper, held.data, log)
	if err != nil {
		return supervise.End{}, err
	}
	defer helpers.close()
	milestones.Reach(status.NetworkReady, "mode", string(p.Network.Mode))
	v, monitor, err := start(ctx, p, reaper, helpers, streams, append(joined.Files(), keep...), front, log, milestones)
	if err != nil {
		return supervise.End{}, err
	}
	defer monitor.Close()
	handOver() // from here on a signal is the guest's business
	if err := stopped(ctx, nil); err != nil {
		v.abandon()
		return supervise.End{}, err
	}
	if err := relays.serve(ctx, monitor, log); err != nil {
		v.abandon()
		return supervise.End{}, err
	}
	asking, silent := context.WithCancel(context.Background())
	answered, err := v.agent.serve(asking, p)
	if err != nil {
		silent()
		v.abandon()
		return supervise.End{}, err
	}
	defer answered()
	kept, err := keeper{v, held.data, monitor}.serve(asking)
	if err != nil {
		silent()
		v.abandon()
		return supervise.End{}, err
	}
	defer kept()
	defer silent()
	if err := held.settle(); err != nil {
		v.abandon()
		return supervise.End{}, err
	}
	if !p.givesUpFirst() { // and in any case before the guest can do anything
		p.giveUp(log)
	}
	if err := v.letGo(monitor); err != nil {
		v.abandon()
		return supervise.End{}, err
	}
	giveBack()
	background, cancel := context.WithCancel(context.Background())
	recorded := make(chan struct{})
	go func() {
		defer close(recorded)
		p.recordDigest(background, log)
	}()
	defer func() { // before the lock of the data directory goes
		cancel()
		<-recorded
	}()
	return v.supervise(signals.C(), monitor), nil
}

// replace lets QEMU take this process's place, with the files of keep. It returns only if that fails.
func (p Plan) replace(ctx context.Context, signals *supervise.Signals, keep []*os.File) error {
	if err := stopped(ctx, nil); err != nil {
		return err
	}
	for _, f := range keep {
		// QEMU keeps the directories locked without knowing it
		if _, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0); err != nil {
			return fail(supervise.IOError, "the lock cannot be handed over: %w", err)
		}
	}
	cell, machine, err := p.readyQEMU(func(f *os.File) (int, error) {
		_, err := unix.FcntlInt(f.Fd(), unix.F_SETFD, 0)
		keep = append(keep, f) // open until QEMU is there
		return int(f.Fd()), err
	})
	if err != nil {
		return err
	}
	command, err := p.command(cell, machine)
	if err != nil {
		return err
	}
	signals.Release()
	select {
	case s := <-signals.C(): // came just now; QEMU would never hear of it
		return supervise.Stop{Signal: s}
	default:
	}
	err = syscall.Exec(command[0], command, p.Environ)
	runtime.KeepAlive(keep)
	return fail(supervise.Software, "QEMU could not be started: exec %s: %w", p.QEMU.Path, err)
}

// TerminalWidth is the width of the terminal on f in columns, or 80.
func TerminalWidth(f *os.File) int {
	if w, _, err := term.GetSize(int(f.Fd())); err == nil && w > 0 {
		return w
	}
	return 80
}
