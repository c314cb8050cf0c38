package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	restoreName  = "restore.json"  // in the data directory: what is to be restored
	restoredName = "restored.json" // in a disk's directory: by which request it was made
)

func (p paths) restore() string  { return filepath.Join(p.data, restoreName) }
func (p paths) restored() string { return filepath.Join(p.disk(), restoredName) }

// Restore is the request to put a snapshot in the disk's place at the next start.
type Restore struct {
	Name string `json:"name"` // of the snapshot
	Keep string `json:"keep"` // the name of the snapshot that the disk of before becomes
	ID   string `json:"id"`   // of the request
}

// RequestRestore has a snapshot restored at the next start; the disk that is there now then becomes a snapshot itself, whose name is in the
// request. One that was there is replaced.
func RequestRestore(lock *Lock, name string, now time.Time) (Restore, error) {
	op := "restore the snapshot " + name
	places := paths{lock.dir}
	if err := places.hasSnapshot(op, name); err != nil {
		return Restore{}, err
	}
	overlay, err := inspectDiskIn(places.snapshot(name))
	if err != nil {
		return Restore{}, err
	}
	if overlay == nil || overlay.Flaw != "" {
		return Restore{}, refusal(op, "delete it", "it must not be used: %s", overlay.flaw())
	}
	now = now.UTC()
	r := Restore{Name: name, Keep: "before-restore-" + now.Format("20060102-150405"), ID: now.Format(time.RFC3339Nano)}
	b, err := json.Marshal(r)
	if err != nil {
		return Restore{}, err
	}
	return r, WriteFile(places.restore(), append(b, '\n'))
}

// flaw is why an overlay must not be used, and says so of none as well.
func (o *GuestDisk) flaw() string {
	if o == nil {
		return "it is empty"
	}
	return o.Flaw
}

// CancelRestore takes a request back. It says whether there was one.
func CancelRestore(lock *Lock) (bool, error) {
	places := paths{lock.dir}
	if _, err := os.Stat(places.disk()); errors.Is(err, fs.ErrNotExist) {
		if r, err := readRestore(places); err == nil && r != nil {
			return false, refusal("cancel the restoring of "+r.Name, "start the VM; the disk of before is the snapshot "+r.Keep, "it was interrupted half way")
		}
	}
	err := os.Remove(places.restore())
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err == nil {
		err = syncPath(places.data)
	}
	if err != nil {
		return false, ioError("remove "+places.restore(), err)
	}
	return true, nil
}

// PendingRestore is the request that waits for the next start, nil if there is none.
func PendingRestore(dir string) (*Restore, error) { return readRestore(paths{dir}) }

func readRestore(places paths) (*Restore, error) {
	b, err := os.ReadFile(places.restore())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	var r Restore
	if err == nil {
		err = json.Unmarshal(b, &r)
	}
	if err == nil {
		err = errors.Join(CheckSnapshotName(r.Name), CheckSnapshotName(r.Keep))
	}
	if err != nil {
		e := ioError("read "+places.restore(), err)
		e.Advice = "remove it to start with the disk as it is"
		return nil, e
	}
	return &r, nil
}

// isRestored says whether the disk is already the one that the request is for.
func (p paths) isRestored(r *Restore) bool {
	b, err := os.ReadFile(p.restored())
	return err == nil && string(b) == r.ID+"\n"
}

// toRestore is the request that has yet to be carried out, nil if there is none, and the directory with the disk of after.
func (p paths) toRestore() (*Restore, string, error) {
	r, err := readRestore(p)
	if err != nil || r == nil || p.isRestored(r) {
		return nil, p.disk(), err
	}
	if _, err := os.Stat(p.snapshot(r.Name)); err != nil {
		e := ioError("restore the snapshot "+r.Name+", as was asked for", err)
		e.Advice = "start with the disk as it is: vmentry snapshot restore --cancel"
		return nil, "", e
	}
	return r, p.snapshot(r.Name), nil
}

