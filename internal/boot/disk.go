package boot

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"time"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/disk"
	"github.com/vmentry/vmentry/internal/image"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/supervise"
)

// planDisk plans the disk and chooses the firmware, which the disk has a say in.
func (p *Plan) planDisk(cfg config.Config, arch string) error {
	in := disk.Input{
		None: cfg.Image.Kind == config.ImageNone,
		Mode: disk.Mode(cfg.DiskMode), Recreate: cfg.DiskOnNewImage == config.OnNewImageRecreate,
		Keeps: p.TPM.Wanted(), Size: int64(cfg.DiskSize), SizeSet: cfg.Set["VM_DISK_SIZE"], DataDir: cfg.DataDir, Beside: p.Beside != "", Recognise: recognise, Confine: aroundQEMUImg(),
	}
	if local := p.Image.Local; local != nil {
		in.Image, in.Format = local.Path, disk.Format(local.Format)
	}
	if cd := p.cd(); cd != nil {
		in.Image, in.Format, in.Blank = cd.Blank, disk.FormatRaw, true
	}
	facts, err := disk.Inspect(in)
	if err != nil {
		return diskFailure(err)
	}
	firmware := p.chooseFirmware(cfg, arch, facts)
	if firmware != config.FirmwareBIOS {
		places := flashes
		if in.SecureBoot = firmware == config.FirmwareSecureBoot; in.SecureBoot {
			places = secureFlashes
		}
		flash, ok := findFlash(places, arch)
		if !ok {
			return fail(supervise.Unavailable, "VM_FIRMWARE=%s: the firmware for %s guests is not installed: install ovmf (amd64) or qemu-efi-aarch64 (arm64) in the container image", firmware, arch)
		}
		p.flash = flash
		in.NVRAMTemplate, in.NVRAMSize = flash.vars, chips[arch]
		if facts.Base != nil {
			in.Known = facts.Base.Identity
		}
		if facts, err = disk.Inspect(in); err != nil {
			return diskFailure(err)
		}
	}
	p.Disk, err = disk.MakePlan(in, facts)
	return diskFailure(err)
}

// recognise tells what a file is by its content.
func recognise(r io.ReaderAt, size int64) (disk.Format, error) {
	format, err := image.Recognise(r, size)
	return disk.Format(format), err
}

// chooseFirmware says how the machine starts, and why.
func (p *Plan) chooseFirmware(cfg config.Config, arch string, facts disk.Facts) config.Firmware {
	choice, why := cfg.Firmware, "VM_FIRMWARE"
	hints, known := facts.Boot()
	switch {
	case choice != config.FirmwareAuto:
	case arch == "arm64":
		choice, why = config.FirmwareUEFI, "arm64 machines have no other"
	case cfg.Kernel != "":
		choice, why = config.FirmwareBIOS, "a kernel is booted directly"
	case p.cd() != nil && slices.Equal(p.cd().Firmwares, []string{"uefi"}):
		choice, why = config.FirmwareUEFI, "the CD can be booted by nothing else"
	case known && hints.Firmware() == "uefi":
		choice, why = config.FirmwareUEFI, "the disk has an EFI system partition and nothing for a BIOS"
	case known && !hints.Recognised() && facts.NVRAM >= 0: // it was empty when it was made
		choice, why = config.FirmwareUEFI, "the variables of earlier starts are there"
	default:
		choice, why = config.FirmwareBIOS, "the disk can be booted by it, and it is the quicker one"
	}
	p.Chosen = append(p.Chosen, Setting{"firmware", string(choice), why})
	return choice
}

// diskFailure gives an error of the disk its exit code.
func diskFailure(err error) error {
	var e *disk.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Kind {
	case disk.KindConfig:
		return &Failure{supervise.Misconfigured, err}
	case disk.KindMissing:
		return &Failure{supervise.Unavailable, err}
	default:
		return &Failure{supervise.IOError, err}
	}
}

// isMistake says whether the user's configuration is what is wrong.
func isMistake(err error) bool { return err != nil && ExitCode(err) == supervise.Misconfigured }

// needsData says whether anything of this VM outlives a restart.
func (p Plan) needsData() bool {
	return p.Pending() || p.Disk.Path != "" || p.Disk.NVRAM != "" || len(p.More.Disks) > 0 || p.TPM.Wanted()
}

// locks are what this start holds for as long as its QEMU lives.
type locks struct {
	data   *disk.Lock // nil where nothing of the VM outlives a restart
	images []*disk.ImageLock
	writes []<-chan error // see meanwhile
}

// meanwhile does what has to be done before the guest runs, and not before QEMU does: to bring a line to disk can take as long as QEMU's start.
func (l *locks) meanwhile(do func() error) {
	done := make(chan error, 1)
	go func() { done <- do() }()
	l.writes = append(l.writes, done)
}

