// Package boot puts the parts together: environment, plan, effects, QEMU, supervision, exit code. It holds the order of
// the steps, and is the only package that knows all the others.
package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/disk"
	"github.com/vmentry/vmentry/internal/image"
	"github.com/vmentry/vmentry/internal/network"
	"github.com/vmentry/vmentry/internal/provision"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/status"
	"github.com/vmentry/vmentry/internal/supervise"
	"github.com/vmentry/vmentry/internal/tpm"
	"github.com/vmentry/vmentry/internal/volume"
)

// Plan is everything that boot will do, before it does it. Making it changes nothing.
type Plan struct {
	Config    config.Config
	Identity  string // of the VM, see vmIdentity
	Beside    string // who uses the data directory while the plan is made for being shown; empty: nobody
	Chosen    []Setting
	Warnings  []config.Warning // about the environment; the parts have their own
	Provision provision.Result
	Image     image.Plan
	Disk      disk.Plan // planned when the image is there, see Pending
	More      disk.MorePlan
	Network   network.Plan
	Volumes   volume.Plan
	TPM       tpm.Plan
	Machine   qemu.Machine
	QEMU      Program
	Ready     status.Condition
	Environ   []string // QEMU's environment
	Cell      Cell     // what QEMU is shut into

	parts parts  // what the machine is made of beside its disk
	flash flash  // UEFI's code and the template of its variables; none with a BIOS
	token string // of VM_HTTP_TOKEN or its file
}

// parts are what a machine is made of beside its disk.
type parts struct {
	name     string
	settings settings
	host     Host
	extra    []string // the user's own QEMU arguments
	can      qemu.Capabilities
	recorded bool // can was read, and not asked for
}

// Pending says that the image has to be made before the disk, and with it the firmware and the machine, can be planned.
func (p Plan) Pending() bool { return p.Image.Pending() }

// Program is the QEMU that will run.
type Program struct {
	Path    string
	Version qemu.Version
}

// probeTime is how long QEMU may take to say what it can do.
const probeTime = 30 * time.Second

// Prepare reads the environment and makes the plan, to show it. All mistakes of the user's come as one [Failure], before anything
// that is merely missing; the plan then has the warnings alone.
func Prepare(ctx context.Context, qemuArgs []string) (Plan, error) {
	cfg, warnings, mistakes := config.Parse(os.Environ())
	beside := ""
	if holder, held := disk.HeldBy(cfg.DataDir); held {
		beside = holder.String()
	}
	plan, err := prepare(ctx, cfg, mistakes, qemuArgs, beside)
	plan.Warnings = warnings
	return plan, err
}

func prepare(ctx context.Context, cfg config.Config, mistakes config.Mistakes, qemuArgs []string, beside string) (Plan, error) {
	host := InspectHost()
	plan := Plan{Config: cfg, Identity: vmIdentity(cfg, host), Beside: beside}
	chosen, accelErr := resolve(cfg, host, &mistakes)
	plan.Chosen = chosen.chosen
	plan.Environ = environForOthers(cfg)
	asking, enough := context.WithCancel(ctx)
	asked := askQEMU(asking, chosen.arch, plan.Environ) // in the meantime
	defer func() {
		enough() // a QEMU that is asked outlives whoever asks, if it is let
		<-asked
	}()

	name := cfg.Name
	if name == "" {
		name = host.HostName
	}
	extra := slices.Concat(cfg.Args, qemuArgs)
	checkArguments(extra, &mistakes)
	checkReadable("VM_KERNEL", cfg.Kernel, &mistakes)
	checkReadable("VM_INITRD", cfg.Initrd, &mistakes)
	var provisionErr, networkErr, volumeErr, tpmErr, diskErr, moreErr error
	plan.TPM, tpmErr = planTPM(ctx, cfg)
	var looking sync.WaitGroup
	disks := plan
	looking.Go(func() { // beside the rest, of which this needs nothing
		if diskErr = disks.planImage(cfg); diskErr == nil && !disks.Pending() {
			diskErr = disks.planDisk(cfg, chosen.arch)
		}
		moreErr = disks.planMore(cfg)
	})
	plan.Network, networkErr = planNetwork(cfg, name, plan.Identity, chosen.cpus, &mistakes)
	plan.token = httpToken(cfg, &mistakes)
	plan.Volumes, volumeErr = planVolumes(ctx, cfg, &mistakes)
	plan.Ready = readiness(cfg, &plan.Network)
	plan.Provision, provisionErr = guestConfiguration(cfg, name, uuid(plan.Identity), networkConfig(plan.Network, cfg.CloudSeed), &mistakes)
	looking.Wait()
	plan.Image, plan.Disk, plan.More, plan.Chosen, plan.flash = disks.Image, disks.Disk, disks.More, disks.Chosen, disks.flash
	for _, err := range []*error{&diskErr, &moreErr} {
		if isMistake(*err) {
			provisionErr, *err = errors.Join(provisionErr, *err), nil
		}
	}
	if err := wrong(mistakes, provisionErr); err != nil {
		return Plan{}, stopped(ctx, err)
	}
	answer := <-asked
	if err := errors.Join(diskErr, moreErr, accelErr, networkErr, volumeErr, tpmErr, answer.err); err != nil {
		return Plan{}, stopped(ctx, err)
	}

	if !answer.can.HasMachine(chosen.machine) {
		return Plan{}, wrong(config.Mistakes{{Variable: "VM_MACHINE", Value: chosen.machine, Problem: fmt.Sprintf(
			"QEMU %s has no such machine; write q35 or pc (amd64), virt (arm64), or one of %s -machine help", answer.can.Version, qemuNames[chosen.arch])}})
	}
	plan.QEMU = Program{answer.path, answer.can.Version}
	plan.parts = parts{name, chosen, host, extra, answer.can, answer.recorded}
	if err := plan.planMachine(ctx); err != nil {
		return Plan{}, err
	}
	return plan, nil
}

