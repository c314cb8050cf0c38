package disk

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"

	"github.com/klauspost/compress/zstd"
)

// Bits of L1 and L2 entries (docs/interop/qcow2.txt, "Cluster mapping").
const (
	offsetMask      = 0x00fffffffffffe00 // bits 9 to 55
	entryCompressed = 1 << 62
	entryZero       = 1 << 0
)

// subclusters is how many parts a cluster has with extended L2 entries.
const subclusters = 32

// qcow2Reader reads what the guest would see of a qcow2 image that stands alone. It is meant for the first sectors: it looks
// up every cluster anew and keeps nothing but one unpacked cluster.
type qcow2Reader struct {
	file     io.ReaderAt
	fileSize int64
	header   *qcow2Header

	unpacked      []byte // the last compressed cluster
	unpackedEntry uint64
}

// ReadAt implements io.ReaderAt over the guest's disk. Clusters that are not there read as zeros.
func (q *qcow2Reader) ReadAt(p []byte, off int64) (int, error) {
	if off < 0 {
		return 0, errors.New("negative offset")
	}
	var n int
	for n < len(p) {
		if off >= q.header.size {
			return n, io.EOF
		}
		chunk := q.chunk(off)
		part := p[n:min(int64(len(p)), int64(n)+chunk)]
		if err := q.readChunk(part, off); err != nil {
			return n, err
		}
		n += len(part)
		off += int64(len(part))
	}
	return n, nil
}

// chunk is how many bytes from off on lie in one piece: to the end of the (sub)cluster or of the disk.
func (q *qcow2Reader) chunk(off int64) int64 {
	unit := q.header.clusterSize()
	if q.header.l2EntrySize() == 16 {
		unit /= subclusters
	}
	return min(unit-off%unit, q.header.size-off)
}

// readChunk reads p, which lies within one piece.
func (q *qcow2Reader) readChunk(p []byte, off int64) error {
	entry, bitmap, err := q.lookup(off)
	if err != nil {
		return err
	}
	within := off % q.header.clusterSize()
	if entry&entryCompressed != 0 {
		return q.readCompressed(p, entry, within)
	}
	host := int64(entry & offsetMask)
	if host == 0 || q.isZero(entry, bitmap, within) {
		clear(p)
		return nil
	}
	return q.readFile(p, host+within)
}

// isZero says that a cluster, or with extended entries its subcluster, has no data of its own.
func (q *qcow2Reader) isZero(entry, bitmap uint64, within int64) bool {
	if q.header.l2EntrySize() == 16 {
		sub := within / (q.header.clusterSize() / subclusters)
		return bitmap&(1<<sub) == 0
	}
	return q.header.version >= 3 && entry&entryZero != 0
}

// lookup finds the L2 entry of the guest's offset; zeros where there is none.
func (q *qcow2Reader) lookup(off int64) (entry, bitmap uint64, err error) {
	cluster := off / q.header.clusterSize()
	l1Index, l2Index := cluster/q.header.l2Entries(), cluster%q.header.l2Entries()
	b := make([]byte, 8, 16)
	if err := q.readFile(b, q.header.l1Offset+l1Index*8); err != nil {
		return 0, 0, err
	}
	l2Offset := int64(binary.BigEndian.Uint64(b) & offsetMask)
	if l2Offset == 0 {
		return 0, 0, nil
	}
	b = b[:q.header.l2EntrySize()]
	if err := q.readFile(b, l2Offset+l2Index*q.header.l2EntrySize()); err != nil {
		return 0, 0, err
	}
	if len(b) == 16 {
		bitmap = binary.BigEndian.Uint64(b[8:])
	}
	return binary.BigEndian.Uint64(b), bitmap, nil
}

// compressedExtent gives the place of a compressed cluster in the file and the most bytes that it can have there.
func (h *qcow2Header) compressedExtent(entry uint64) (offset, length int64) {
	bits := 62 - (h.clusterBits - 8)
	offset = int64(entry & (1<<bits - 1))
	sectors := int64(entry>>bits)&(1<<(62-bits)-1) + 1
	return offset, sectors*512 - offset%512
}

func (q *qcow2Reader) readCompressed(p []byte, entry uint64, within int64) error {
	if q.unpacked == nil || q.unpackedEntry != entry {
		unpacked, err := q.unpack(entry)
		if err != nil {
			return err
		}
		q.unpacked, q.unpackedEntry = unpacked, entry
	}
	copy(p, q.unpacked[within:])
	return nil
}

// unpack reads a whole compressed cluster. It never holds more than the cluster's size of output, whatever the input says.
func (q *qcow2Reader) unpack(entry uint64) ([]byte, error) {
	offset, length := q.header.compressedExtent(entry)
	if offset >= q.fileSize {
		return nil, io.ErrUnexpectedEOF
	}
	packed, err := readUpTo(q.file, offset, min(length, q.fileSize-offset))
	if err != nil {
		return nil, err
	}
	unpacked := make([]byte, q.header.clusterSize())
	if q.header.compression == compressionZstd {
		d, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(8<<20))
		if err != nil {
			return nil, err
		}
		defer d.Close()
		_, err = io.ReadFull(d, unpacked)
		return unpacked, err
	}
	_, err = io.ReadFull(flate.NewReader(bytes.NewReader(packed)), unpacked)
	return unpacked, err
}

// readFile reads from the image file. What lies behind its end is an error: the tables point nowhere.
func (q *qcow2Reader) readFile(p []byte, off int64) error {
	if off < 0 || off >= q.fileSize {
		return io.ErrUnexpectedEOF
	}
	n, err := q.file.ReadAt(p, off)
	if err == io.EOF && n > 0 {
		clear(p[n:]) // the last cluster may be shorter in the file
		err = nil
	}
	return err
}
