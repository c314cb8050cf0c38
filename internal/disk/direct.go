package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Target is what Inspect finds out besides about an image that the guest is to write itself.
type Target struct {
	// Unwritable says why it cannot be written; empty if it can.
	Unwritable string `json:"unwritable,omitempty"`
	// OwnLayer says that it lies in the container's own writable layer.
	OwnLayer bool `json:"ownLayer,omitempty"`
	// Remembered is how it was read when it was first used; empty if this is the first time.
	Remembered Format `json:"remembered,omitempty"`
	// Resembles is what it would be taken for by its content.
	Resembles Format `json:"resembles,omitempty"`
}

// directRecord is direct.json. A guest can write anything to a raw disk, also the header of another format, so how an image is
// read is decided once.
type directRecord struct {
	Version int    `json:"version"`
	Path    string `json:"path"`
	Inode   uint64 `json:"inode"`
	Format  Format `json:"format"`
}

// inspectTarget looks at the image at path, as one to be written. It does not open it for that: in a container's own layer it
// would be copied.
func inspectTarget(places paths, path string) (Target, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Target{}, err
	}
	var t Target
	device := info.Mode()&fs.ModeDevice != 0
	err = unix.Access(path, unix.W_OK)
	switch {
	case err != nil:
		t.Unwritable = err.Error()
	case info.Mode().Perm()&0o222 == 0:
		t.Unwritable = "nobody may write it (mode " + info.Mode().Perm().String() + ")"
	}
	if !device {
		place, err := inspectPlace(path)
		if err != nil {
			return Target{}, err
		}
		t.OwnLayer = place.OwnLayer
	}
	r, err := readDirect(places)
	if errors.Is(err, fs.ErrNotExist) {
		return t, nil
	}
	if err != nil {
		return Target{}, err
	}
	if _, inode, _ := fileStamp(info); r.Path == path && (device || r.Inode == inode) {
		t.Remembered = r.Format
	}
	return t, nil
}

// KnownRaw says whether the image that is named by its path, by its directory, or by none as the one in dirs, was written by a guest
// and is a raw disk, whatever it looks like by now.
func KnownRaw(dataDir, path string, dirs []string) bool {
	r, err := readDirect(paths{dataDir})
	if err != nil || r.Format != FormatRaw {
		return false
	}
	info, err := os.Stat(r.Path)
	if err != nil {
		return false
	}
	if _, inode, _ := fileStamp(info); inode != r.Inode && info.Mode().IsRegular() {
		return false
	}
	if path != "" {
		dirs = []string{path}
	}
	return path == r.Path || slices.Contains(dirs, filepath.Dir(r.Path))
}

// readDirect reads direct.json. fs.ErrNotExist where there is none.
func readDirect(places paths) (directRecord, error) {
	b, err := os.ReadFile(places.direct())
	if err != nil {
		return directRecord{}, err
	}
	var r directRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return directRecord{}, fmt.Errorf("%s is damaged: %w", places.direct(), err)
	}
	if r.Version != recordVersion {
		return directRecord{}, fmt.Errorf("%s has version %d and this vmentry knows %d", places.direct(), r.Version, recordVersion)
	}
	return r, nil
}

// resembles fills in what the image looks like by its content.
func (t *Target) resembles(path string, recognise Recogniser) error {
	if t.Remembered == "" {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	looks, err := recognise(f, info.Size())
	if looks == FormatRaw || looks == FormatQCOW2 { // what else a guest has put there is no reason for doubt
		t.Resembles = looks
	}
	return err
}

// remember writes direct.json.
func (a applier) remember(p Plan) error {
	r := directRecord{Version: recordVersion, Path: p.Path, Inode: p.Base.Identity.Inode, Format: p.Format}
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := WriteFile(paths{p.Input.DataDir}.direct(), append(b, '\n')); err != nil {
		return err
	}
	a.step("format remembered")
	return nil
}
