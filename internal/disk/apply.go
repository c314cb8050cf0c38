package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Apply brings about what the plan says. It needs the lock of the plan's data directory, and looks again under it: between
// the plan and the lock another vmentry may have been at work. What is done already is not done again, so Apply can be
// repeated, and goes on where one that was cut off ended. When ctx ends, helpers are ended, what is half made is removed, and
// the error wraps the context's cause; every other error is an *Error.
func (p Plan) Apply(ctx context.Context, lock *Lock) error {
	return applier{step: func(string) {}}.apply(ctx, p, lock)
}

// applier does the steps of a plan.
type applier struct {
	step func(done string) // called after every change to the disk, by name; tests end the process in it
}

func (a applier) apply(ctx context.Context, p Plan, lock *Lock) error {
	if lock == nil || lock.dir != p.Input.DataDir {
		return ioError("prepare "+p.Input.DataDir, errors.New("the data directory is not locked"))
	}
	facts, err := Inspect(p.Input)
	if err != nil {
		return err
	}
	fresh, err := MakePlan(p.Input, facts)
	if err != nil {
		return err
	}
	if p.Base != nil && p.Base.Identity != fresh.Base.Identity {
		return refusal("use "+p.Base.Path+" as base image", "start again", "it was changed during this start")
	}
	for _, s := range fresh.Steps {
		if ctx.Err() != nil {
			return fmt.Errorf("cannot prepare the guest's disk: %w", context.Cause(ctx))
		}
		if err := a.do(ctx, fresh, facts, s, lock); err != nil {
			return err
		}
	}
	return nil
}

func (a applier) do(ctx context.Context, p Plan, f Facts, s Step, lock *Lock) error {
	switch s.Action {
	case ActionClean:
		return a.clean(s.Paths)
	case ActionRestore:
		return a.restore(ctx, f.Restore, lock)
	case ActionVerify:
		return a.verify(ctx, p, f.Overlay.Record)
	case ActionCreate:
		return a.create(ctx, p, lock)
	case ActionRebase:
		return a.rebase(ctx, p, lock)
	case ActionGrow:
		return a.grow(ctx, p, lock)
	case ActionNVRAM:
		return a.nvram(p)
	}
	return ioError("prepare the guest's disk", fmt.Errorf("step %q is not known", s.Action))
}

func (a applier) clean(leftovers []string) error {
	for _, path := range leftovers {
		if err := os.RemoveAll(path); err != nil {
			return ioError("remove "+path, err)
		}
		a.step("leftover removed")
	}
	return nil
}

// verify reads the whole base image. When it is the one of then, its new place and date are recorded, so that the next start
// need not read it.
func (a applier) verify(ctx context.Context, p Plan, recorded Record) error {
	op := "verify the base image " + p.Base.Path
	digest, err := fullDigest(ctx, p.Base.Path)
	if err != nil {
		return stoppedOr(ctx, op, err)
	}
	if digest != recorded.Base.SHA256 {
		return refusal(op, fmt.Sprintf("put the image of then back, or move %s aside to start afresh from the new one (what the guest wrote is then no longer used)",
			paths{p.Input.DataDir}.disk()),
			"it is not the one that the guest's disk was made from: then %s (%s), now sha256 %s", recorded.Path, recorded.Base, shortDigest(digest))
	}
	a.step("base verified")
	now := p.Base.Identity
	now.SHA256 = digest
	if err := replaceRecord(paths{p.Input.DataDir}.disk(), Record{Version: recordVersion, Path: p.Base.Path, Base: now}); err != nil {
		return ioError(op, err)
	}
	a.step("record replaced")
	return nil
}

// create makes overlay and record in a directory of another name, and gives it its name when both are on disk.
func (a applier) create(ctx context.Context, p Plan, lock *Lock) (err error) {
	op := "make the overlay " + p.Overlay
	places := paths{p.Input.DataDir}
	temporary, err := os.MkdirTemp(p.Input.DataDir, temporaryPattern(diskName))
	if err != nil {
		return ioError(op, err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(temporary)
		}
	}()
	a.step("temporary made")
	overlay := filepath.Join(temporary, overlayName)
	if err := runQEMUImg(ctx, p, lock, p.createArgs(overlay)); err != nil {
		return stoppedOr(ctx, op, err)
	}
	a.step("overlay created")
	if err := errors.Join(os.Chmod(overlay, 0o600), syncPath(overlay)); err != nil {
		return ioError(op, err)
	}
	a.step("overlay synced")
	if err := replaceRecord(temporary, Record{Version: recordVersion, Path: p.Base.Path, Base: p.Base.Identity}); err != nil {
		return ioError(op, err)
	}
	a.step("record written")
	if err := errors.Join(os.Chmod(temporary, 0o755), syncPath(temporary)); err != nil {
		return ioError(op, err)
	}
	a.step("temporary synced")
	// The name is free or an empty directory's, which rename replaces; it fails for one with content.
	if err := os.Rename(temporary, places.disk()); err != nil {
		return ioError(op, err)
	}
	a.step("temporary renamed")
	if err := syncPath(p.Input.DataDir); err != nil {
		return ioError(op, err)
	}
	a.step("data directory synced")
	return nil
}

// rebase changes the header's first sectors in one write; killed before or after it, the overlay is whole.
func (a applier) rebase(ctx context.Context, p Plan, lock *Lock) error {
	op := "write the base image's new path into " + p.Overlay
	if err := runQEMUImg(ctx, p, lock, p.rebaseArgs()); err != nil {
		return stoppedOr(ctx, op, err)
	}
	a.step("overlay rebased")
	if err := syncPath(p.Overlay); err != nil {
		return ioError(op, err)
	}
	return nil
}

// grow writes a larger L1 table where one is needed, then points the header to it, then writes the new size: killed between
// them, the overlay has the old size and at most some unused clusters.
func (a applier) grow(ctx context.Context, p Plan, lock *Lock) error {
	op := "grow " + p.Overlay
	if err := runQEMUImg(ctx, p, lock, p.growArgs()); err != nil {
		return stoppedOr(ctx, op, err)
	}
	a.step("overlay grown")
	if err := syncPath(p.Overlay); err != nil {
		return ioError(op, err)
	}
	return nil
}

func (a applier) nvram(p Plan) error {
	op := "make the UEFI variable store " + p.NVRAM
	template, err := os.Open(p.Input.NVRAMTemplate)
	if err != nil {
		return ioError(op, err)
	}
	defer template.Close()
	err = writeFileAtomic(p.NVRAM, 0o600, func(f *os.File) error {
		_, err := io.Copy(f, template)
		a.step("variables written")
		return err
	})
	if err != nil {
		return ioError(op, err)
	}
	a.step("variables renamed")
	return nil
}