// planMachine describes the VM, as far as its disk is known, and checks that this QEMU can run it.
func (p *Plan) planMachine(ctx context.Context) error {
	p.makeMachine(p.parts.name, p.parts.settings, p.parts.host, p.parts.extra)
	if err := tooManyDisks(p.Machine); err != nil {
		return err
	}
	missing := p.parts.can.Check(p.Machine)
	if len(missing) > 0 && p.parts.recorded { // a module may have been added
		can, err := qemu.Probe(ctx, p.QEMU.Path, p.Environ)
		if err != nil {
			return stopped(ctx, fail(supervise.Unavailable, "%w", err))
		}
		missing = can.Check(p.Machine)
	}
	if len(missing) > 0 {
		return fail(supervise.Unavailable, "%s", strings.Join(missing, "\n"))
	}
	p.Cell = p.planCell()
	return nil
}

// checkArguments refuses what of QEMU's own arguments would take it away from its supervisor.
func checkArguments(args []string, mistakes *config.Mistakes) {
	for _, a := range args {
		if a == "-daemonize" || a == "--daemonize" {
			*mistakes = append(*mistakes, config.Mistake{Variable: "VM_ARGS", Value: a, Problem: "QEMU must stay where vmentry can wait for it; leave it out"})
		}
	}
}

// checkReadable adds a mistake where a file that was named cannot be read.
func checkReadable(variable, path string, mistakes *config.Mistakes) {
	if path == "" {
		return
	}
	if err := readable(path); err != nil {
		*mistakes = append(*mistakes, config.Mistake{Variable: variable, Value: path, Problem: reason(err)})
	}
}

// environForOthers is the environment without vmentry's own variables, and what may be one misspelt: they may hold secrets.
func environForOthers(cfg config.Config) []string {
	return slices.DeleteFunc(os.Environ(), func(s string) bool {
		name, _, _ := strings.Cut(s, "=")
		return cfg.Set[name] || strings.HasPrefix(name, "VM_")
	})
}

// qemuAnswer is what the QEMU at path can do.
type qemuAnswer struct {
	path     string
	can      qemu.Capabilities
	recorded bool
	err      error
}

// records is where the container image has, for each QEMU in it, what [qemu.WriteRecord] has written: asking takes as long as QEMU's own start.
const records = "/usr/share/vmentry"

// askQEMU finds the QEMU for guests of arch and asks it what it can do, unless that is recorded. The channel is closed when nothing of
// the asking is left.
func askQEMU(ctx context.Context, arch string, environ []string) <-chan qemuAnswer {
	answers := make(chan qemuAnswer, 1)
	go func() {
		defer close(answers)
		name := qemuNames[arch]
		path, err := findProgram(name)
		if err != nil {
			answers <- qemuAnswer{err: fail(supervise.Unavailable, "%s is not installed: %w", name, err)}
			return
		}
		if can, ok := qemu.ReadRecord(filepath.Join(records, name+".json"), path); ok {
			answers <- qemuAnswer{path: path, can: can, recorded: true}
			return
		}
		ctx, cancel := context.WithTimeout(ctx, probeTime)
		defer cancel()
		can, err := qemu.Probe(ctx, path, environ)
		if err != nil {
			err = fail(supervise.Unavailable, "%w", err)
		}
		answers <- qemuAnswer{path: path, can: can, err: err}
	}()
	return answers
}

