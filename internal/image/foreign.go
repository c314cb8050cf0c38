package image

import (
	"errors"
	"fmt"
	"io"
)

// damage is an error about the content of a disk in a foreign format, as opposed to one of reading it.
type damage string

func (d damage) Error() string { return string(d) }

func malformed(format string, args ...any) error { return damage(fmt.Sprintf(format, args...)) }

// errRefers says that a disk image is not all there is to the disk. What it names would be opened with vmentry's rights, so the author
// of an image could have any file of the container read into the guest's disk.
var errRefers = errors.New("it refers to another file")

func refers(format string, args ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errRefers}, args...)...)
}

// standAlone is the way out for an image that does not.
const standAlone = "make an image that stands alone, where all its parts are: qemu-img convert -O qcow2 IN OUT"

// maxVirtualSize is the largest disk that is taken, in bytes: what a qcow2 with clusters of 64 KiB can map.
const maxVirtualSize = 2 << 50

// foreignDisk is what the headers of a disk in a foreign format say, once it is known to stand alone.
type foreignDisk struct {
	// driver is QEMU's name for the format.
	driver string
	// size is the length of the disk in bytes.
	size int64
	// flat says that the file begins with the whole disk as it is; the rest of it is of no use.
	flat bool
}

// inspectForeign reads the headers of r, which has fileSize bytes, and refuses what does not stand alone.
func inspectForeign(format Format, r io.ReaderAt, fileSize int64) (foreignDisk, error) {
	var d foreignDisk
	var err error
	switch format {
	case VMDK:
		d, err = inspectVMDK(r, fileSize)
	case VDI:
		d, err = inspectVDI(r, fileSize)
	case VHD:
		d, err = inspectVHD(r, fileSize)
	case VHDX:
		d, err = inspectVHDX(r, fileSize)
	default:
		err = malformed("%q is no format of a disk", format)
	}
	if err == nil && (d.size <= 0 || d.size > maxVirtualSize) {
		err = malformed("a disk of %d bytes", d.size)
	}
	return d, err
}

// readExactly reads n bytes at off, which have to be there.
func readExactly(r io.ReaderAt, off, n, fileSize int64, what string) ([]byte, error) {
	if off < 0 || n < 0 || off > fileSize || n > fileSize-off {
		return nil, malformed("the %s at %d of %d bytes is behind the end of the file: it is cut short", what, off, n)
	}
	b, err := readUpTo(r, off, n)
	if err == nil && int64(len(b)) < n {
		err = malformed("the %s at %d is cut short", what, off)
	}
	return b, err
}
