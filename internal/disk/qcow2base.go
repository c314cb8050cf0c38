package disk

import (
	"encoding/binary"
	"errors"
	"io"
	"strings"
)

// flatten is the way out for an image that does not stand alone or that this release cannot read.
const flatten = "make an image that stands alone, where all its parts are: qemu-img convert -O qcow2 IN OUT"

// refuseBase says why a qcow2 image must not be a base image, or nil. Every reference to another file is refused: QEMU would
// open it with vmentry's rights, and the author of an image could so read any file of the container.
func (h *qcow2Header) refuseBase(path string) *Error {
	return h.refuse("use " + path + " as base image")
}

// refuse says why a qcow2 image must not be used, for what op says, or nil.
func (h *qcow2Header) refuse(op string) *Error {
	switch {
	case h.hasBacking:
		return refusal(op, flatten, "it has a backing file, %q", h.backing)
	case h.incompatible&incompatDataFile != 0 || h.hasDataFile || h.autoclear&autoclearDataFileRaw != 0:
		return refusal(op, flatten, "its data are in an external data file, %q", h.dataFile)
	case h.crypt != 0:
		return refusal(op, "decrypt it: qemu-img convert with --object secret,… and -O qcow2", "it is encrypted (method %d)", h.crypt)
	case h.incompatible&incompatCorrupt != 0:
		return refusal(op, "take another copy of it, or look at it with qemu-img check", "it is marked as corrupt")
	case h.incompatible&^incompatKnown != 0:
		return refusal(op, "convert it with the QEMU that made it: qemu-img convert -O qcow2 IN OUT",
			"it uses features that are not known here: %s", strings.Join(h.unknownFeatures(), ", "))
	case h.size == 0:
		return refusal(op, "", "its disk has no bytes")
	}
	return nil
}

// errCutShort says that an image points to data behind its end: most often the rest of an interrupted download.
var errCutShort = errors.New("it points to data behind its own end: it is cut short or damaged")

// maxTableBytes bounds how much of the L2 tables checkExtent reads: enough for 1 TiB of data in clusters of 64 KiB.
const maxTableBytes = 128 << 20

// checkExtent walks the tables of a qcow2 file and checks that all they point to begins inside the file. It is how a truncated
// file is found before the guest meets the hole. errCutShort, or an error of reading.
func (h *qcow2Header) checkExtent(r io.ReaderAt, fileSize int64) error {
	l1, err := readUpTo(r, h.l1Offset, int64(h.l1Entries)*8)
	if err != nil {
		return err
	}
	cluster, budget := h.clusterSize(), int64(maxTableBytes)
	for ; len(l1) >= 8; l1 = l1[8:] {
		l2Offset := int64(binary.BigEndian.Uint64(l1) & offsetMask)
		if l2Offset == 0 {
			continue
		}
		if l2Offset%cluster != 0 || l2Offset > fileSize-cluster {
			return errCutShort
		}
		if budget -= cluster; budget < 0 {
			continue
		}
		l2, err := readUpTo(r, l2Offset, cluster)
		if err != nil {
			return err
		}
		if !h.l2Inside(l2, fileSize) {
			return errCutShort
		}
	}
	return nil
}

// l2Inside says that every cluster of an L2 table begins inside the file.
func (h *qcow2Header) l2Inside(l2 []byte, fileSize int64) bool {
	size := h.l2EntrySize()
	for ; int64(len(l2)) >= size; l2 = l2[size:] {
		entry := binary.BigEndian.Uint64(l2)
		offset := int64(entry & offsetMask)
		if entry&entryCompressed != 0 {
			offset, _ = h.compressedExtent(entry)
		}
		if offset >= fileSize {
			return false
		}
	}
	return true
}
