package boot

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"golang.org/x/term"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/disk"
	"github.com/vmentry/vmentry/internal/image"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/supervise"
)

// planImage plans how what VM_IMAGE names becomes a local image.
func (p *Plan) planImage(cfg config.Config) error {
	in := image.Input{
		URL: cfg.Image.URL, Path: cfg.Image.Path, Dirs: imageDirs, Name: cfg.Image.String(), None: cfg.Image.Kind == config.ImageNone,
		CDAlone: disk.HasCopy(cfg.DataDir), Beside: p.Beside != "",
		Digest: string(cfg.ImageSHA256), DataDir: cfg.DataDir, Check: checkBase, Confine: aroundQEMUImg(),
		KnownRaw: cfg.DiskMode == config.DiskDirect && disk.KnownRaw(cfg.DataDir, cfg.Image.Path, imageDirs),
	}
	facts, err := image.Inspect(in)
	if err == nil {
		p.Image, err = image.MakePlan(in, facts)
	}
	if err != nil && in.CDAlone { // it may be gone
		if p.Image = (image.Plan{}); cfg.Set["VM_IMAGE"] {
			p.Image.Warnings = []string{err.Error() + withoutCD}
		}
		return nil
	}
	if err != nil {
		return imageFailure(err)
	}
	if cfg.DiskMode == config.DiskDirect && (p.Pending() || p.Image.Local != nil && (p.Image.Local.Kept || p.Image.Local.Format == image.ISO)) {
		return fail(supervise.Misconfigured, "VM_DISK_MODE=direct: not possible with %s, which is not a disk that can be written; write copy or overlay", p.Image.Source)
	}
	return nil
}

// withoutCD is added to what is wrong with an image that the guest's disk does not need.
const withoutCD = ". The guest's disk is a full copy and does not need it: the VM starts without a CD"

// checkBase says why a file cannot be a base image. A CD is none.
func checkBase(path string, format image.Format) error {
	if format == image.ISO {
		return nil
	}
	err := disk.CheckBase(path, disk.Format(format))
	var e *disk.Error
	if errors.As(err, &e) {
		return e.Err // the file's name is one that nobody knows
	}
	return err
}

// cd is the image as a CD to boot from; nil where it is none.
func (p Plan) cd() *image.Local {
	if l := p.Image.Local; l != nil && l.Format == image.ISO {
		return l
	}
	return nil
}

// cdDrive is the CD as QEMU takes it, in a drive that every firmware and every installer knows.
func (p Plan) cdDrive() qemu.Disk {
	d := qemu.Disk{ID: "cd", Path: p.cd().Path, Format: "raw", Bus: qemu.IDE, ReadOnly: true, CDROM: true}
	if p.parts.settings.arch == "arm64" {
		d.Bus = qemu.SCSI
	}
	return d
}

// bootOrder says which of the two is tried first. That is the disk: an empty one is left at once for the CD, and one that was installed
// boots, also when its installer ends with a reboot. The exception is a disk that a BIOS would take for one that it can boot, although
// nobody has written a boot loader to it yet: an installation that was cut off would leave a VM that hangs.
func (p Plan) bootOrder(main, cd *qemu.Disk) {
	main.BootIndex, cd.BootIndex = 1, 2
	if hints := disk.GuestHints(main.Path); p.flash.code == "" && hints.MBR && !hints.MBRCode {
		main.BootIndex, cd.BootIndex = 2, 1
	}
}

// cleanImages removes what was fetched for another start and is of no use any more.
func (p Plan) cleanImages(log *slog.Logger) {
	current := ""
	if l := p.Image.Local; l != nil {
		current = l.Path
	}
	removed, err := image.Clean(p.Config.DataDir, current)
	for _, name := range removed {
		log.Info("image: removed, because nothing uses it any more", "name", name)
	}
	if err != nil {
		log.Warn("images that are not used any more could not be removed", "error", err)
	}
}

// makeImage does what the plan says about the image, under the lock of the data directory, and plans what had to wait for it: the disk,
// the firmware and the machine.
func (p *Plan) makeImage(ctx context.Context, lock *disk.Lock, streams Streams, log *slog.Logger) error {
	if len(p.Image.Steps) == 0 {
		return nil
	}
	relax() // to unpack an image takes time, and memory
	for _, s := range p.Image.Steps {
		log.Info("image: " + s.Text)
	}
	pending := p.Pending()
	var held *os.File
	if lock != nil {
		held = lock.File()
	}
	out := image.Output{Log: log}
	if term.IsTerminal(int(streams.Err.Fd())) {
		out.Terminal = streams.Err
	}
	local, err := p.Image.Apply(ctx, held, out)
	if err != nil && (ctx.Err() != nil || !p.Image.CDAlone()) {
		return stopped(ctx, imageFailure(err))
	}
	if err != nil {
		log.Warn(err.Error() + withoutCD)
		local = nil
	}
	p.Image.Local = local
	if p.Image.CDAlone() && p.cd() == nil {
		p.Image = image.Plan{}
	}
	if !pending {
		return p.planMachine(ctx)
	}
	return p.planPending(ctx, log)
}

// planPending plans what had to wait for the image.
func (p *Plan) planPending(ctx context.Context, log *slog.Logger) error {
	if err := p.planDisk(p.Config, p.parts.settings.arch); err != nil {
		return stopped(ctx, err)
	}
	if err := p.planMore(p.Config); err != nil { // again, because none may be the main disk's
		return stopped(ctx, err)
	}
	if err := p.planMachine(ctx); err != nil {
		return err
	}
	p.announceMachine(log)
	return nil
}

// imageFailure gives an error of the image its exit code.
func imageFailure(err error) error {
	var e *image.Error
	if !errors.As(err, &e) {
		return err
	}
	switch e.Kind {
	case image.KindConfig:
		return &Failure{supervise.Misconfigured, err}
	case image.KindMissing:
		return &Failure{supervise.Unavailable, err}
	default:
		return &Failure{supervise.IOError, err}
	}
}
