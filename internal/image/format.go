package image

import (
	"bytes"
	"encoding/binary"
	"io"
)

// Format is how the bytes of a file are to be read. It is found in the content, never in the name: a name can be wrong.
type Format string

// The formats of disks, and those that files are packed in.
const (
	Raw   Format = "raw"
	QCOW2 Format = "qcow2"
	ISO   Format = "iso"

	VMDK Format = "vmdk"
	VDI  Format = "vdi"
	VHD  Format = "vhd"
	VHDX Format = "vhdx"

	Gzip  Format = "gzip"
	Bzip2 Format = "bzip2"
	XZ    Format = "xz"
	Zstd  Format = "zstd"
)

// usable says that a file of this format is an image as it is.
func (f Format) usable() bool { return f == Raw || f == QCOW2 || f == ISO }

// packed says that what counts is inside.
func (f Format) packed() bool { return f == Gzip || f == Bzip2 || f == XZ || f == Zstd }

// foreign says that it is a disk that has to be converted.
func (f Format) foreign() bool { return f == VMDK || f == VDI || f == VHD || f == VHDX }

// signature is a fixed sequence of bytes that gives a format away.
type signature struct {
	format Format // of the constants above, or the name of one that is known and refused
	offset int
	bytes  string
}

// signatures are the places and values of magic numbers: VMDK specification 1.1 (sparse header, descriptor), VirtualBox
// VDICore.h, Microsoft's VHD and VHDX specifications, RFC 1952 (gzip), the xz file format §2.1.1.1, RFC 8878 §3.1.1 (zstd) and
// §3.1.2 (its skippable frames, which pzstd begins with), the LZ4 frame format, POSIX ustar, and QEMU's own old formats.
var signatures = []signature{
	{VMDK, 0, "KDMV"},
	{VMDK, 0, "COWD"},
	{VMDK, 0, "# Disk DescriptorFile"},
	{VDI, 0x40, "\x7f\x10\xda\xbe"},
	{VHD, 0, "conectix"},
	{VHDX, 0, "vhdxfile"},
	{Gzip, 0, "\x1f\x8b"},
	{XZ, 0, "\xfd7zXZ\x00"},
	{Zstd, 0, "\x28\xb5\x2f\xfd"},
	{Zstd, 0, "\x50\x2a\x4d\x18"},
	{"lz4", 0, "\x04\x22\x4d\x18"},
	{"zip", 0, "PK\x03\x04"},
	{"7z", 0, "7z\xbc\xaf\x27\x1c"},
	{"qed", 0, "QED\x00"},
	{"parallels", 0, "WithoutFreeSpace"},
	{"parallels", 0, "WithouFreSpacExt"},
	{"squashfs", 0, "hsqs"},
	{"tar", 257, "ustar"},
}

// isCD looks into sector 16, for an ISO 9660 image (ECMA-119 §8.1.2) or one of UDF alone (ECMA-167 2/9.2). It is the last to be looked for,
// since what is before sector 16 is free for other uses; but before a raw disk, as a hybrid image is both.
func isCD(b []byte) bool {
	const place = 16*2048 + 1
	return signature{ISO, place, "CD001"}.in(b) || signature{ISO, place, "BEA01"}.in(b)
}

// tails are formats whose magic number stands in the last 512 bytes: a fixed VHD is a raw disk with a footer, and an Apple
// disk image ends with a "koly" block.
var tails = []signature{
	{VHD, 0, "conectix"},
	{"dmg", 0, "koly"},
}

const (
	// headBytes covers every signature at the beginning of a file.
	headBytes = 36 << 10
	// tailBytes covers those at its end.
	tailBytes = 512
)

// recognise tells the format of a file by its first headBytes, or all of them where it is shorter. What is nothing else is raw.
func recognise(head []byte) Format {
	if bytes.HasPrefix(head, []byte(qcow2Magic)) && len(head) >= 8 {
		if binary.BigEndian.Uint32(head[4:]) == 1 {
			return "qcow (version 1)"
		}
		return QCOW2
	}
	for _, s := range signatures {
		if s.in(head) {
			return s.format
		}
	}
	switch {
	case isBzip2(head):
		return Bzip2
	case isCD(head):
		return ISO
	}
	return Raw
}

// recogniseTail tells the format of a file that looks raw by its last tailBytes.
func recogniseTail(tail []byte) Format {
	for _, s := range tails {
		if s.in(tail) {
			return s.format
		}
	}
	return Raw
}

// Recognise tells the format of the file r of size bytes: one of the constants, or the name of one that is known and refused.
func Recognise(r io.ReaderAt, size int64) (Format, error) {
	head, err := readUpTo(r, 0, min(size, headBytes))
	if err != nil {
		return "", err
	}
	if format := recognise(head); format != Raw {
		return format, nil
	}
	tail, err := readUpTo(r, max(0, size-tailBytes), min(size, tailBytes))
	if err != nil {
		return "", err
	}
	return recogniseTail(tail), nil
}

func (s signature) in(b []byte) bool {
	return len(b) >= s.offset+len(s.bytes) && string(b[s.offset:s.offset+len(s.bytes)]) == s.bytes
}

// isBzip2 looks for "BZh", the block size digit and the magic number of the first block (the digits of pi).
func isBzip2(b []byte) bool {
	return len(b) >= 10 && string(b[:3]) == "BZh" && b[3] >= '1' && b[3] <= '9' && string(b[4:10]) == "1AY&SY"
}

// refuseFormat says why a format cannot be used, or nil.
func refuseFormat(op string, f Format) error {
	switch {
	case f.usable(), f.packed(), f.foreign():
		return nil
	case f == "tar":
		return configError(op, "take the disk out of it (an OVA is a tar archive with a vmdk in it)", "by its content it is a tar archive")
	case f == "zip", f == "7z":
		return configError(op, "take the disk out of it", "by its content it is a %s archive", f)
	}
	return configError(op, "convert it to qcow2 first (qemu-img convert -O qcow2 IN OUT)", "by its content it is %s, which vmentry does not read", f)
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
