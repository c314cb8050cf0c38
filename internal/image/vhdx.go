package image

import (
	"encoding/binary"
	"io"
)

// Places and sizes of a VHDX file (Microsoft, [MS-VHDX] §2.2 to §2.6), in bytes. All is in little endian.
const (
	vhdxRegions     = 192 << 10 // the first of two equal tables of regions
	vhdxRegionBytes = 64 << 10
	vhdxMetaBytes   = 64 << 10
	vhdxMaxEntries  = 2047
	vhdxHasParent   = 1 << 1 // in the flags of the file parameters
)

// GUIDs as they stand in the file: the first three fields are little endian.
const (
	vhdxMetadataRegion = "\x06\xa2\x7c\x8b\x90\x47\x9a\x4b\xb8\xfe\x57\x5f\x05\x0f\x88\x6e" // 8B7CA206-4790-4B9A-B8FE-575F050F886E
	vhdxFileParameters = "\x37\x67\xa1\xca\x36\xfa\x43\x4d\xb3\xb6\x33\xf0\xaa\x44\xe7\x6b" // CAA16737-FA36-4D43-B3B6-33F0AA44E76B
	vhdxDiskSize       = "\x24\x42\xa5\x2f\x1b\xcd\x76\x48\xb2\x11\x5d\xbe\xd8\x3b\xf4\xb8" // 2FA54224-CD1B-4876-B211-5DBED83BF4B8
	vhdxParentLocator  = "\x2d\x5f\xd3\xa8\x0b\xb3\x4d\x45\xab\xf7\xd3\xd8\x48\x34\xab\x0c" // A8D35F2D-B30B-454D-ABF7-D3D84834AB0C
)

func inspectVHDX(r io.ReaderAt, fileSize int64) (foreignDisk, error) {
	table, err := readExactly(r, vhdxRegions, vhdxRegionBytes, fileSize, "table of regions")
	if err != nil {
		return foreignDisk{}, err
	}
	offset, err := vhdxMetadata(table)
	if err != nil {
		return foreignDisk{}, err
	}
	if offset > uint64(fileSize) {
		return foreignDisk{}, malformed("its metadata are behind its end: it is cut short")
	}
	meta, err := readExactly(r, int64(offset), vhdxMetaBytes, fileSize, "table of metadata")
	if err != nil {
		return foreignDisk{}, err
	}
	return inspectVHDXMetadata(meta, func(at, n int64) ([]byte, error) {
		return readExactly(r, int64(offset)+at, n, fileSize, "metadata")
	})
}

// vhdxMetadata finds the region of the metadata in the table of regions.
func vhdxMetadata(table []byte) (uint64, error) {
	le := binary.LittleEndian
	if string(table[:4]) != "regi" {
		return 0, malformed("it has no table of regions")
	}
	count := le.Uint32(table[8:])
	if count > vhdxMaxEntries {
		return 0, malformed("%d regions", count)
	}
	for ; count > 0; count-- {
		entry := table[16+32*(count-1):][:32]
		if string(entry[:16]) == vhdxMetadataRegion {
			return le.Uint64(entry[16:]), nil
		}
	}
	return 0, malformed("it has no metadata")
}

// inspectVHDXMetadata reads the items that the table of metadata names, with read.
func inspectVHDXMetadata(table []byte, read func(at, n int64) ([]byte, error)) (foreignDisk, error) {
	le := binary.LittleEndian
	if string(table[:8]) != "metadata" {
		return foreignDisk{}, malformed("it has no table of metadata")
	}
	count := int(le.Uint16(table[10:]))
	if count > vhdxMaxEntries {
		return foreignDisk{}, malformed("%d items of metadata", count)
	}
	disk := foreignDisk{driver: "vhdx"}
	parameters := false
	for i := range count {
		entry := table[32+32*i:][:32]
		at := int64(le.Uint32(entry[16:]))
		switch string(entry[:16]) {
		case vhdxParentLocator:
			return foreignDisk{}, refers("it has a parent disk")
		case vhdxFileParameters:
			b, err := read(at, 8)
			if err != nil {
				return foreignDisk{}, err
			}
			if le.Uint32(b[4:])&vhdxHasParent != 0 {
				return foreignDisk{}, refers("it has a parent disk")
			}
			parameters = true
		case vhdxDiskSize:
			b, err := read(at, 8)
			if err != nil {
				return foreignDisk{}, err
			}
			size := le.Uint64(b)
			if size > maxVirtualSize {
				return foreignDisk{}, malformed("a disk of %d bytes", size)
			}
			disk.size = int64(size)
		}
	}
	if !parameters || disk.size == 0 {
		return foreignDisk{}, malformed("its metadata are incomplete")
	}
	return disk, nil
}
