package boot

import (
	"context"
	"errors"
	"log/slog"
	"os"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/disk"
	"github.com/vmentry/vmentry/internal/image"
	"github.com/vmentry/vmentry/internal/supervise"
)

// planImage plans how what VM_IMAGE names becomes a local image.
func (p *Plan) planImage(cfg config.Config) error {
	in := image.Input{
		URL: cfg.Image.URL, Path: cfg.Image.Path, Dirs: imageDirs, Name: cfg.Image.String(), None: cfg.Image.Kind == config.ImageNone,
		Digest: string(cfg.ImageSHA256), DataDir: cfg.DataDir,
	}
	facts, err := image.Inspect(in)
	if err == nil {
		p.Image, err = image.MakePlan(in, facts)
	}
	return imageFailure(err)
}

// makeImage does what the plan says about the image, under the lock of the data directory, and plans what had to wait for it: the disk,
// the firmware and the machine.
func (p *Plan) makeImage(ctx context.Context, lock *disk.Lock, log *slog.Logger) error {
	if len(p.Image.Steps) == 0 {
		return nil
	}
	for _, s := range p.Image.Steps {
		log.Info("image: " + s.Text)
	}
	pending := p.Pending()
	var held *os.File
	if lock != nil {
		held = lock.File()
	}
	local, err := p.Image.Apply(ctx, held)
	if err != nil {
		return stopped(ctx, imageFailure(err))
	}
	if !pending {
		return nil
	}
	p.Image.Local = local
	if err := p.planDisk(p.Config, p.parts.settings.arch); err != nil {
		return stopped(ctx, err)
	}
	if err := p.planMachine(); err != nil {
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
