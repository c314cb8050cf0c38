package disk

import (
	"bytes"
	"encoding/binary"
	"io"
)

// Format is how the bytes of an image are to be read. It is found in the content, never in the name: a name can be wrong.
type Format string

// The formats that can be booted from.
const (
	FormatRaw   Format = "raw"
	FormatQCOW2 Format = "qcow2"
)

// signature is a fixed sequence of bytes that gives a format away.
type signature struct {
	name   string
	offset int
	bytes  string
}

// refusedSignatures are formats that are known and not booted from, with the place and value of their magic number: VMDK
// specification 1.1 (sparse header, descriptor), VirtualBox VDICore.h, Microsoft's VHD and VHDX specifications, RFC 1952
// (gzip), the xz file format §2.1.1.1, RFC 8878 §3.1.1 (zstd), the LZ4 frame format, ECMA-119 §8.1.2 (sector 16), POSIX
// ustar, and QEMU's own old formats.
var refusedSignatures = []signature{
	{"vmdk", 0, "KDMV"},
	{"vmdk", 0, "COWD"},
	{"vmdk", 0, "# Disk DescriptorFile"},
	{"vdi", 0x40, "\x7f\x10\xda\xbe"},
	{"vhd", 0, "conectix"},
	{"vhdx", 0, "vhdxfile"},
	{"qed", 0, "QED\x00"},
	{"parallels", 0, "WithoutFreeSpace"},
	{"parallels", 0, "WithouFreSpacExt"},
	{"gzip", 0, "\x1f\x8b"},
	{"xz", 0, "\xfd7zXZ\x00"},
	{"zstd", 0, "\x28\xb5\x2f\xfd"},
	{"lz4", 0, "\x04\x22\x4d\x18"},
	{"squashfs", 0, "hsqs"},
	{"tar", 257, "ustar"},
	{"ISO 9660", 16*2048 + 1, "CD001"},
	{"ISO 9660", 16*2048 + 1, "BEA01"},
}

// refusedTails are formats whose magic number stands in the last 512 bytes: a fixed VHD is a raw disk with a footer, and an
// Apple disk image ends with a "koly" block.
var refusedTails = []signature{
	{"vhd", 0, "conectix"},
	{"dmg", 0, "koly"},
}

// headBytes covers every signature in refusedSignatures and the start of the usual file systems.
const headBytes = 72 << 10

// recognised is what the first and last bytes of a file tell.
type recognised struct {
	format Format
	// refused is the name of a format that is known and not in this release; format is then empty.
	refused string
}

// recognise tells the format of the file r of size bytes. Whatever is nothing else is raw.
func recognise(r io.ReaderAt, size int64) (recognised, error) {
	head, err := readUpTo(r, 0, min(size, headBytes))
	if err != nil {
		return recognised{}, err
	}
	if bytes.HasPrefix(head, []byte(qcow2Magic)) && len(head) >= 8 {
		if version := binary.BigEndian.Uint32(head[4:]); version == 1 {
			return recognised{refused: "qcow (version 1)"}, nil
		}
		return recognised{format: FormatQCOW2}, nil
	}
	for _, s := range refusedSignatures {
		if hasBytes(head, s) {
			return recognised{refused: s.name}, nil
		}
	}
	if isBzip2(head) {
		return recognised{refused: "bzip2"}, nil
	}
	tail, err := readUpTo(r, max(0, size-512), min(size, 512))
	if err != nil {
		return recognised{}, err
	}
	for _, s := range refusedTails {
		if hasBytes(tail, s) {
			return recognised{refused: s.name}, nil
		}
	}
	return recognised{format: FormatRaw}, nil
}

func hasBytes(b []byte, s signature) bool {
	return len(b) >= s.offset+len(s.bytes) && string(b[s.offset:s.offset+len(s.bytes)]) == s.bytes
}

// isBzip2 looks for "BZh", the block size digit and the magic number of the first block (the digits of pi).
func isBzip2(b []byte) bool {
	return len(b) >= 10 && string(b[:3]) == "BZh" && b[3] >= '1' && b[3] <= '9' && string(b[4:10]) == "1AY&SY"
}

// fileSystemStarts are the magic numbers of file systems and volumes that are put on a disk without a partition table.
var fileSystemStarts = []signature{
	{"ext", 0x438, "\x53\xef"},
	{"xfs", 0, "XFSB"},
	{"btrfs", 0x10040, "_BHRfS_M"},
	{"LVM", 512, "LABELONE"},
	{"LUKS", 0, "LUKS\xba\xbe"},
}

// fileSystemStart names the file system that a disk without a partition table begins with, or is empty.
func fileSystemStart(head []byte) string {
	for _, s := range fileSystemStarts {
		if hasBytes(head, s) {
			return s.name
		}
	}
	return ""
}

// readUpTo reads n bytes at off; fewer only where the file ends.
func readUpTo(r io.ReaderAt, off, n int64) ([]byte, error) {
	b := make([]byte, n)
	got, err := r.ReadAt(b, off)
	if err != nil && err != io.EOF {
		return nil, err
	}
	return b[:got], nil
}
