package image

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Facts is what was found: all that MakePlan needs to know of the world.
type Facts struct {
	// DataDir is the absolute path of the data directory.
	DataDir string
	// File is the file that was named; nil for a URL.
	File *File
	// Want is the digest that the image must have, in hex; empty where there is none, or where it has to be asked for.
	Want string
	// Record is what is remembered of this URL or path; nil where nothing is.
	Record *Record
	// Made is what was made earlier of this URL or path as it is now; nil where that has to be done.
	Made *Local
	// Leftovers are the paths of what a start that was cut off left half made, without what can be gone on with.
	Leftovers []string
	// Blank says that the base of an empty disk is there.
	Blank bool
	// QEMUImg is the path of qemu-img, empty where there is none.
	QEMUImg string
}

// File is a file or block device that was looked at.
type File struct {
	// Path is absolute. Symbolic links in it are kept: where a volume is mounted through links their targets change names.
	Path   string
	Format Format
	Stamp  Stamp
	Device bool // a block device
	// Firmwares are those that an ISO image can be booted with.
	Firmwares []string
}

// Stamp is what a file is known by again without reading it.
type Stamp struct {
	Bytes      int64  `json:"bytes"`
	ModTime    int64  `json:"mtime,omitempty"` // nanoseconds since 1970, as the next
	ChangeTime int64  `json:"ctime,omitempty"`
	Inode      uint64 `json:"inode,omitempty"`
}

// Inspect looks at what was named and at the data directory, and changes nothing. The error is an *Error.
func Inspect(in Input) (Facts, error) {
	dir, err := filepath.Abs(in.DataDir)
	if err != nil {
		return Facts{}, ioError("find the data directory", err)
	}
	facts := Facts{DataDir: dir, QEMUImg: findProgram(in.QEMUImg)}
	if in.None {
		return facts, nil
	}
	if in.URL == nil {
		if facts.File, err = inspectPath(in); err != nil {
			return Facts{}, err
		}
	}
	return facts, facts.lookUp(in)
}

// lookUp finds what an earlier start has made.
func (f *Facts) lookUp(in Input) (err error) {
	places, key := paths{f.DataDir}, sourceKey(in, f.File)
	if isDigest(in.Digest) {
		f.Want = in.Digest
	}
	if in.Digest == DigestAuto && f.File != nil {
		if f.Want, err = sumBeside(f.File.Path); err != nil {
			return err
		}
	}
	_, err = os.Stat(places.blank())
	f.Blank = err == nil
	f.Record = readRecord(places.record(key))
	if f.Made, err = f.findMade(places); err != nil {
		return err
	}
	if f.Made != nil {
		key = "" // there is nothing to go on with
	}
	if in.Beside {
		return nil
	}
	if f.Leftovers, err = findLeftovers(places.dir(), key); err != nil {
		return ioError("look at "+places.dir(), err)
	}
	return nil
}

// findMade finds the image that was made of the URL or path as it is now: by what is remembered of it, or by the digest that it must
// have. A file that is used where it is needs none.
func (f *Facts) findMade(places paths) (*Local, error) {
	if f.File != nil && f.File.Format.usable() {
		return nil, nil
	}
	if f.recorded() {
		if made, err := places.made(f.Record); made != nil || err != nil {
			return made, err
		}
	}
	return places.kept(f.Want)
}

// recorded says whether the record is about the URL or path as it is now.
func (f *Facts) recorded() bool {
	r := f.Record
	return r != nil && (f.Want == "" || r.SHA256 == f.Want) && (f.File == nil || r.Stamp == f.File.Stamp)
}

// mayBeCD says whether what was named is a CD, as far as that is known without fetching or unpacking it.
func (f *Facts) mayBeCD() bool {
	switch {
	case f.Made != nil:
		return f.Made.Format == ISO
	case f.File != nil && !f.File.Format.packed():
		return f.File.Format == ISO
	case f.recorded():
		return f.Record.Format == ISO
	}
	return f.Blank // the disk was installed from one
}

// inspectPath looks at the file that was named, or at the one image in the directory.
func inspectPath(in Input) (*File, error) {
	path, err := in.Path, error(nil)
	if path == "" {
		path, err = findImage(in.Dirs)
	} else if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
		path, err = findImage([]string{path})
	}
	if err != nil {
		return nil, err
	}
	return inspectFile(path, in.KnownRaw)
}

// inspectFile looks at the file or block device at path. What a guest may have written is raw, whatever it looks like.
func inspectFile(path string, knownRaw bool) (*File, error) {
	path, err := filepath.Abs(path)
	op := "use " + path + " as base image"
	if err != nil {
		return nil, ioError(op, err)
	}
	// The file is looked at before it is opened: opening a FIFO would wait for a writer for ever.
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, configError(op, "check VM_IMAGE and the mounts of the container", "there is no such file")
	}
	if err != nil {
		return nil, ioError(op, err)
	}
	device := info.Mode()&fs.ModeDevice != 0 && info.Mode()&fs.ModeCharDevice == 0
	if !device && !info.Mode().IsRegular() {
		return nil, configError(op, "name a file, a block device, or a directory with one image in it", "it is none of these")
	}
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, ioError(op, err)
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd) // a block device has its size here alone
	if err != nil {
		return nil, ioError(op, err)
	}
	if size == 0 {
		return nil, refusal(op, "copy the image again", "it is empty")
	}
	file := &File{Path: path, Format: Raw, Stamp: stampOf(info), Device: device}
	file.Stamp.Bytes = size
	if device || knownRaw {
		return file, nil
	}
	if file.Format, err = Recognise(f, size); err != nil {
		return nil, ioError(op, err)
	}
	if file.Format == ISO {
		if file.Firmwares, err = isoFirmwares(f); err != nil {
			return nil, ioError(op, err)
		}
	}
	return file, refuseFormat(op, file.Format)
}

// stampOf is what the file system knows of a file.
func stampOf(info fs.FileInfo) Stamp {
	s := Stamp{Bytes: info.Size(), ModTime: info.ModTime().UnixNano()}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		s.Inode, s.ChangeTime = st.Ino, st.Ctim.Nano()
	}
	return s
}

func findProgram(name string) string {
	if name == "" {
		name = "qemu-img"
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}
