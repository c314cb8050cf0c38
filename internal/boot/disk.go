package boot

import (
	"context"
	"errors"
	"log/slog"
	"slices"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/disk"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/supervise"
)

// planDisk plans the disk and chooses the firmware, which the disk has a say in.
func (p *Plan) planDisk(cfg config.Config, arch string) error {
	in := disk.Input{
		None: cfg.Image.Kind == config.ImageNone,
		Size: int64(cfg.DiskSize), SizeSet: cfg.Set["VM_DISK_SIZE"], DataDir: cfg.DataDir,
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
	if firmware == config.FirmwareUEFI {
		flash, ok := findFlash(arch)
		if !ok {
			return fail(supervise.Unavailable, "UEFI firmware for %s guests is not installed: install ovmf (amd64) or qemu-efi-aarch64 (arm64) in the container image", arch)
		}
		p.flash = flash
		in.NVRAMTemplate = flash.vars
		if facts, err = disk.Inspect(in); err != nil {
			return diskFailure(err)
		}
	}
	p.Disk, err = disk.MakePlan(in, facts)
	return diskFailure(err)
}

// chooseFirmware says how the machine starts, and why.
func (p *Plan) chooseFirmware(cfg config.Config, arch string, facts disk.Facts) config.Firmware {
	choice, why := cfg.Firmware, "VM_FIRMWARE"
	switch {
	case choice != config.FirmwareAuto:
	case arch == "arm64":
		choice, why = config.FirmwareUEFI, "arm64 machines have no other"
	case cfg.Kernel != "":
		choice, why = config.FirmwareBIOS, "a kernel is booted directly"
	case p.cd() != nil && slices.Equal(p.cd().Firmwares, []string{"uefi"}):
		choice, why = config.FirmwareUEFI, "the CD can be booted by nothing else"
	case facts.Base != nil && facts.Base.Boot.Firmware() == "uefi":
		choice, why = config.FirmwareUEFI, "the disk has an EFI system partition and nothing for a BIOS"
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
	return p.Pending() || p.Disk.Base != nil || p.Disk.NVRAM != "" || len(p.More.Disks) > 0
}

// lockData locks the data directory. The lock is nil where nothing of the VM outlives a restart.
func (p Plan) lockData(ctx context.Context) (*disk.Lock, error) {
	if !p.needsData() {
		return nil, nil
	}
	lock, err := disk.TakeLock(ctx, p.Config.DataDir, lockHolder(), disk.LockWait)
	if err != nil {
		return nil, stopped(ctx, diskFailure(err))
	}
	return lock, nil
}

// applyDisk prepares what is in the data directory, which is locked; a nil lock is that of a VM without one.
func (p Plan) applyDisk(ctx context.Context, lock *disk.Lock, log *slog.Logger) error {
	if lock == nil {
		return nil
	}
	for _, s := range p.Disk.Steps {
		log.Info("disk: " + s.Text)
	}
	err := p.Disk.Apply(ctx, lock)
	if err == nil {
		err = p.applyMore(ctx, lock, log)
	}
	if err == nil {
		err = rememberIdentity(p.Config.DataDir, p.Identity)
	}
	if err != nil {
		return diskFailure(err)
	}
	p.cleanImages(log)
	return nil
}

// recordDigest remembers the base image's digest while the guest already boots, so that a new copy of the same image is
// known for what it is.
func (p Plan) recordDigest(ctx context.Context, log *slog.Logger) {
	if p.Disk.Base == nil {
		return
	}
	if err := p.Disk.RecordDigest(ctx); err != nil && ctx.Err() == nil {
		log.Warn("the base image's digest could not be remembered", "error", err)
	}
}

// mainSerial is the main disk's serial where it must have one.
const mainSerial = "disk"

// mainDisk is the guest's disk as QEMU takes it.
func (p Plan) mainDisk(bus qemu.Bus) qemu.Disk {
	d := qemu.Disk{
		ID: "disk", Path: p.Disk.Overlay, Format: "qcow2", Bus: bus, Direct: p.Disk.Cache == "none",
		Backing: &qemu.Backing{Path: p.Disk.Base.Path, Format: string(p.Disk.Base.Identity.Format)},
	}
	if l := p.Image.Local; l != nil {
		d.Backing.Device = l.Device
	}
	if bus == qemu.NVMe {
		d.Serial = mainSerial // the device insists on one
	}
	return d
}
