package image

import (
	"encoding/binary"
	"io"
)

// A VHD (Microsoft, Virtual Hard Disk Image Format Specification 1.0) ends with a footer. One that grows has a copy of it at its
// beginning, with a second header behind it. All is in big endian.
const (
	vhdCookie  = "conectix"
	vhdFooter  = 512
	vhdFixed   = 2
	vhdDynamic = 3
	vhdDiffers = 4
)

func inspectVHD(r io.ReaderAt, fileSize int64) (foreignDisk, error) {
	head, err := readExactly(r, 0, vhdFooter, fileSize, "header")
	if err != nil {
		return foreignDisk{}, err
	}
	if string(head[:8]) == vhdCookie {
		return inspectDynamicVHD(r, head, fileSize)
	}
	// The specification's own early versions have a footer of 511 bytes; nobody makes them any more.
	footer, err := readExactly(r, fileSize-vhdFooter, vhdFooter, fileSize, "footer")
	if err != nil {
		return foreignDisk{}, err
	}
	kind, size, err := parseVHDFooter(footer)
	switch {
	case err != nil:
		return foreignDisk{}, err
	case kind != vhdFixed:
		return foreignDisk{}, malformed("a footer of kind %d, and no header: its beginning is missing", kind)
	case size > uint64(fileSize-vhdFooter):
		return foreignDisk{}, malformed("a disk of %d bytes in a file of %d: it is cut short", size, fileSize)
	}
	return foreignDisk{driver: "vpc", size: int64(size), flat: true}, nil
}

func inspectDynamicVHD(r io.ReaderAt, head []byte, fileSize int64) (foreignDisk, error) {
	kind, size, err := parseVHDFooter(head)
	switch {
	case err != nil:
		return foreignDisk{}, err
	case kind == vhdDiffers:
		return foreignDisk{}, refers("it has a parent disk")
	case kind == vhdFixed:
		return foreignDisk{}, malformed("the footer of a disk, and no disk: its beginning is missing")
	case kind != vhdDynamic:
		return foreignDisk{}, malformed("a header of kind %d", kind)
	case size > maxVirtualSize:
		return foreignDisk{}, malformed("a disk of %d bytes", size)
	}
	offset := binary.BigEndian.Uint64(head[16:])
	if offset > uint64(fileSize) {
		return foreignDisk{}, malformed("its second header is behind its end: it is cut short")
	}
	second, err := readExactly(r, int64(offset), 1024, fileSize, "second header")
	if err != nil {
		return foreignDisk{}, err
	}
	if string(second[:8]) != "cxsparse" {
		return foreignDisk{}, malformed("it has no second header")
	}
	if !isZero(second[40:56]) { // the parent's identity
		return foreignDisk{}, refers("it has a parent disk")
	}
	return foreignDisk{driver: "vpc", size: int64(size)}, nil
}

// parseVHDFooter reads a footer of 512 bytes. Its checksum is the complement of the sum of all its bytes but the checksum's own: 512
// bytes that carry one by chance are not met, so that no raw disk is cut for a word at its end.
func parseVHDFooter(b []byte) (kind uint32, size uint64, err error) {
	be := binary.BigEndian
	var sum uint32
	for i, c := range b {
		if i < 64 || i >= 68 {
			sum += uint32(c)
		}
	}
	if string(b[:8]) != vhdCookie || ^sum != be.Uint32(b[64:]) {
		return 0, 0, malformed("the checksum of its footer is wrong")
	}
	return be.Uint32(b[60:]), be.Uint64(b[48:]), nil
}
