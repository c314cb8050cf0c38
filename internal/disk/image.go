package disk

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// Image is a base image that was looked at and found fit for use.
type Image struct {
	// Path is absolute. Symbolic links in it are kept: where a volume is mounted through links their targets change names.
	Path     string   `json:"path"`
	Identity Identity `json:"identity"`
	// Boot is what the disk's first sectors tell about the firmware it wants.
	Boot BootHints `json:"boot"`
	// Direct says that the file can be read with O_DIRECT.
	Direct bool `json:"direct"`
	// Device says that it is a block device.
	Device bool `json:"device,omitempty"`
	// Dirty says that it is a qcow2 image that was not closed and whose reference counts have to be made anew.
	Dirty bool `json:"dirty,omitempty"`
	// Warnings are oddities that do not keep the image from being used.
	Warnings []string `json:"warnings,omitempty"`
}

// CheckBase says why the file at path cannot be a base image of that format; nil if it can.
func CheckBase(path string, format Format) error {
	_, err := inspectImage(path, format)
	return err
}

// inspectImage looks at the image at path, which is of that format, and refuses what is unfit. A file that is known, and untouched since, is not
// sampled again.
func inspectImage(path string, format Format, known ...Identity) (*Image, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, ioError("use "+path+" as base image", err)
	}
	op := "use " + path + " as base image"
	// The file is looked at before it is opened: opening a FIFO would wait for a writer for ever.
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, configError(op, "check VM_IMAGE and the mounts of the container", "there is no such file")
	}
	if err != nil {
		return nil, ioError(op, err)
	}
	device := info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
	if !info.Mode().IsRegular() && !device {
		return nil, configError(op, "name a file or a block device", "it is neither")
	}
	if device {
		format = FormatRaw // a guest may have written to it, and so chosen what it looks like
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, ioError(op, err)
	}
	defer f.Close()
	return inspectContent(path, op, f, format, known)
}

// inspectContent looks into the opened image.
func inspectContent(path, op string, f *os.File, format Format, known []Identity) (*Image, error) {
	info, err := f.Stat()
	if err != nil {
		return nil, ioError(op, err)
	}
	size, err := f.Seek(0, io.SeekEnd) // a block device has its size here alone
	if err != nil {
		return nil, ioError(op, err)
	}
	if size == 0 {
		return nil, refusal(op, "copy the image again", "it is empty")
	}
	image := &Image{Path: path, Device: info.Mode()&fs.ModeDevice != 0}
	image.Identity = Identity{Format: format, Bytes: size, VirtualSize: roundUp(size)}
	image.Identity.ModTime, image.Identity.Inode, image.Identity.ChangeTime = fileStamp(info)
	switch format {
	case FormatQCOW2:
		err = image.inspectQCOW2(op, f)
	case FormatRaw:
		image.inspectRaw(f)
	default:
		err = configError(op, "convert it to qcow2", "it is %q, and a base image is qcow2 or raw", format)
	}
	if err != nil {
		return nil, err
	}
	if i := slices.IndexFunc(known, image.Identity.untouched); i >= 0 {
		image.Identity.Sampled = known[i].Sampled
	} else if image.Identity.Sampled, err = sampleDigest(f, size); err != nil {
		return nil, ioError(op, err)
	}
	image.Direct = directReadable(path)
	if image.Boot.PastEnd {
		image.warn("a partition of it ends behind the end of the disk: it may be cut short")
	}
	return image, nil
}

func (i *Image) inspectQCOW2(op string, f io.ReaderAt) error {
	header, err := parseQCOW2(f, i.Identity.Bytes)
	if err != nil {
		e := ioError(op, err)
		e.Advice = "copy the image again, or look at it with qemu-img check"
		return e
	}
	if err := header.refuseBase(i.Path); err != nil {
		return err
	}
	if err := header.checkExtent(f, i.Identity.Bytes); err != nil {
		e := ioError(op, err)
		e.Advice = "copy the image again, or look at it with qemu-img check"
		return e
	}
	if i.Dirty = header.incompatible&incompatDirty != 0; i.Dirty {
		i.warn("it was not closed cleanly by the program that wrote it")
	}
	i.Identity.VirtualSize = roundUp(header.size)
	guest := &qcow2Reader{file: f, fileSize: i.Identity.Bytes, header: header}
	i.Boot = readBootHints(guest, header.size)
	return nil
}

func (i *Image) inspectRaw(f io.ReaderAt) {
	i.Boot = readBootHints(f, i.Identity.Bytes)
	if !i.Boot.Recognised() {
		i.warn("by its content it is no known disk image and has no boot record, partition table or file system: it is taken as a raw disk")
	}
}

func (i *Image) warn(text string) { i.Warnings = append(i.Warnings, i.Path+": "+text) }

// roundUp rounds a size in bytes up to whole sectors, as QEMU does with raw files.
func roundUp(bytes int64) int64 { return (bytes + sectorSize - 1) &^ (sectorSize - 1) }

// sizeText writes a size in bytes for people, and exactly.
func sizeText(bytes int64) string {
	units := []string{" bytes", "KiB", "MiB", "GiB", "TiB", "PiB"}
	value, unit := bytes, 0
	for unit < len(units)-1 && value >= 1024 && value%1024 == 0 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%d%s", value, units[unit])
}