// restoreStep is the step for a request.
func restoreStep(dir string, r *Restore) Step {
	places := paths{dir}
	return Step{
		Action:   ActionRestore,
		Text:     fmt.Sprintf("restore the snapshot %s; the disk of before becomes the snapshot %s", r.Name, r.Keep),
		Commands: [][]string{{"mv", "-T", "--", places.disk(), places.snapshot(r.Keep)}, {"cp", "-a", "-T", "--", places.snapshot(r.Name), places.disk()}, {"rm", "--", places.restore()}},
	}
}

// restore puts a copy of the snapshot in the disk's place. Killed at any moment, it is done again from where the two renames show that it
// was: before the first the disk is that of before, after it there is none and the request still there, after the second it is that of the
// request, which the disk itself says.
func (a applier) restore(ctx context.Context, r *Restore, lock *Lock) (err error) {
	op := "restore the snapshot " + r.Name
	places := paths{lock.dir}
	if err := roomFor(op, diskFile(places.snapshot(r.Name)), places.data); err != nil {
		return err
	}
	temporary, err := os.MkdirTemp(places.data, temporaryPattern(diskName))
	if err != nil {
		return ioError(op, err)
	}
	defer func() {
		if err != nil {
			_ = os.RemoveAll(temporary)
		}
	}()
	a.step("restore: temporary made")
	record, err := readRecord(filepath.Join(places.snapshot(r.Name), recordName))
	if err != nil {
		return ioError(op, err)
	}
	shown := func(done, total int64) {
		a.progress("restoring the snapshot "+r.Name, float64(done)/float64(max(total, 1)))
	}
	if err := copyFile(ctx, filepath.Join(places.snapshot(r.Name), record.file()), filepath.Join(temporary, record.file()), shown); err != nil {
		return stoppedOr(ctx, op, err)
	}
	a.step("restore: copied")
	err = errors.Join(replaceRecord(temporary, record), WriteFile(filepath.Join(temporary, restoredName), []byte(r.ID+"\n")))
	if err != nil {
		return ioError(op, err)
	}
	a.step("restore: recorded")
	if err := a.keep(places, r); err != nil {
		return ioError(op, err)
	}
	if err := rename(temporary, places.disk()); err != nil {
		return ioError(op, err)
	}
	a.step("restore: disk in its place")
	return a.restoreDone(places, r)
}

// keep makes a snapshot of the disk of before by renaming it.
func (a applier) keep(places paths, r *Restore) error {
	if err := os.Remove(places.disk()); err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil // done, or there never was one; an empty directory is none
	}
	keep := places.snapshot(r.Keep)
	for n := 2; ; n++ { // two restores within a second
		if _, err := os.Stat(keep); errors.Is(err, fs.ErrNotExist) {
			break
		}
		keep = fmt.Sprintf("%s.%d", places.snapshot(r.Keep), n)
	}
	meta := Snapshot{Name: filepath.Base(keep), Created: time.Now().UTC().Truncate(time.Second), State: StateOff}
	if o, err := inspectDiskIn(places.disk()); err == nil && o != nil {
		meta.Size = o.VirtualSize // what cannot be read is kept as well
	}
	if err := errors.Join(writeMeta(places.disk(), meta), os.MkdirAll(places.snapshots(), 0o755)); err != nil {
		return err
	}
	a.step("restore: disk of before described")
	if err := rename(places.disk(), keep); err != nil {
		return err
	}
	a.step("restore: disk of before kept")
	return nil
}

// restoreDone takes the request away. The disk of the request stays marked: where the removal gets lost it is not restored again.
func (a applier) restoreDone(places paths, r *Restore) error {
	if err := errors.Join(os.Remove(places.restore()), syncPath(places.data)); err != nil {
		return ioError("finish restoring the snapshot "+r.Name, err)
	}
	a.step("restore: request removed")
	return nil
}
