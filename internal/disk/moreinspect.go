package disk

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// MoreFacts is what was found of the disks: all that MakeMorePlan needs to know of the world.
type MoreFacts struct {
	// DataDir is the absolute path of the data directory.
	DataDir string
	// Place is the file system that the data directory is on, or will be.
	Place Place
	// Found are the disks in the order of the input.
	Found []foundDisk
	// Taken are those of the input's that exist.
	Taken []takenFile
	// Unclean says that the last QEMU on this directory has not been seen to end well.
	Unclean bool
	// Unused are the paths of disks in the data directory that nobody asks for.
	Unused []string
	// Leftovers are the paths of what a start that was cut off left half made.
	Leftovers []string
	// QEMUImg is the path of qemu-img, empty where there is none.
	QEMUImg string
}

// takenFile is a file that is in use already.
type takenFile struct {
	Taken
	id fileID
}

// fileID is what tells whether two paths lead to one file or device: a block device by its number, because it can have many nodes.
type fileID struct {
	device bool
	dev    uint64
	inode  uint64
}

// foundDisk is what is known of one disk.
type foundDisk struct {
	path   string // absolute
	exists bool
	id     fileID
	device bool
	size   int64 // bytes of the disk in it
	format Format
	looks  Format // by the content, where a record says otherwise
	cd     bool
	direct bool // can be opened with O_DIRECT
	record bool // a record says that it is raw
	dirty  bool // a qcow2 file that was not closed cleanly
	err    *Error
}

// InspectMore looks at the disks and changes nothing; files that are to be written are opened for it, and not written. What is wrong with a single
// disk is for MakeMorePlan to tell.
func InspectMore(in MoreInput) (MoreFacts, error) {
	dir, err := filepath.Abs(in.DataDir)
	if err != nil {
		return MoreFacts{}, ioError("find the data directory", err)
	}
	facts := MoreFacts{DataDir: dir, QEMUImg: findProgram(in.QEMUImg)}
	if facts.Place, err = inspectPlace(dir); err != nil {
		return MoreFacts{}, ioError("look at the data directory "+dir, err)
	}
	if !in.Beside {
		if facts.Unclean, err = inspectRunning(dir); err != nil {
			return MoreFacts{}, ioError("look at the data directory "+dir, err)
		}
	}
	if err := facts.listMade(in); err != nil {
		return MoreFacts{}, ioError("look at the disks in "+paths{dir}.more(), err)
	}
	for _, taken := range in.Taken {
		if info, err := os.Stat(taken.Path); err == nil {
			facts.Taken = append(facts.Taken, takenFile{taken, identify(info)})
		}
	}
	for _, d := range in.Disks {
		var found foundDisk
		if d.Path == "" {
			found = inspectMade(paths{dir}.made(d.Name))
		} else {
			found = inspectGiven(d, paths{dir}.moreRecord(d.Name), in.Recognise)
		}
		facts.Found = append(facts.Found, found)
	}
	return facts, nil
}

// listMade looks through the directory of made disks.
func (f *MoreFacts) listMade(in MoreInput) error {
	dir := paths{f.DataDir}.more()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		path := filepath.Join(dir, entry.Name())
		name, isDisk := strings.CutSuffix(entry.Name(), ".qcow2")
		wanted := slices.ContainsFunc(in.Disks, func(d More) bool { return d.Path == "" && d.Name == name })
		switch {
		case isHalfMade(entry.Name()):
			if !in.Beside {
				f.Leftovers = append(f.Leftovers, path)
			}
		case isDisk && !wanted:
			f.Unused = append(f.Unused, path)
		}
	}
	return err
}

// isHalfMade says that a name is a temporary one of a disk or of a record.
func isHalfMade(name string) bool {
	final, _, ok := strings.Cut(strings.TrimPrefix(name, "."), temporaryMark)
	return ok && (strings.HasSuffix(final, ".qcow2") || strings.HasSuffix(final, ".json")) && isTemporary(name, final)
}

func identify(info fs.FileInfo) fileID {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileID{}
	}
	if info.Mode()&fs.ModeDevice != 0 {
		return fileID{device: true, dev: st.Rdev}
	}
	return fileID{dev: st.Dev, inode: st.Ino}
}

// inspectMade looks at a disk that vmentry made. It is a qcow2 file whatever is in it, and refused if it is no sound one.
func inspectMade(path string) foundDisk {
	found := foundDisk{path: path, format: FormatQCOW2}
	op := "use the disk " + path
	f, err := openToLook(path, false)
	if errors.Is(err, fs.ErrNotExist) {
		return found
	}
	if err != nil {
		found.err = ioError(op, err)
		return found
	}
	defer f.Close()
	found.exists = true
	found.look(f, op)
	return found
}

