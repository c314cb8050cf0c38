package disk

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// Reports are told what happens while a plan is carried out. Each may be nil.
type Reports struct {
	// Note takes a line that the user should know: what was repaired, where something is kept.
	Note func(text string)
	// Progress takes how far something is that takes long, from 0 to 1.
	Progress func(what string, fraction float64)
}

func (r Reports) applier() applier {
	a := applier{step: func(string) {}, note: r.Note, progress: r.Progress, now: time.Now}
	if a.note == nil {
		a.note = func(string) {}
	}
	if a.progress == nil {
		a.progress = func(string, float64) {}
	}
	return a
}

// Apply brings about what the plan says. It needs the lock of the plan's data directory, and looks again under it: between
// the plan and the lock another vmentry may have been at work. What is done already is not done again, so Apply can be
// repeated, and goes on where one that was cut off ended. When ctx ends, helpers are ended, what is half made is removed, and
// the error wraps the context's cause; every other error is an *Error.
func (p Plan) Apply(ctx context.Context, lock *Lock, reports Reports) error {
	return reports.applier().apply(ctx, p, lock)
}

// applier does the steps of a plan.
type applier struct {
	step     func(done string) // called after every change to the disk, by name; tests end the process in it
	note     func(text string)
	progress func(what string, fraction float64)
	now      func() time.Time
}

func (a applier) apply(ctx context.Context, p Plan, lock *Lock) error {
	if lock == nil || lock.dir != p.Input.DataDir {
		return ioError("prepare "+p.Input.DataDir, errors.New("the data directory is not locked"))
	}
	facts, fresh, err := a.look(p)
	if err != nil {
		return err
	}
	if fresh.does(ActionVerify) {
		if facts.Base.Identity.SHA256, err = a.verify(ctx, fresh, facts.Disk.Record); err != nil {
			return err
		}
		if fresh, err = MakePlan(p.Input, facts); err != nil {
			return err
		}
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

// look makes the plan anew, for what is there now, and checks that it is about the same image.
func (a applier) look(p Plan) (Facts, Plan, error) {
	in := p.Input
	if p.Base != nil {
		in.Known = p.Base.Identity
	}
	facts, err := Inspect(in)
	if err != nil {
		return Facts{}, Plan{}, err
	}
	fresh, err := MakePlan(in, facts)
	if err != nil {
		return Facts{}, Plan{}, err
	}
	// A lock on an image that is written leaves the holder's name there, which changes its dates.
	if p.Mode != ModeDirect && p.Base != nil && fresh.Base != nil && p.Base.Identity != fresh.Base.Identity {
		return Facts{}, Plan{}, refusal("use "+p.Base.Path+" as base image", "start again", "it was changed during this start")
	}
	return facts, fresh, nil
}

func (a applier) do(ctx context.Context, p Plan, f Facts, s Step, lock *Lock) error {
	switch s.Action {
	case ActionClean:
		return a.clean(s.Paths)
	case ActionFinish:
		return a.finish(f)
	case ActionRestore:
		return a.restore(ctx, f.Restore, lock)
	case ActionCheck:
		file := p.file()
		if f.Disk != nil { // before a merge that is the overlay, which becomes another file
			file.path = f.Disk.Path
		}
		return a.check(ctx, p.Input.qemuImg(), file, lock, p.dirty)
	case ActionCreate, ActionCopy:
		return a.newDisk(ctx, p, lock)
	case ActionRenew:
		return a.replaceDisk(ctx, p, lock, true)
	case ActionMerge:
		return a.replaceDisk(ctx, p, lock, false)
	case ActionFormat:
		return a.remember(p)
	case ActionRebase:
		return changing(f.Unclean, lock, func() error { return a.rebase(ctx, p, lock) })
	case ActionGrow:
		if err := changing(f.Unclean, lock, func() error { return a.grow(ctx, p, lock) }); err != nil || !p.does(ActionCheck) {
			return err
		}
		// A cluster that was taken behind the end of the file is not seen by a check until the file has grown beyond it.
		return a.check(ctx, p.Input.qemuImg(), p.file(), lock, false)
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

// verify reads the whole base image and gives its digest. When it is the one of then, its new place and date are recorded, so
// that the next start need not read it.
func (a applier) verify(ctx context.Context, p Plan, recorded Record) (digest string, err error) {
	op := "verify the base image " + p.Base.Path
	watch := func(fraction float64) { a.progress("comparing "+p.Base.Path+" with the image of then", fraction) }
	if digest, err = fullDigest(ctx, p.Base.Path, watch); err != nil {
		return "", stoppedOr(ctx, op, err)
	}
	a.step("base verified")
	if digest != recorded.Base.SHA256 {
		return digest, nil
	}
	now := p.Base.Identity
	now.SHA256 = digest
	dir := paths{p.Input.DataDir}.disk()
	if p.does(ActionFinish) || p.does(ActionRestore) {
		return digest, nil // it is another directory that is to have that name
	}
	if err := replaceRecord(dir, Record{Version: recordVersion, Path: p.Base.Path, Base: now}); err != nil {
		return "", ioError(op, err)
	}
	a.step("record replaced")
	return digest, nil
}

// changing does something to a disk that is in use: if it is cut off, the next start has to check the disk as after a QEMU that
// was killed.
func changing(unclean bool, lock *Lock, do func() error) error {
	if unclean {
		return do()
	}
	if err := lock.SetRunning(true); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return lock.SetRunning(false)
}

// rebase changes the header's first sectors in one write; killed before or after it, the overlay is whole.
func (a applier) rebase(ctx context.Context, p Plan, lock *Lock) error {
	op := "write the base image's new path into " + p.Path
	if err := p.Input.qemuImg().run(ctx, lock, reach{p.below(), []string{p.Path}}, nil, p.rebaseArgs()); err != nil {
		return stoppedOr(ctx, op, err)
	}
	a.step("overlay rebased")
	if err := syncPath(p.Path); err != nil {
		return ioError(op, err)
	}
	return nil
}

// grow writes a larger L1 table where one is needed, then points the header to it, then writes the new size: killed between
// them, the overlay has the old size and at most some unused clusters.
func (a applier) grow(ctx context.Context, p Plan, lock *Lock) error {
	op := "grow " + p.Path
	if err := p.Input.qemuImg().run(ctx, lock, reach{p.below(), []string{p.Path}}, nil, p.growArgs()); err != nil {
		return stoppedOr(ctx, op, err)
	}
	a.step("overlay grown")
	if err := syncPath(p.Path); err != nil {
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
		n, err := io.Copy(f, template)
		if err == nil {
			err = f.Truncate(max(n, p.Input.NVRAMSize))
		}
		a.step("variables written")
		return err
	})
	if err != nil {
		return ioError(op, err)
	}
	a.step("variables renamed")
	return nil
}
