package disk

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"strings"
)

// Layout and limits of qcow2. Those of the format are in QEMU's docs/interop/qcow2.txt; those of QEMU itself, which refuses
// to open what goes beyond them, in block/qcow2.h.
const (
	qcow2Magic = "QFI\xfb"

	qcow2HeaderV2  = 72  // bytes; the header of version 2 ends here
	qcow2HeaderV3  = 104 // bytes; the least that version 3 has
	maxBackingName = 1023

	minClusterBits    = 9  // 512 bytes
	maxClusterBits    = 21 // 2 MiB, QEMU's limit
	minClusterBitsEL2 = 14 // with extended L2 entries
	maxL1Bytes        = 32 << 20
	maxRefcountBytes  = 8 << 20
	maxSnapshots      = 65536
	maxRefcountOrder  = 6
)

// Incompatible feature bits.
const (
	incompatDirty       = 1 << 0
	incompatCorrupt     = 1 << 1
	incompatDataFile    = 1 << 2
	incompatCompression = 1 << 3
	incompatExtendedL2  = 1 << 4
	incompatKnown       = incompatDirty | incompatCorrupt | incompatDataFile | incompatCompression | incompatExtendedL2
)

// autoclearDataFileRaw says that the external data file is a raw image.
const autoclearDataFileRaw = 1 << 1

// Header extensions.
const (
	extensionEnd           = 0
	extensionBackingFormat = 0xe2792aca
	extensionFeatureNames  = 0x6803f857
	extensionDataFile      = 0x44415441
)

// Values of compression_type.
const (
	compressionZlib = 0
	compressionZstd = 1
)

// errQCOW2 is wrapped by every error about the content of a qcow2 file, as opposed to one of reading it.
var errQCOW2 = errors.New("bad qcow2 image")

func malformed(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errQCOW2}, args...)...)
}

// qcow2Header is the header of a qcow2 file, checked: every table it points to lies inside the file and within the limits.
type qcow2Header struct {
	version          uint32
	clusterBits      uint32
	size             int64 // virtual size, bytes
	crypt            uint32
	l1Entries        uint32
	l1Offset         int64
	refcountOffset   int64
	refcountClusters uint32
	snapshots        uint32
	snapshotsOffset  int64
	incompatible     uint64
	compatible       uint64
	autoclear        uint64
	refcountOrder    uint32
	headerLength     uint32
	compression      uint8

	hasBacking    bool
	backing       string // as stored; may be relative, or a reference in JSON or to a network
	backingOffset int64
	backingFormat string // from its extension; empty without
	hasDataFile   bool   // the extension is there, whatever the bit says
	dataFile      string
	featureNames  map[feature]string
}

// feature is a bit in one of the three feature words: 0 incompatible, 1 compatible, 2 autoclear.
type feature struct{ word, bit uint8 }

func (h *qcow2Header) clusterSize() int64 { return 1 << h.clusterBits }

func (h *qcow2Header) l2EntrySize() int64 {
	if h.incompatible&incompatExtendedL2 != 0 {
		return 16
	}
	return 8
}

// l2Entries is the number of clusters that one L2 table maps.
func (h *qcow2Header) l2Entries() int64 { return h.clusterSize() / h.l2EntrySize() }

// parseQCOW2 reads and checks the header of the qcow2 file r of fileSize bytes. An error that wraps errQCOW2 is about the
// content. What is well-formed and still unfit for use (encryption, a backing file, …) is the caller's to judge.
func parseQCOW2(r io.ReaderAt, fileSize int64) (*qcow2Header, error) {
	fixed, err := readUpTo(r, 0, min(fileSize, qcow2HeaderV3+8))
	if err != nil {
		return nil, err
	}
	h, err := parseFixedHeader(fixed)
	if err != nil {
		return nil, err
	}
	if err := h.checkLimits(fileSize); err != nil {
		return nil, err
	}
	first, err := readUpTo(r, 0, min(fileSize, h.clusterSize()))
	if err != nil {
		return nil, err
	}
	if err := h.parseBacking(first); err != nil {
		return nil, err
	}
	if err := h.parseExtensions(first); err != nil {
		return nil, err
	}
	return h, nil
}