// inspectGiven looks at a file or device that the user named. Its format is found in the content, unless a record says that the content is the guest's.
func inspectGiven(d More, recordPath string, recognise Recogniser) (found foundDisk) {
	path, err := filepath.Abs(d.Path)
	found = foundDisk{path: path}
	op := "use " + d.Path
	if err != nil {
		found.err = ioError(op, err)
		return found
	}
	f, err := openToLook(path, !d.ReadOnly)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		found.err = configError(op, "check the path and the mounts of the container; write a size to have a disk made", "there is no such file")
	case errors.Is(err, unix.EISDIR):
		found.err = configError(op, "name a file or a block device; VM_VOLUMES shares directories", "it is a directory")
	case errors.Is(err, errNoDisk):
		found.err = configError(op, "name a file or a block device", "it is neither")
	case errors.Is(err, unix.EROFS) && !d.ReadOnly:
		found.err = configError(op, "mount it writable, or write :ro", "it cannot be written: %w", unix.EROFS)
	case err != nil:
		found.err = ioError(op, err)
		if found.err.Advice != "" {
			found.err.Advice = fmt.Sprintf("give user %d of this container access to it, or write :ro if it is only to be read", os.Geteuid())
		}
	}
	if found.err != nil {
		return found
	}
	defer f.Close()
	found.exists = true
	if found.err = found.lookAtGiven(f, op, recordPath, recognise); found.err != nil {
		return found
	}
	found.look(f, op)
	return found
}

// errNoDisk is a FIFO, a socket or the like.
var errNoDisk = errors.New("neither a file nor a block device")

// openToLook opens a disk for reading, and for writing too where it will be written, which shows whether that is allowed. It is looked
// at first: opening a FIFO would wait for a writer for ever, and some devices do things when they are opened.
func openToLook(path string, write bool) (*os.File, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	mode := info.Mode()
	switch {
	case mode.IsDir():
		return nil, unix.EISDIR
	case !mode.IsRegular() && (mode&fs.ModeDevice == 0 || mode&fs.ModeCharDevice != 0):
		return nil, errNoDisk
	}
	flags := os.O_RDONLY
	if write {
		flags = os.O_RDWR
	}
	return os.OpenFile(path, flags|unix.O_NONBLOCK, 0)
}

// lookAtGiven finds the format. A device is raw: it is a disk itself, and has been a guest's.
func (d *foundDisk) lookAtGiven(f *os.File, op, recordPath string, recognise Recogniser) *Error {
	info, err := f.Stat()
	if err != nil {
		return ioError(op, err)
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return ioError(op, err)
	}
	d.id, d.device, d.format = identify(info), info.Mode()&fs.ModeDevice != 0, FormatRaw
	if size == 0 {
		return configError(op, "name another, or write a size to have a disk made", "it is empty")
	}
	if d.device {
		return nil
	}
	if d.looks, err = recognise(f, size); err != nil {
		return ioError(op, err)
	}
	d.cd = d.looks == formatISO
	record, err := readMoreRecord(recordPath)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return ioError("read the record "+recordPath, err)
	case record.Path == d.path && record.Inode == d.id.inode:
		d.record = true
		return nil
	case record.Path == d.path && d.looks == FormatQCOW2:
		return refusal(op, fmt.Sprintf("if it is a qcow2 image that you have put there, remove %s; if it is a copy of the raw disk, which a guest has made look so, keep it away from any program that guesses formats", recordPath),
			"at the last start another file was there, which was raw, and this one begins like a qcow2 image")
	}
	return d.takeFormat(op)
}

// disksAsTheyAre are formats that have no disk in them but may well be what a guest wants to find on one.
var disksAsTheyAre = []Format{FormatRaw, formatISO, "squashfs", "tar"}

// takeFormat decides by the content.
func (d *foundDisk) takeFormat(op string) *Error {
	switch {
	case slices.Contains(disksAsTheyAre, d.looks):
		d.format = FormatRaw
	case d.looks == FormatQCOW2:
		d.format = FormatQCOW2
	default:
		return configError(op, "convert or unpack it first (qemu-img convert -O qcow2 IN OUT for a disk format)", "by its content it is %s, which cannot be a disk as it is", d.looks)
	}
	return nil
}

// look finds what a disk of a known format needs to be used, and what keeps it from it.
func (d *foundDisk) look(f *os.File, op string) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		d.err = ioError(op, err)
		return
	}
	d.size = roundUp(size)
	d.direct = directReadable(d.path)
	info, err := f.Stat()
	if err == nil {
		d.id = identify(info)
	}
	if d.format != FormatQCOW2 {
		return
	}
	header, err := parseQCOW2(f, size)
	if err != nil {
		d.err = ioError(op, err)
		d.err.Advice = "look at it with qemu-img check, or restore it from a backup"
		return
	}
	if d.err = header.refuse(op); d.err != nil {
		return
	}
	d.size, d.dirty = header.size, header.incompatible&incompatDirty != 0
}

func readMoreRecord(path string) (moreRecord, error) {
	f, err := os.Open(path)
	if err != nil {
		return moreRecord{}, err
	}
	defer f.Close()
	b, err := readUpTo(f, 0, 64<<10)
	if err != nil {
		return moreRecord{}, err
	}
	var r moreRecord
	if err := json.Unmarshal(b, &r); err != nil {
		return moreRecord{}, fmt.Errorf("it is damaged: %w; remove it if the disk is no raw one", err)
	}
	if r.Version != moreRecordVersion || r.Format != FormatRaw {
		return moreRecord{}, fmt.Errorf("it has version %d and format %q, which this release does not know", r.Version, r.Format)
	}
	return r, nil
}
