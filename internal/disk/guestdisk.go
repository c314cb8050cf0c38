package disk

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// GuestDisk is the guest's disk of an earlier start, overlay or copy, as its own header and base.json tell.
type GuestDisk struct {
	Path          string `json:"path"`
	VirtualSize   int64  `json:"virtualSize"` // bytes
	Backing       string `json:"backing,omitempty"`
	BackingFormat string `json:"backingFormat,omitempty"`
	// Snapshots is how many snapshots it holds.
	Snapshots uint32 `json:"snapshots,omitempty"`
	// Flaw says why it must not be used, whatever its base; empty where it may.
	Flaw string `json:"flaw,omitempty"`
	// Dirty says that it was not closed and its reference counts have to be made anew.
	Dirty bool `json:"dirty,omitempty"`
	// Record is base.json.
	Record Record `json:"record"`
}

// inspectDiskIn reads the own header of the disk in dir, which is the disk's directory or a snapshot's. Nil where no disk was made yet; a
// directory that is there and empty counts as that.
func inspectDiskIn(dir string) (*GuestDisk, error) {
	const startAfresh = "to start afresh move that directory aside; what the guest wrote is then no longer used"
	op := "use the guest's disk in " + dir
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(entries) == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, ioError(op, err)
	}
	record, err := readRecord(filepath.Join(dir, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, refusal(op, startAfresh, "%s is missing, so it is not known which base image it was made from", recordName)
	}
	if err != nil {
		return nil, ioError(op, err)
	}
	name := record.file()
	f, err := os.Open(filepath.Join(dir, name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, refusal(op, startAfresh, "%s is missing", name)
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
	disk := &GuestDisk{Path: filepath.Join(dir, name), Record: record}
	disk.take(header)
	return disk, nil
}

// take carries over what the header says. Of all the references that a qcow2 file can have, that of an overlay to its base image
// is the only legal one.
func (d *GuestDisk) take(h *qcow2Header) {
	d.VirtualSize, d.Backing, d.BackingFormat, d.Snapshots = h.size, h.backing, h.backingFormat, h.snapshots
	d.Dirty = h.incompatible&incompatDirty != 0
	overlay := d.Record.mode() == ModeOverlay
	switch {
	case h.incompatible&incompatCorrupt != 0:
		d.Flaw = "it is marked as corrupt"
	case h.incompatible&incompatDataFile != 0 || h.hasDataFile || h.autoclear&autoclearDataFileRaw != 0:
		d.Flaw = "it has an external data file, which vmentry never makes"
	case h.crypt != 0:
		d.Flaw = "it is encrypted, which vmentry never does"
	case h.incompatible&^incompatKnown != 0:
		d.Flaw = "it uses features that are not known here: " + strings.Join(h.unknownFeatures(), ", ")
	case overlay && !h.hasBacking:
		d.Flaw = "it has no backing file"
	case !overlay && h.hasBacking:
		d.Flaw = "it has a backing file, and is a copy that needs none"
	}
}
