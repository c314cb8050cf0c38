package disk

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"time"
)

// A snapshot is a copy of the guest's disk as it was at one moment: a directory snapshots/NAME in the data directory that holds what
// the directory disk holds, and what is known of it. It is a file of its own and not one of qcow2's internal snapshots, and not a link
// of a longer chain, because then neither making, keeping nor deleting it changes a byte of the disk that the guest writes: whatever is
// killed at whatever moment, the disk is as it was. An internal one writes the disk's own reference counts, and leaves them wrong when
// QEMU is killed meanwhile; a longer chain has to be put together again, while the guest writes. The price is space, and the time of a copy.
const (
	snapshotsName    = "snapshots"
	snapshotMetaName = "snapshot.json"
)

func (p paths) snapshots() string           { return filepath.Join(p.data, snapshotsName) }
func (p paths) snapshot(name string) string { return filepath.Join(p.data, snapshotsName, name) }

// Snapshot is one of them.
type Snapshot struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	// State says what the guest did meanwhile: "frozen" (its agent had its file systems written out and at rest), "running" (like after a
	// power cut), "off".
	State string `json:"state"`
	Size  int64  `json:"size"`  // of the guest's disk, bytes
	Bytes int64  `json:"bytes"` // that it takes in the data directory
}

// What a guest does while a snapshot is made.
const (
	StateFrozen  = "frozen"
	StateRunning = "running"
	StateOff     = "off"
)