// settle waits until all of that is done.
func (l *locks) settle() error {
	var failed error
	for _, done := range l.writes {
		failed = errors.Join(failed, <-done)
	}
	l.writes = nil
	return failed
}

// files are to be inherited by QEMU.
func (l locks) files() []*os.File {
	var files []*os.File
	if l.data != nil {
		files = append(files, l.data.File())
	}
	for _, image := range l.images {
		files = append(files, image.File())
	}
	return files
}

func (l *locks) close() {
	_ = l.settle() // what is locked must not be written any more
	for _, image := range l.images {
		image.Close()
	}
	if l.data != nil {
		l.data.Close()
	}
}

// begins notes that a QEMU is about to write to the disks. The note is on disk when all has settled.
func (l *locks) begins() error {
	if l.data == nil {
		return nil
	}
	if err := l.data.NoteRunning(true); err != nil {
		return diskFailure(err)
	}
	l.meanwhile(func() error { return diskFailure(l.data.Sync()) })
	return nil
}

// ended notes that the QEMU has ended well.
func (l *locks) ended() error {
	if l.data == nil {
		return nil
	}
	return diskFailure(l.data.SetRunning(false))
}

// lockData locks the data directory.
func (p Plan) lockData(ctx context.Context) (locks, error) {
	if !p.needsData() {
		return locks{}, nil
	}
	lock, err := disk.TakeLock(ctx, p.Config.DataDir, lockHolder(), disk.LockWait)
	if err != nil {
		return locks{}, diskFailure(err)
	}
	if dir, err := os.Open(p.Config.DataDir); err == nil {
		narrow(dir, disk.LockName, "lost+found")
		dir.Close()
	}
	return locks{data: lock}, nil
}

// lockImage locks the image: for itself alone where the guest writes it, else against those who would.
func (l *locks) lockImage(ctx context.Context, p disk.Plan) error {
	if p.Base == nil {
		return nil
	}
	sharing := disk.Shared
	if p.Mode == disk.ModeDirect {
		sharing = disk.Exclusive
	}
	image, err := disk.LockImage(ctx, p.Base.Path, sharing, lockHolder(), disk.LockWait)
	if err != nil {
		return diskFailure(err)
	}
	l.images = append(l.images, image)
	return nil
}

// applyDisk prepares what is in the data directory.
func (p Plan) applyDisk(ctx context.Context, lock *disk.Lock, log *slog.Logger) error {
	if lock == nil {
		return nil
	}
	for _, s := range p.Disk.Steps {
		log.Info("disk: " + s.Text)
	}
	reports := disk.Reports{
		Note:     func(text string) { log.Warn("disk: " + text) },
		Progress: logProgress(log, "disk: "),
	}
	err := p.Disk.Apply(ctx, lock, reports)
	if err == nil {
		err = p.applyMore(ctx, lock, reports, log)
	}
	if err != nil {
		return diskFailure(err)
	}
	p.cleanImages(log)
	return nil
}

// progressEvery is how often a line says how far something is.
const progressEvery = 5 * time.Second

// logProgress logs how far something is, now and then.
func logProgress(log *slog.Logger, prefix string) func(what string, fraction float64) {
	last := time.Now()
	return func(what string, fraction float64) {
		if time.Since(last) < progressEvery {
			return
		}
		last = time.Now()
		log.Info(prefix+what, "done", fmt.Sprintf("%.0f%%", fraction*100))
	}
}

// recordDigest remembers the base image's digest while the guest already boots, so that a new copy of the same image is
// known for what it is.
func (p Plan) recordDigest(ctx context.Context, log *slog.Logger) {
	if err := p.Disk.RecordDigest(ctx); err != nil && ctx.Err() == nil {
		log.Warn("the base image's digest could not be remembered", "error", err)
	}
}

// mainSerial is the main disk's serial where it must have one.
const mainSerial = "disk"

// mainDisk is the guest's disk as QEMU takes it.
func (p Plan) mainDisk(bus qemu.Bus) qemu.Disk {
	d := qemu.Disk{
		ID: "disk", Path: p.Disk.Path, Format: string(p.Disk.Format), Device: p.Disk.Device, Bus: bus, Direct: p.Disk.Cache == "none",
	}
	if base := p.Disk.Base; p.Disk.Mode == disk.ModeOverlay {
		d.Backing = &qemu.Backing{Path: base.Path, Format: string(base.Identity.Format), Device: base.Device}
	}
	if bus == qemu.NVMe {
		d.Serial = mainSerial // the device insists on one
	}
	return d
}
