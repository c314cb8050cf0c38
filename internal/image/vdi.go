package image

import (
	"bytes"
	"encoding/binary"
	"io"
)

// Kinds of VirtualBox's disks (VDICore.h). Those that are written by snapshots have a parent.
const (
	vdiDynamic = 1
	vdiFixed   = 2
)

// inspectVDI reads the header of version 1.1, the only one that QEMU reads (block/vdi.c).
func inspectVDI(r io.ReaderAt, fileSize int64) (foreignDisk, error) {
	const length = 0x1c8
	b, err := readExactly(r, 0, length, fileSize, "header")
	if err != nil {
		return foreignDisk{}, err
	}
	le := binary.LittleEndian
	version, kind := le.Uint32(b[0x44:]), le.Uint32(b[0x4c:])
	size, block := le.Uint64(b[0x170:]), le.Uint32(b[0x178:])
	link, parent := b[0x1a8:0x1b8], b[0x1b8:0x1c8]
	switch {
	case version != 0x00010001:
		return foreignDisk{}, malformed("version %#x of the header, and only 1.1 is known", version)
	case kind != vdiDynamic && kind != vdiFixed:
		return foreignDisk{}, refers("it is a disk of kind %d, which has a parent disk", kind)
	case !isZero(link) || !isZero(parent):
		return foreignDisk{}, refers("it has a parent disk")
	case block == 0 || size > maxVirtualSize:
		return foreignDisk{}, malformed("a disk of %d bytes in blocks of %d", size, block)
	}
	return foreignDisk{driver: "vdi", size: int64(size)}, nil
}

func isZero(b []byte) bool { return len(bytes.Trim(b, "\x00")) == 0 }
