package disk

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
)

// Facts is what was found: all that MakePlan needs to know of the world.
type Facts struct {
	// Base is the base image; nil without a disk.
	Base *Image `json:"base,omitempty"`
	// DataDir is the absolute path of the data directory.
	DataDir string `json:"dataDir"`
	// Place is the file system that the data directory is on, or will be.
	Place Place `json:"place"`
	// Overlay is the overlay of an earlier start; nil where there is none.
	Overlay *Overlay `json:"overlay,omitempty"`
	// Restore is the snapshot that has to be put in the overlay's place, nil for none. Overlay is then the snapshot's.
	Restore *Restore `json:"restore,omitempty"`
	// Leftovers are the paths of what a start that was cut off left half made.
	Leftovers []string `json:"leftovers,omitempty"`
	// NVRAM is the size of the UEFI variable store in bytes, -1 where there is none.
	NVRAM int64 `json:"nvram"`
	// NVRAMTemplate is the size of the template in bytes, -1 where there is none.
	NVRAMTemplate int64 `json:"nvramTemplate"`
	// QEMUImg is the path of qemu-img, empty where there is none.
	QEMUImg string `json:"qemuImg,omitempty"`
}

// Overlay is the guest's disk of an earlier start, as its own header and base.json tell.
type Overlay struct {
	Path          string `json:"path"`
	VirtualSize   int64  `json:"virtualSize"` // bytes
	Backing       string `json:"backing"`
	BackingFormat string `json:"backingFormat"`
	// Flaw says why the overlay must not be used, whatever its base; empty where it may.
	Flaw string `json:"flaw,omitempty"`
	// Dirty says that it was not closed and its reference counts have to be repaired. QEMU does that by itself.
	Dirty bool `json:"dirty,omitempty"`
	// Record is base.json.
	Record Record `json:"record"`
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
	if facts.Leftovers, err = findLeftovers(dir); err != nil {
		return Facts{}, ioError("look at the data directory "+dir, err)
	}
	if facts.NVRAM, err = fileSize(paths{dir}.nvram()); err != nil {
		return Facts{}, ioError("look at the variable store "+paths{dir}.nvram(), err)
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
	if facts.Base, err = inspectBase(in); err != nil {
		return Facts{}, err
	}
	// a snapshot that waits to be restored is what the guest's disk will be
	restore, where, err := paths{dir}.toRestore()
	if err != nil {
		return Facts{}, err
	}
	facts.Restore = restore
	facts.Overlay, err = inspectOverlayIn(where)
	return facts, err
}

func inspectBase(in Input) (*Image, error) {
	path := in.Image
	if path == "" {
		found, err := findImage(in.ImageDirs)
		if err != nil {
			return nil, err
		}
		path = found
	}
	image, err := inspectImage(path, in.Format)
	if err == nil && in.Blank {
		image.Warnings = nil
	}
	return image, err
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

// findLeftovers lists what was made under a temporary name and never renamed.
func findLeftovers(dir string) ([]string, error) {
	var found []string
	for where, names := range map[string][]string{
		dir:               {diskName, nvramName, IdentityName, restoreName, exportName},
		paths{dir}.disk(): {recordName, snapshotMetaName},
	} {
		entries, err := os.ReadDir(where)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for _, entry := range entries {
			if isTemporary(entry.Name(), names...) {
				found = append(found, filepath.Join(where, entry.Name()))
			}
		}
	}
	more, err := findSnapshotLeftovers(paths{dir})
	found = append(found, more...)
	slices.Sort(found)
	return found, err
}

// inspectOverlayIn reads the own header of the overlay in dir, which is the disk's directory or a snapshot's. Nil where no overlay was
// made yet; a directory that is there and empty counts as that.
func inspectOverlayIn(dir string) (*Overlay, error) {
	const startAfresh = "to start afresh move that directory aside; what the guest wrote is then no longer used"
	op := "use the guest's disk in " + dir
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, ioError(op, err)
	}
	overlay := &Overlay{Path: filepath.Join(dir, overlayName)}
	overlay.Record, err = readRecord(filepath.Join(dir, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, refusal(op, startAfresh, "%s is missing, so it is not known which base image it was made from", recordName)
	}
	if err != nil {
		return nil, ioError(op, err)
	}
	f, err := os.Open(filepath.Join(dir, overlayName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, refusal(op, startAfresh, "%s is missing", overlayName)
	}
	if err != nil {
		return nil, ioError(op, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, ioError(op, err)
	}
	header, err := parseQCOW2(f, info.Size())
	if err != nil {
		e := ioError(op, err)
		e.Advice = "restore it from a backup, or " + startAfresh
		return nil, e
	}
	overlay.take(header)
	return overlay, nil
}

// take carries over what the header says. Of all the references that a qcow2 file can have, one to the base image is legal.
func (o *Overlay) take(h *qcow2Header) {
	o.VirtualSize, o.Backing, o.BackingFormat = h.size, h.backing, h.backingFormat
	o.Dirty = h.incompatible&incompatDirty != 0
	switch {
	case h.incompatible&incompatCorrupt != 0:
		o.Flaw = "it is marked as corrupt"
	case h.incompatible&incompatDataFile != 0 || h.hasDataFile || h.autoclear&autoclearDataFileRaw != 0:
		o.Flaw = "it has an external data file, which vmentry never makes"
	case h.crypt != 0:
		o.Flaw = "it is encrypted, which vmentry never does"
	case h.incompatible&^incompatKnown != 0:
		o.Flaw = "it uses features that are not known here: " + strings.Join(h.unknownFeatures(), ", ")
	case !h.hasBacking:
		o.Flaw = "it has no backing file"
	}
}
