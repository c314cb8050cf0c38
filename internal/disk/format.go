package disk

import "io"

// Format is how the bytes of an image are to be read.
type Format string

// The formats that a guest's disk, or what it is based on, can have.
const (
	FormatRaw   Format = "raw"
	FormatQCOW2 Format = "qcow2"
)

// formatISO is a CD. It is raw, and may be shown to a guest as what it is.
const formatISO Format = "iso"

// Recogniser tells by its content, and never by its name, what a file of size bytes is: one of the formats, "iso", or another name, which is
// one that cannot be a disk as it is. What is nothing else is raw.
type Recogniser func(r io.ReaderAt, size int64) (Format, error)

// signature is a fixed sequence of bytes that gives away what it stands in.
type signature struct {
	name   string
	offset int
	bytes  string
}

// headBytes covers the start of the usual file systems.
const headBytes = 72 << 10

func hasBytes(b []byte, s signature) bool {
	return len(b) >= s.offset+len(s.bytes) && string(b[s.offset:s.offset+len(s.bytes)]) == s.bytes
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
