package disk

import (
	"path/filepath"
)

// moreName is the directory of the disks that are made, below the data directory: NAME.qcow2 for each, and NAME.json for a raw file
// that is given to the guest to write (see moreRecord).
const moreName = "disks"

func (p paths) more() string { return filepath.Join(p.data, moreName) }

func (p paths) made(name string) string { return filepath.Join(p.more(), name+".qcow2") }

func (p paths) moreRecord(name string) string { return filepath.Join(p.more(), name+".json") }

// More is one more disk of the guest, as it was asked for. Either Size or Path is set.
type More struct {
	// Name is the disk's serial, unique among them; letters, digits, dots, hyphens and underscores.
	Name string
	// Size is that of a disk that is made in the data directory, in bytes.
	Size int64
	// Path is a file or a block device.
	Path string
	// ReadOnly says that the guest must not write it.
	ReadOnly bool
	// Entry is what the user wrote, for messages.
	Entry string
}

// MoreInput is what was asked for.
type MoreInput struct {
	Disks   []More
	DataDir string
	// Taken are the paths of files and devices that are the main disk's, each with what it is. Those that do not exist are not taken yet.
	Taken []Taken
	// Recognise tells what a file that the user named is.
	Recognise Recogniser `json:"-"`
	// Beside, QEMUImg and Confine are as in [Input].
	Beside  bool
	QEMUImg string
	Confine Confine `json:"-"`
}

// Taken is a file that is in use already.
type Taken struct {
	Path string
	// What it is, for a message: "the guest's main disk".
	What string
	// Written says that it is written; else it may be read by others as well.
	Written bool
}

// MoreDisk is one more disk of the guest, as it will be.
type MoreDisk struct {
	Name string `json:"name"`
	// Path is absolute. Symbolic links in it are kept.
	Path     string `json:"path"`
	Format   Format `json:"format"`
	Size     int64  `json:"size"` // bytes
	ReadOnly bool   `json:"readOnly,omitempty"`
	// Made says that it is made and kept in the data directory.
	Made bool `json:"made,omitempty"`
	// Device says that it is a block device.
	Device bool `json:"device,omitempty"`
	// CD says that it is an ISO 9660 image, which buses that know such things can show as a CD.
	CD bool `json:"cd,omitempty"`
	// Cache and AIO are as in [Plan].
	Cache string `json:"cache"`
	AIO   string `json:"aio"`

	dirty bool // the header says that the reference counts are not to be trusted
}

// checkable says that it can be looked through for what an end that was not clean has left: a qcow2 file that the guest writes.
func (d MoreDisk) checkable() bool { return d.Format == FormatQCOW2 && !d.ReadOnly }

func (d MoreDisk) file() qcow2File { return qcow2File{d.Path, d.Device} }

// lockable says that the disk needs a lock of its own: what is in the data directory has that directory's.
func (d MoreDisk) lockable() bool { return !d.Made }

// moreRecord remembers that a file was raw when it was first given to the guest. From then on its first bytes are the guest's, and a guest can make
// them look like a qcow2 header that names any file of the container.
type moreRecord struct {
	Version int    `json:"version"`
	Path    string `json:"path"`
	Inode   uint64 `json:"inode"`
	Format  Format `json:"format"`
}

const moreRecordVersion = 1