// parseFixedHeader reads the fields at fixed places. b may hold more than the header.
func parseFixedHeader(b []byte) (*qcow2Header, error) {
	be := binary.BigEndian
	if len(b) < qcow2HeaderV2 || string(b[:4]) != qcow2Magic {
		return nil, malformed("the header is cut short or is none")
	}
	backingOffset, size := be.Uint64(b[8:]), be.Uint64(b[24:])
	l1Offset, refcountOffset, snapshotsOffset := be.Uint64(b[40:]), be.Uint64(b[48:]), be.Uint64(b[64:])
	for _, v := range []uint64{backingOffset, size, l1Offset, refcountOffset, snapshotsOffset} {
		if v > math.MaxInt64 {
			return nil, malformed("a size or offset of %#x", v)
		}
	}
	h := &qcow2Header{
		version: be.Uint32(b[4:]), clusterBits: be.Uint32(b[20:]), size: int64(size), crypt: be.Uint32(b[32:]),
		l1Entries: be.Uint32(b[36:]), l1Offset: int64(l1Offset),
		refcountOffset: int64(refcountOffset), refcountClusters: be.Uint32(b[56:]),
		snapshots: be.Uint32(b[60:]), snapshotsOffset: int64(snapshotsOffset),
		hasBacking: backingOffset != 0, backingOffset: int64(backingOffset),
		refcountOrder: 4, headerLength: qcow2HeaderV2,
	}
	switch h.version {
	case 2:
		return h, nil
	case 3:
	default:
		return nil, malformed("version %d, and only 2 and 3 are known", h.version)
	}
	if len(b) < qcow2HeaderV3 {
		return nil, malformed("the header is cut short")
	}
	h.incompatible, h.compatible, h.autoclear = be.Uint64(b[72:]), be.Uint64(b[80:]), be.Uint64(b[88:])
	h.refcountOrder, h.headerLength = be.Uint32(b[96:]), be.Uint32(b[100:])
	if h.headerLength > qcow2HeaderV3 && len(b) > qcow2HeaderV3 {
		h.compression = b[qcow2HeaderV3]
	}
	return h, nil
}

// checkLimits checks all that can be checked without reading more, in the order in which one number depends on another.
func (h *qcow2Header) checkLimits(fileSize int64) error {
	if h.clusterBits < minClusterBits || h.clusterBits > maxClusterBits {
		return malformed("cluster_bits is %d, legal are %d to %d", h.clusterBits, minClusterBits, maxClusterBits)
	}
	cluster := h.clusterSize()
	extended := h.incompatible&incompatExtendedL2 != 0
	switch {
	case extended && h.clusterBits < minClusterBitsEL2:
		return malformed("extended L2 entries with clusters of %d bytes", cluster)
	case h.version == 3 && (h.headerLength < qcow2HeaderV3 || h.headerLength%8 != 0 || int64(h.headerLength) > cluster):
		return malformed("a header length of %d bytes", h.headerLength)
	case h.refcountOrder > maxRefcountOrder:
		return malformed("refcount_order is %d, at most %d is legal", h.refcountOrder, maxRefcountOrder)
	case h.compression > compressionZstd:
		return malformed("compression type %d is not known", h.compression)
	case (h.compression != 0) != (h.incompatible&incompatCompression != 0):
		return malformed("compression type %d disagrees with its feature bit", h.compression)
	case h.snapshots > maxSnapshots:
		return malformed("%d snapshots, at most %d are legal", h.snapshots, maxSnapshots)
	}
	if err := h.checkL1(fileSize); err != nil {
		return err
	}
	refcountBytes := int64(h.refcountClusters) * cluster
	if h.refcountClusters == 0 || refcountBytes > maxRefcountBytes {
		return malformed("a reference count table of %d bytes, legal are 1 cluster to %d", refcountBytes, maxRefcountBytes)
	}
	if err := h.checkTable("reference count table", h.refcountOffset, refcountBytes, fileSize); err != nil {
		return err
	}
	if h.snapshots > 0 {
		// An entry has at least 40 bytes.
		return h.checkTable("snapshot table", h.snapshotsOffset, int64(h.snapshots)*40, fileSize)
	}
	return nil
}