// Record writes in dir, for each QEMU that is installed, what [askQEMU] then need not ask. It returns the files.
func Record(ctx context.Context, dir string) ([]string, error) {
	var files []string
	for _, name := range qemuNames {
		path, err := findProgram(name)
		if err != nil {
			continue
		}
		file := filepath.Join(dir, name+".json")
		if err := qemu.WriteRecord(ctx, file, path, os.Environ()); err != nil {
			return files, err
		}
		files = append(files, file)
	}
	if len(files) == 0 {
		return nil, errors.New("no QEMU is installed")
	}
	return files, nil
}

// QEMUVersion is the version of the QEMU for guests of this machine's architecture, or why it is not to be had.
func QEMUVersion(ctx context.Context) string {
	answer := <-askQEMU(ctx, runtime.GOARCH, os.Environ())
	if answer.err != nil {
		return answer.err.Error()
	}
	return fmt.Sprintf("%s (%s)", answer.can.Version, answer.path)
}

// makeMachine describes the VM; extra are the user's own QEMU arguments.
func (p *Plan) makeMachine(name string, s settings, host Host, extra []string) {
	m := qemu.Machine{
		Name: name, UUID: uuid(p.Identity),
		Arch: s.arch, Type: s.machine, TypeOptions: s.machineOptions,
		Accel: s.accel, CPUModel: s.cpuModel, CPUs: s.cpus, Memory: s.memory,
		ExitOnReboot: p.Config.Reboot == config.RebootExit,
		Watchdog:     unfed(p.Config.Watchdog),
		Ports: []qemu.Port{
			{ID: "agent", Name: "org.qemu.guest_agent.0", Path: p.file(agentSocket)},
			{ID: "exit", Name: "org.vmentry.exit", Path: p.file(exitSocket)},
		},
		Monitors: []qemu.MonitorSocket{
			{ID: "status", Path: p.file(statusSocket)},
			{ID: "probe", Path: p.file(probeSocket)},
			{ID: "qmp", Path: p.file(qmpSocket)}, // the last: when it answers, the others do
		},
		Paused:    true,
		Sandbox:   !p.parts.can.NoSandbox,
		ExtraArgs: extra,
	}
	if s.accel == qemu.TCG {
		m.TranslationCache = qemu.TranslationCache(s.memory)
		m.MultiThreaded = s.multiThreaded(host)
	}
	if p.Config.Kernel != "" {
		m.Kernel = &qemu.Kernel{Image: p.Config.Kernel, Initrd: p.Config.Initrd, Cmdline: p.Config.Cmdline}
	}
	if p.Config.Console == config.ConsoleStdio {
		m.Console = qemu.Console{Kind: qemu.ConsoleSocket, Path: p.file(serialSocket)}
	} else {
		m.Console = qemu.Console{Kind: qemu.ConsoleNone}
	}
	if p.Config.Display == config.DisplayVNC {
		m.VNC = p.file(vncSocket)
	}
	m.NICs = nics(p.Network)
	m.Volumes = guestVolumes(p.Volumes)
	m.TPM = p.TPM.Socket
	p.addDisks(&m)
	if !p.Config.Supervise {
		m = m.Unsupervised()
	}
	p.Machine = m
}

// addDisks adds the guest's disks and what brings its configuration. The seed is found by its label, so it is the one that more disks may move.
func (p *Plan) addDisks(m *qemu.Machine) {
	bus := qemu.Bus(p.Config.DiskBus)
	if p.Disk.Path != "" {
		m.Disks = append(m.Disks, p.mainDisk(bus))
	}
	m.Disks = append(m.Disks, p.moreDisks()...)
	if p.Disk.NVRAM != "" {
		m.Firmware = &qemu.Firmware{Code: p.flash.code, Format: p.flash.format(), Vars: p.Disk.NVRAM, Secure: p.Disk.Input.SecureBoot && m.Arch == "amd64"}
	}
	if p.Provision.Ignition != nil {
		m.FWCfg = append(m.FWCfg, qemu.FWCfg{Name: "opt/com.coreos/config", Path: p.file(provision.FWCfgFile)})
	}
	if p.Provision.Seed != nil {
		m.Disks = append(m.Disks, qemu.Disk{ID: "seed", Path: p.file(provision.SeedFile), Format: "raw", Bus: bus, ReadOnly: true, CDROM: true})
	}
	if p.cd() != nil && p.Disk.Path != "" {
		cd := p.cdDrive()
		p.bootOrder(&m.Disks[0], &cd)
		m.Disks = append(m.Disks, cd)
	}
}
