package disk

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
)

// newQCOW2 is a qcow2 image to which nothing has been written yet. Nobody is asked to make it: a qemu-img takes longer to start than all
// the rest of a VM's start.
//
// Of the format's options lazy_refcounts stays off, since it buys little speed with a repair after every kill, and extended_l2 is not used, since
// QEMU before 5.2 and many backup programs cannot read it.
type newQCOW2 struct {
	size    int64  // of the disk in it, bytes
	backing string // what is read where nothing was written; empty: zeros
	format  Format // of backing
}

// The image's clusters, as qemu-img makes them: 64 KiB, with reference counts of 16 bits. The L1 table is the last of it.
const (
	newClusterBits   = 16
	newCluster       = 1 << newClusterBits
	newRefcountOrder = 4
	refcountTable    = 1 * newCluster
	refcountBlock    = 2 * newCluster
	newL1            = 3 * newCluster
)

// write fills an empty file. What is not written is a hole, which reads as the zeros that belong there.
func (q newQCOW2) write(f *os.File) error {
	size := roundUp(q.size)
	const perEntry = newCluster * newCluster / 8 // of the disk: what the clusters of one L2 table hold
	entries := (size + perEntry - 1) / perEntry
	end := newL1 + (entries*8+newCluster-1)&^(newCluster-1)
	if size > maxDiskSize || len(q.backing) > maxBackingName {
		return fmt.Errorf("a disk of %d bytes over %q cannot be described", size, q.backing)
	}
	counts := make([]byte, end/newCluster*2) // for the largest disk they are a fraction of the one block
	for i := 1; i < len(counts); i += 2 {
		counts[i] = 1
	}
	for _, part := range []struct {
		at    int64
		bytes []byte
	}{
		{0, q.header(size, uint32(entries))},
		{refcountTable, binary.BigEndian.AppendUint64(nil, refcountBlock)},
		{refcountBlock, counts},
	} {
		if _, err := f.WriteAt(part.bytes, part.at); err != nil {
			return err
		}
	}
	return f.Truncate(end)
}

// header is the first cluster, up to where it is zeros.
func (q newQCOW2) header(size int64, l1Entries uint32) []byte {
	var extensions []byte
	backingOffset := uint64(0)
	if q.backing != "" {
		extensions = binary.BigEndian.AppendUint32(extensions, extensionBackingFormat)
		extensions = binary.BigEndian.AppendUint32(extensions, uint32(len(q.format)))
		extensions = append(extensions, q.format...)
		extensions = append(extensions, make([]byte, -len(q.format)&7)...)
		extensions = append(extensions, make([]byte, 8)...) // the end
		backingOffset = qcow2HeaderV3 + uint64(len(extensions))
	}
	var b bytes.Buffer
	b.WriteString(qcow2Magic)
	for _, field := range []any{
		uint32(3), backingOffset, uint32(len(q.backing)), uint32(newClusterBits), uint64(size), uint32(0), // not encrypted
		l1Entries, uint64(newL1), uint64(refcountTable), uint32(1), uint32(0), uint64(0), // no snapshots
		uint64(0), uint64(0), uint64(0), uint32(newRefcountOrder), uint32(qcow2HeaderV3), // no features
	} {
		binary.Write(&b, binary.BigEndian, field) // to memory: it cannot fail
	}
	b.Write(extensions)
	b.WriteString(q.backing)
	return b.Bytes()
}