// checkL1 checks the size and place of the L1 table, and that it can map the whole virtual disk.
func (h *qcow2Header) checkL1(fileSize int64) error {
	l1Bytes := int64(h.l1Entries) * 8
	if l1Bytes > maxL1Bytes {
		return malformed("an L1 table of %d bytes, at most %d are legal", l1Bytes, maxL1Bytes)
	}
	mapped := h.clusterSize() * h.l2Entries() // at most 2^39
	needed := h.size / mapped
	if h.size%mapped != 0 {
		needed++
	}
	if needed > int64(h.l1Entries) {
		return malformed("a disk of %d bytes needs %d L1 entries and has %d", h.size, needed, h.l1Entries)
	}
	if h.l1Entries == 0 {
		return nil
	}
	return h.checkTable("L1 table", h.l1Offset, l1Bytes, fileSize)
}

// checkTable checks that a table is on a cluster boundary, not in the header's cluster, and inside the file.
func (h *qcow2Header) checkTable(name string, offset, length, fileSize int64) error {
	switch {
	case offset%h.clusterSize() != 0 || offset == 0:
		return malformed("the %s is at %#x, which is not the start of a cluster of its own", name, offset)
	case offset > fileSize || length > fileSize-offset:
		return malformed("the %s ends at %d and the file at %d: it is cut short", name, offset+length, fileSize)
	}
	return nil
}

// parseBacking reads the backing file's name from the first cluster.
func (h *qcow2Header) parseBacking(first []byte) error {
	if !h.hasBacking {
		return nil
	}
	length := int64(binary.BigEndian.Uint32(first[16:]))
	if length > maxBackingName || h.backingOffset < int64(h.headerLength) || h.backingOffset > int64(len(first))-length {
		return malformed("a backing file name of %d bytes at %#x", length, h.backingOffset)
	}
	h.backing = string(first[h.backingOffset : h.backingOffset+length])
	return nil
}

// parseExtensions walks the header extensions: from the end of the header to the backing file's name or the end of the
// first cluster.
func (h *qcow2Header) parseExtensions(first []byte) error {
	end := int64(len(first))
	if h.hasBacking {
		end = h.backingOffset
	}
	seen := map[uint32]bool{}
	for at := int64(h.headerLength); at+8 <= end; {
		kind, length := binary.BigEndian.Uint32(first[at:]), int64(binary.BigEndian.Uint32(first[at+4:]))
		at += 8
		if kind == extensionEnd {
			return nil
		}
		if length > end-at {
			return malformed("header extension %#x of %d bytes does not fit", kind, length)
		}
		known := kind == extensionBackingFormat || kind == extensionDataFile || kind == extensionFeatureNames
		if known && seen[kind] {
			return malformed("header extension %#x is there twice", kind)
		}
		if known {
			seen[kind] = true
		}
		h.takeExtension(kind, first[at:at+length])
		at += (length + 7) &^ 7
	}
	return nil
}

func (h *qcow2Header) takeExtension(kind uint32, data []byte) {
	switch kind {
	case extensionBackingFormat:
		h.backingFormat = string(data)
	case extensionDataFile:
		h.hasDataFile, h.dataFile = true, string(data)
	case extensionFeatureNames:
		h.featureNames = parseFeatureNames(data)
	}
}

// parseFeatureNames reads the table by which an image names its features to programs that do not know them.
func parseFeatureNames(data []byte) map[feature]string {
	const entry = 48
	names := make(map[feature]string)
	for ; len(data) >= entry && len(names) < 3*64; data = data[entry:] {
		name, _, _ := strings.Cut(string(data[2:entry]), "\x00")
		names[feature{data[0], data[1]}] = name
	}
	return names
}

// unknownFeatures names the incompatible features that this package does not know.
func (h *qcow2Header) unknownFeatures() []string {
	var names []string
	for bit := range uint8(64) {
		if h.incompatible&^incompatKnown&(1<<bit) == 0 {
			continue
		}
		name := fmt.Sprintf("bit %d", bit)
		if own := h.featureNames[feature{0, bit}]; own != "" {
			name += fmt.Sprintf(" (%q)", own)
		}
		names = append(names, name)
	}
	return names
}