// snapshotNames are such that they need no quoting anywhere, and are no temporary ones.
var snapshotNames = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`) })

// CheckSnapshotName refuses what cannot be a snapshot's name.
func CheckSnapshotName(name string) error {
	if !snapshotNames().MatchString(name) {
		return configError(fmt.Sprintf("name a snapshot %q", name), "", "a name has 1 to 64 letters, digits, dots, dashes and underscores, and begins with a letter or digit")
	}
	return nil
}

// Snapshots lists those in a data directory, the oldest first.
func Snapshots(dir string) ([]Snapshot, error) {
	places := paths{dir}
	op := "look at the snapshots in " + places.snapshots()
	entries, err := os.ReadDir(places.snapshots())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ioError(op, err)
	}
	var all []Snapshot
	for _, e := range entries {
		if !snapshotNames().MatchString(e.Name()) || !e.IsDir() {
			continue
		}
		s, err := places.readSnapshot(e.Name())
		if errors.Is(err, fs.ErrNotExist) {
			continue // deleted just now
		}
		if err != nil {
			return nil, ioError(op, err)
		}
		all = append(all, s)
	}
	slices.SortStableFunc(all, func(a, b Snapshot) int { return a.Created.Compare(b.Created) })
	return all, nil
}

// readSnapshot reads what is known of one. Where nothing was written down the time is that of its directory.
func (p paths) readSnapshot(name string) (Snapshot, error) {
	info, err := os.Stat(p.snapshot(name))
	if err != nil {
		return Snapshot{}, err
	}
	s := Snapshot{State: StateOff, Created: info.ModTime()}
	b, err := os.ReadFile(filepath.Join(p.snapshot(name), snapshotMetaName))
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Snapshot{}, fmt.Errorf("%s: %w", name, err)
	}
	s.Name = name
	if s.Bytes, err = allocated(diskFile(p.snapshot(name))); err != nil {
		return Snapshot{}, err
	}
	return s, nil
}

// NewSnapshot is a snapshot that is being made. Its directory has another name until it is whole.
type NewSnapshot struct {
	// Path is the file that the copy of the disk is to be written to. It is not there yet.
	Path string
	// Source is the disk.
	Source string
	// Size is that of the guest's disk, bytes.
	Size int64
	// Base is the image that the disk lies on: its path and format.
	Base       string
	BaseFormat string

	name string
	dir  string
	lock *Lock
}

// BeginSnapshot begins a snapshot of the disk in the data directory that lock locks. What is already known to be in its way, a name that is
// taken or a volume that has not enough space, ends it here.
func BeginSnapshot(lock *Lock, name string) (*NewSnapshot, error) {
	op := "make the snapshot " + name
	if err := CheckSnapshotName(name); err != nil {
		return nil, err
	}
	places := paths{lock.dir}
	if _, err := os.Stat(places.snapshot(name)); err == nil {
		return nil, configError(op, "take another name, or delete that one first", "there is one of that name")
	}
	overlay, err := inspectDiskIn(places.disk())
	if err != nil {
		return nil, err
	}
	if overlay == nil {
		return nil, refusal(op, "start the VM once", "there is no disk in %s yet", places.data)
	}
	if overlay.Flaw != "" {
		return nil, refusal(op, "", "the disk must not be used: %s", overlay.Flaw)
	}
	if err := cleanSnapshots(places); err != nil {
		return nil, ioError(op, err)
	}
	if err := os.MkdirAll(places.snapshots(), 0o755); err != nil {
		return nil, ioError(op, err)
	}
	if err := roomFor(op, overlay.Path, places.snapshots()); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp(places.snapshots(), temporaryPattern(name))
	if err != nil {
		return nil, ioError(op, err)
	}
	return &NewSnapshot{
		Path: filepath.Join(dir, filepath.Base(overlay.Path)), Source: overlay.Path, Size: overlay.VirtualSize, Base: overlay.Backing, BaseFormat: overlay.BackingFormat,
		name: name, dir: dir, lock: lock,
	}, nil
}

// Copy makes the copy of a disk that no guest writes.
func (n *NewSnapshot) Copy(ctx context.Context, progress func(done, total int64)) error {
	if err := copyFile(ctx, n.Source, n.Path, progress); err != nil {
		return stoppedOr(ctx, "make the snapshot "+n.name, err)
	}
	return nil
}

// Commit gives the snapshot its name, when all of it is on disk.
func (n *NewSnapshot) Commit(state string) error {
	op := "make the snapshot " + n.name
	places := paths{n.lock.dir}
	record, err := readRecord(places.record())
	if err != nil {
		return ioError(op, err)
	}
	err = errors.Join(os.Chmod(n.Path, 0o600), syncPath(n.Path), replaceRecord(n.dir, record),
		writeMeta(n.dir, Snapshot{Name: n.name, Created: time.Now().UTC().Truncate(time.Second), State: state, Size: n.Size}))
	if err == nil {
		err = rename(n.dir, places.snapshot(n.name))
	}
	if err != nil {
		return ioError(op, err)
	}
	return nil
}

// Discard removes what was made so far. After Commit it does nothing.
func (n *NewSnapshot) Discard() { os.RemoveAll(n.dir) }

// DeleteSnapshot deletes a snapshot, in the data directory that lock locks.
func DeleteSnapshot(lock *Lock, name string) error {
	op := "delete the snapshot " + name
	places := paths{lock.dir}
	if err := places.hasSnapshot(op, name); err != nil {
		return err
	}
	if r, err := readRestore(places); err != nil {
		return err
	} else if r != nil && r.Name == name {
		return configError(op, "cancel that first: vmentry snapshot restore --cancel", "it is to be restored at the next start")
	}
	// under a temporary name first: what is half deleted is no snapshot
	doomed, err := os.MkdirTemp(places.snapshots(), temporaryPattern(name))
	if err == nil {
		err = errors.Join(os.Remove(doomed), rename(places.snapshot(name), doomed)) // the name is what is wanted of it
	}
	if err == nil {
		err = os.RemoveAll(doomed)
	}
	if err != nil {
		return ioError(op, err)
	}
	return nil
}

// hasSnapshot refuses a name that no snapshot has.
func (p paths) hasSnapshot(op, name string) error {
	if err := CheckSnapshotName(name); err != nil {
		return err
	}
	if _, err := os.Stat(p.snapshot(name)); errors.Is(err, fs.ErrNotExist) {
		return configError(op, "vmentry snapshot list prints those that there are", "there is none of that name in %s", p.snapshots())
	} else if err != nil {
		return ioError(op, err)
	}
	return nil
}

// findSnapshotLeftovers lists snapshots that were never finished, or half deleted, and a request that was carried out and not removed.
func findSnapshotLeftovers(places paths) ([]string, error) {
	entries, err := os.ReadDir(places.snapshots())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		name, _, cut := strings.Cut(strings.TrimPrefix(e.Name(), "."), temporaryMark)
		if cut && isTemporary(e.Name(), name) {
			found = append(found, filepath.Join(places.snapshots(), e.Name()))
		}
	}
	if r, err := readRestore(places); err == nil && r != nil && places.isRestored(r) {
		found = append(found, places.restore())
	}
	return found, nil
}

// cleanSnapshots removes them.
func cleanSnapshots(places paths) error {
	leftovers, err := findSnapshotLeftovers(places)
	for _, path := range leftovers {
		err = errors.Join(err, os.RemoveAll(path))
	}
	return err
}

// diskFile is the disk in a directory, or the name of an overlay where there is none.
func diskFile(dir string) string {
	if file := filepath.Join(dir, copyName); fileThere(file) {
		return file
	}
	return filepath.Join(dir, overlayName)
}

func fileThere(path string) bool {
	_, err := os.Lstat(path)
	return err == nil
}

func writeMeta(dir string, s Snapshot) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return writeFileAtomic(filepath.Join(dir, snapshotMetaName), 0o600, func(f *os.File) error {
		_, err := f.Write(append(b, '\n'))
		return err
	})
}

// rename renames a directory that is whole, and makes it and its name durable.
func rename(from, to string) error {
	if err := errors.Join(os.Chmod(from, 0o755), syncPath(from), os.Rename(from, to)); err != nil {
		return err
	}
	return errors.Join(syncPath(filepath.Dir(from)), syncPath(filepath.Dir(to)))
}

// spare is what must be left on a volume beside a copy, in bytes: the guest goes on writing meanwhile.
const spare = 64 << 20

// roomFor refuses a copy of file in dir that its volume has no space for.
func roomFor(op, file, dir string) error {
	need, err := allocated(file)
	if err != nil {
		return ioError(op, err)
	}
	free, err := freeSpace(dir)
	if err != nil {
		return ioError(op, err)
	}
	if need+spare > free {
		return refusal(op, "make the volume larger, or delete what is not needed; nothing has been changed",
			"it needs %s, and %s has %s left", sizeText(need+spare), dir, sizeText(free))
	}
	return nil
}
