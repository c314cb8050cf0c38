package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"
)

// Apply brings about what the plan says. It needs the lock of the data directory, looks again under it, and may be repeated, as
// [Plan.Apply].
func (p MorePlan) Apply(ctx context.Context, lock *Lock, reports Reports) error {
	return moreApplier{reports.applier()}.apply(ctx, p, lock)
}

// moreApplier does the steps of a plan.
type moreApplier struct{ applier }

func (a moreApplier) apply(ctx context.Context, p MorePlan, lock *Lock) error {
	if len(p.Input.Disks) == 0 && len(p.Steps) == 0 {
		return nil
	}
	if lock == nil || lock.dir != p.Input.DataDir {
		return ioError("prepare the disks in "+p.Input.DataDir, errors.New("the data directory is not locked"))
	}
	facts, err := InspectMore(p.Input)
	if err != nil {
		return err
	}
	fresh, err := MakeMorePlan(p.Input, facts)
	if err != nil {
		return err
	}
	for i, d := range p.Disks {
		if now := fresh.Disks[i]; d.Format != now.Format || d.Device != now.Device || d.Path != now.Path {
			return refusal("use "+d.Path, "start again", "it was changed during this start")
		}
	}
	for _, s := range fresh.Steps {
		if ctx.Err() != nil {
			return fmt.Errorf("cannot prepare the disks: %w", context.Cause(ctx))
		}
		if err := a.do(ctx, fresh, facts, s, lock); err != nil {
			return err
		}
	}
	return nil
}

func (a moreApplier) do(ctx context.Context, p MorePlan, f MoreFacts, s MoreStep, lock *Lock) error {
	check := func(dirty bool) error {
		return a.check(ctx, p.Input.qemuImg(), p.Disks[s.Disk].file(), lock, dirty)
	}
	switch s.Action {
	case ActionClean:
		return a.clean(s.Paths)
	case ActionCheck:
		return check(p.Disks[s.Disk].dirty)
	case ActionCreate:
		return a.create(p, p.Disks[s.Disk])
	case ActionGrow:
		err := changing(f.Unclean, lock, func() error { return a.grow(ctx, p, p.Disks[s.Disk], lock) })
		if err == nil && p.checks(s.Disk) { // see [applier.do]
			err = check(false)
		}
		return err
	case ActionRecord:
		return a.record(p, p.Disks[s.Disk])
	}
	return ioError("prepare the disks", fmt.Errorf("step %q is not known", s.Action))
}

// directory makes the directory of the disks. What is in it comes by renaming alone.
func (p MorePlan) directory() (string, error) {
	dir := paths{p.Input.DataDir}.more()
	if err := os.Mkdir(dir, 0o755); err != nil {
		if errors.Is(err, os.ErrExist) {
			return dir, nil
		}
		return "", err
	}
	return dir, syncPath(p.Input.DataDir)
}

// create makes a disk.
func (a moreApplier) create(p MorePlan, d MoreDisk) error {
	op := "make the disk " + d.Path
	if _, err := p.directory(); err != nil {
		return ioError(op, err)
	}
	a.step("directory made")
	err := writeFileAtomic(d.Path, 0o600, func(f *os.File) error {
		err := newQCOW2{size: d.Size}.write(f)
		a.step("disk written")
		return err
	})
	if err != nil {
		return ioError(op, err)
	}
	a.step("disk renamed")
	return nil
}

// grow is safe to be killed in, as that of the main disk is.
func (a moreApplier) grow(ctx context.Context, p MorePlan, d MoreDisk, lock *Lock) error {
	op := "grow " + d.Path
	if err := p.Input.qemuImg().run(ctx, lock, reach{write: []string{d.Path}}, nil, d.growArgs()); err != nil {
		return stoppedOr(ctx, op, err)
	}
	a.step("disk grown")
	if err := syncPath(d.Path); err != nil {
		return ioError(op, err)
	}
	return nil
}

// record remembers that a file is raw, before a guest has written to it.
func (a moreApplier) record(p MorePlan, d MoreDisk) error {
	op := "remember that " + d.Path + " is raw"
	if _, err := p.directory(); err != nil {
		return ioError(op, err)
	}
	info, err := os.Stat(d.Path)
	if err != nil {
		return ioError(op, err)
	}
	b, err := json.MarshalIndent(moreRecord{Version: moreRecordVersion, Path: d.Path, Inode: identify(info).inode, Format: FormatRaw}, "", "  ")
	if err != nil {
		return ioError(op, err)
	}
	a.step("directory made")
	path := paths{p.Input.DataDir}.moreRecord(d.Name)
	if err := WriteFile(path, append(b, '\n')); err != nil {
		return err
	}
	a.step("record written")
	return nil
}

// Lock locks the files and devices that the plan names, against every other VM: one that is written for itself, one that is read
// against writers. What is in the data directory is locked with that. When it fails nothing stays locked.
func (p MorePlan) Lock(ctx context.Context, holder Holder, wait time.Duration) (locks []*ImageLock, err error) {
	defer func() {
		if err != nil {
			for _, l := range locks {
				l.Close()
			}
			locks = nil
		}
	}()
	for i, d := range p.Disks {
		if !d.lockable() {
			continue
		}
		sharing := Exclusive
		if d.ReadOnly {
			sharing = Shared
		}
		lock, err := LockImage(ctx, d.Path, sharing, holder, wait)
		if err != nil {
			return locks, fmt.Errorf("VM_DISKS=%q: %w", p.Input.Disks[i].Entry, err)
		}
		locks = append(locks, lock)
	}
	return locks, nil
}
