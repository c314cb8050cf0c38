package disk

import (
	"cmp"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// Facts is what was found: all that MakePlan needs to know of the world.
type Facts struct {
	// Base is the base image; nil without a disk, and where the disk is a copy, which needs none.
	Base *Image `json:"base,omitempty"`
	// Target is what else was found out about Base where the guest is to write it.
	Target Target `json:"target"`
	// DataDir is the absolute path of the data directory.
	DataDir string `json:"dataDir"`
	// Place is the file system that the data directory is on, or will be.
	Place Place `json:"place"`
	// Disk is the guest's disk of an earlier start; nil where there is none.
	Disk *GuestDisk `json:"disk,omitempty"`
	// Restore is the snapshot that has to be put in the disk's place, nil for none. Disk is then the snapshot's.
	Restore *Restore `json:"restore,omitempty"`
	// Next says that a new disk has yet to get its name: the old one has been set aside.
	Next bool `json:"next,omitempty"`
	// Stranded are those of the disk's belongings that are still where they were to be set aside.
	Stranded []string `json:"stranded,omitempty"`
	// Unclean says that the last QEMU on this directory has not been seen to end well.
	Unclean bool `json:"unclean,omitempty"`
	// Leftovers are the paths of what a start that was cut off left half made.
	Leftovers []string `json:"leftovers,omitempty"`
	// NVRAM is the size of the UEFI variable store in bytes, -1 where there is none.
	NVRAM int64 `json:"nvram"`
	// NVRAMTemplate is the size of the template in bytes, -1 where there is none.
	NVRAMTemplate int64 `json:"nvramTemplate"`
	// QEMUImg is the path of qemu-img, empty where there is none.
	QEMUImg string `json:"qemuImg,omitempty"`
}

// Inspect looks at the image and the data directory and changes nothing. It needs no more than the right to read them. The
// error is an *Error.
func Inspect(in Input) (Facts, error) {
	dir, err := filepath.Abs(in.DataDir)
	if err != nil {
		return Facts{}, ioError("find the data directory", err)
	}
	facts := Facts{DataDir: dir, QEMUImg: findProgram(in.QEMUImg)}
	if facts.Place, err = inspectPlace(dir); err != nil {
		return Facts{}, ioError("look at the data directory "+dir, err)
	}
	if facts.Stranded, err = findStranded(paths{dir}); err != nil {
		return Facts{}, ioError("look at the data directory "+dir, err)
	}
	store := in.nvram(paths{dir})
	if name := filepath.Base(store); slices.Contains(facts.Stranded, name) {
		store = paths{dir}.stranded(name)
	}
	if facts.NVRAM, err = fileSize(store); err != nil {
		return Facts{}, ioError("look at the variable store "+store, err)
	}
	if err := facts.inspectLastEnd(in); err != nil {
		return Facts{}, ioError("look at the data directory "+dir, err)
	}
	facts.NVRAMTemplate = -1
	if in.NVRAMTemplate != "" {
		if facts.NVRAMTemplate, err = fileSize(in.NVRAMTemplate); err != nil {
			return Facts{}, ioError("look at the variable store's template "+in.NVRAMTemplate, err)
		}
	}
	if in.None {
		return facts, nil
	}
	// a snapshot that waits to be restored is what the guest's disk will be
	restore, where, err := paths{dir}.toRestore()
	if err != nil {
		return Facts{}, err
	}
	if restore == nil && facts.Next {
		where = paths{dir}.next()
	}
	facts.Restore = restore
	if facts.Disk, err = inspectDiskIn(where); err != nil {
		return Facts{}, err
	}
	if facts.Disk != nil {
		facts.Disk.Path = filepath.Join(paths{dir}.disk(), filepath.Base(facts.Disk.Path))
	}
	if facts.Disk == nil || facts.Disk.Record.mode() != ModeCopy {
		err = facts.inspectBase(in)
	}
	return facts, err
}

// inspectLastEnd looks at what the last start has left.
func (f *Facts) inspectLastEnd(in Input) (err error) {
	if in.Beside { // it has not ended
		f.Stranded = nil
		return nil
	}
	if f.Unclean, err = inspectRunning(f.DataDir); err != nil {
		return err
	}
	return f.findRemains(f.DataDir)
}

// Boot is what is known of how the guest's disk wants to be booted; false where there is no disk.
func (f Facts) Boot() (BootHints, bool) {
	switch {
	case f.Base != nil:
		return f.Base.Boot, true
	case f.Disk != nil && f.Disk.Record.Boot != nil:
		return *f.Disk.Record.Boot, true
	}
	return BootHints{}, false
}

// HasCopy says whether the guest's disk in the data directory is a full copy, which needs no base image. What makes it
// unreadable is for Inspect to say.
func HasCopy(dataDir string) bool {
	_, where, err := paths{dataDir}.toRestore()
	if err != nil {
		return false
	}
	for _, dir := range []string{where, paths{dataDir}.next()} {
		r, err := readRecord(filepath.Join(dir, recordName))
		if !errors.Is(err, fs.ErrNotExist) {
			return err == nil && r.mode() == ModeCopy
		}
	}
	return false
}

// inspectBase looks at the image, and whether it can be written if it is to be.
func (f *Facts) inspectBase(in Input) error {
	if in.mode() == ModeDirect {
		return f.inspectDirect(in)
	}
	known := []Identity{in.Known}
	if f.Disk != nil {
		known = append(known, f.Disk.Record.Base)
	}
	image, err := inspectImage(in.Image, in.Format, known...)
	if err == nil && in.Blank {
		image.Warnings = nil
	}
	f.Base = image
	return err
}

// inspectDirect looks at an image that the guest is to write.
func (f *Facts) inspectDirect(in Input) error {
	path, err := filepath.Abs(in.Image)
	op := "write to the image " + path
	if err != nil {
		return ioError(op, err)
	}
	target, err := inspectTarget(paths{f.DataDir}, path)
	if err == nil && in.Recognise != nil {
		err = target.resembles(path, in.Recognise)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // for which inspectImage has better words
		return ioError(op, err)
	}
	f.Target = target
	f.Base, err = inspectImage(path, cmp.Or(target.Remembered, in.Format), in.Known)
	return err
}

func findProgram(name string) string {
	if name == "" {
		name = "qemu-img"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

// fileSize is -1 where there is no such file.
func fileSize(path string) (int64, error) {
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, errors.New("it is not a file")
	}
	return info.Size(), nil
}

// findStranded lists those of the disk's belongings that are still where they were to be set aside.
func findStranded(places paths) ([]string, error) {
	var names []string
	for _, name := range belongings {
		_, err := os.Lstat(places.belonging(name))
		if err == nil {
			continue
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		switch _, err := os.Lstat(places.stranded(name)); {
		case err == nil:
			names = append(names, name)
		case !errors.Is(err, fs.ErrNotExist):
			return nil, err
		}
	}
	return names, nil
}

// findRemains lists what a start that was cut off has left: what it made under a temporary name and never renamed, and a new
// disk that is whole and did not get its name. While the old disk is there the guest may have written to it since, so that the new one
// counts for nothing.
func (f *Facts) findRemains(dir string) error {
	places := paths{dir}
	var found []string
	haveDisk := false
	for where, names := range map[string][]string{
		dir:           {diskName, nvramName, secureName, IdentityName, directName, restoreName, exportName},
		places.disk(): {recordName, snapshotMetaName},
		places.next(): nil,
	} {
		entries, err := os.ReadDir(where)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		haveDisk = haveDisk || where == places.disk() && len(entries) > 0
		f.Next = f.Next || where == places.next()
		for _, entry := range entries {
			if isTemporary(entry.Name(), names...) {
				found = append(found, filepath.Join(where, entry.Name()))
			}
		}
	}
	if f.Next && haveDisk {
		f.Next, found = false, append(found, places.next())
	}
	more, err := findSnapshotLeftovers(places)
	if err != nil {
		return err
	}
	found = append(found, more...)
	slices.Sort(found)
	f.Leftovers = found
	return nil
}
