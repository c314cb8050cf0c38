package disk

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

// A disk comes into being, and one takes another's place, in an order in which a start may be cut off anywhere:
//
//	.disk.new-123   is being built; whatever is left of it is removed
//	disk.next       is whole and on disk. While disk is still there it may be built again, so it is removed
//	disk.kept-DATE  is the old disk. From here on disk.next is the guest's disk, and the next start gives it its name
//	disk            is the new one

// newDisk makes the guest's disk where there is none.
func (a applier) newDisk(ctx context.Context, p Plan, lock *Lock) error {
	temporary, err := a.build(ctx, p, lock)
	if err != nil {
		return err
	}
	// The name is free or an empty directory's, which rename replaces; it fails for one with content.
	return a.move(temporary, paths{p.Input.DataDir}.disk(), "temporary renamed")
}

// replaceDisk makes a new disk and keeps the old one aside, with its belongings if another system is on the new one.
func (a applier) replaceDisk(ctx context.Context, p Plan, lock *Lock, anotherSystem bool) error {
	places := paths{p.Input.DataDir}
	temporary, err := a.build(ctx, p, lock)
	if err != nil {
		return err
	}
	if err := a.move(temporary, places.next(), "new disk whole"); err != nil {
		return err
	}
	kept, err := keptName(p.Input.DataDir, a.now())
	if err != nil {
		return ioError("keep the old disk aside", err)
	}
	a.note("the old disk is kept as " + kept + ", with what the guest wrote; delete it when it is not needed any more")
	if anotherSystem {
		for _, name := range belongings {
			err := a.move(places.belonging(name), places.stranded(name), name+" set aside")
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
	}
	if err := a.move(places.disk(), kept, "old disk set aside"); err != nil {
		return err
	}
	return a.move(places.next(), places.disk(), "new disk in place")
}

// keptName is a free name for a disk that is set aside.
func keptName(dir string, now time.Time) (string, error) {
	name := filepath.Join(dir, keptPrefix+now.UTC().Format("20060102T150405Z"))
	for n, try := 2, name; ; n++ {
		_, err := os.Lstat(try)
		if errors.Is(err, fs.ErrNotExist) {
			return try, nil
		}
		if err != nil {
			return "", err
		}
		try = name + "-" + strconv.Itoa(n)
	}
}

// move renames, and makes it last.
func (a applier) move(from, to, done string) error {
	op := "rename " + from + " to " + to
	if err := os.Rename(from, to); err != nil {
		var link *os.LinkError // names both paths once more
		if errors.As(err, &link) {
			err = link.Err
		}
		return ioError(op, err)
	}
	a.step(done)
	if err := syncPaths(filepath.Dir(to), filepath.Dir(from)); err != nil {
		return ioError(op, err)
	}
	a.step(done + " and synced")
	return nil
}

// build makes disk and record in a directory of another name, whole and on disk. Nothing is left of one that fails.
func (a applier) build(ctx context.Context, p Plan, lock *Lock) (string, error) {
	op := "make the guest's disk " + p.Path
	temporary, err := os.MkdirTemp(p.Input.DataDir, temporaryPattern(diskName))
	if err != nil {
		return "", ioError(op, err)
	}
	a.step("temporary made")
	if err := a.furnish(ctx, p, lock, temporary); err != nil {
		_ = os.RemoveAll(temporary)
		return "", stoppedOr(ctx, op, err)
	}
	return temporary, nil
}

// furnish fills the directory of a new disk.
func (a applier) furnish(ctx context.Context, p Plan, lock *Lock, dir string) error {
	file := filepath.Join(dir, filepath.Base(p.Path))
	if err := a.fill(ctx, p, lock, file); err != nil {
		return err
	}
	a.step("disk made")
	record, err := p.record().encode()
	if err != nil {
		return err
	}
	name := filepath.Join(dir, recordName)
	if err := os.WriteFile(name, record, 0o600); err != nil { // the directory has no name yet that counts
		return err
	}
	a.step("record written")
	if err := errors.Join(os.Chmod(file, 0o600), os.Chmod(dir, 0o755), syncPaths(file, name, dir)); err != nil {
		return err
	}
	a.step("temporary synced")
	return nil
}

// fill makes the image file of a new disk.
func (a applier) fill(ctx context.Context, p Plan, lock *Lock, file string) error {
	if p.Mode == ModeCopy {
		return a.copy(ctx, p, lock, file)
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(p.overlay().write(f), f.Close())
}

// finish gives back their names to what a start that was cut off was about to rename.
func (a applier) finish(f Facts) error {
	places := paths{f.DataDir}
	if f.Next {
		if err := a.move(places.next(), places.disk(), "new disk in place"); err != nil {
			return err
		}
	}
	for _, name := range f.Stranded {
		if err := a.move(places.stranded(name), places.belonging(name), name+" back in place"); err != nil {
			return err
		}
	}
	return nil
}
