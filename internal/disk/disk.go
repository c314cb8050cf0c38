// Package disk prepares what the guest boots from: the base image, the overlay or copy that the guest writes, its size, and
// the UEFI variable store. It works in three parts that can be used one by one:
//
//	Inspect   reads: images, data directory, what is left of the last start. Changes nothing, needs no privilege.
//	MakePlan  decides: a pure function from what was asked and what was found to a list of steps, or a refusal.
//	Apply     does the steps, under the lock of the data directory. May run any number of times.
//
// The data directory then holds:
//
//	lock                  held for as long as a VM runs on this directory; names its holder, and whether its end was clean
//	disk/overlay.qcow2    what the guest wrote, backed by the base image; or
//	disk/copy.qcow2       the guest's whole disk
//	disk/base.json        which base image it was made from
//	disk.next             a new disk, whole, on its way to take the old one's place
//	disk.kept-DATE        an old disk that another one has taken the place of
//	direct.json           how an image is read that the guest writes itself
//	nvram.fd              the UEFI variables
//	nvram-secureboot.fd   those of a firmware with Secure Boot
//	tpm                   the state of the guest's TPM (the caller's)
//	identity              whose data these are (the caller's)
//
// Every one of these comes into being under another name and is renamed when it is whole and on disk, so a start that is
// cut off at any instruction leaves nothing that is half made under its final name.
//
// Files that a guest or an image's author controls are parsed here and not by a helper that probes: a qcow2 header can name
// any file of the container as a backing file, and a raw disk can begin with whatever its owner likes.
package disk

import (
	"cmp"
	"path/filepath"
)

// LockName is the name of the lock in the data directory.
const LockName = "lock"

// Other names there.
const (
	diskName    = "disk"
	nextName    = "disk.next"
	keptPrefix  = "disk.kept-"
	overlayName = "overlay.qcow2"
	copyName    = "copy.qcow2"
	recordName  = "base.json"
	directName  = "direct.json"
	nvramName   = "nvram.fd"
	secureName  = "nvram-secureboot.fd"
)

// TPMName is a directory of the caller's in the data directory. It belongs to the system on the disk, and is set aside with it.
const TPMName = "tpm"

// belongings are what belongs to the system on the disk and does not lie on it. Another system begins without.
var belongings = []string{nvramName, secureName, TPMName}

// Mode is what the guest's disk is.
type Mode string

// The modes.
const (
	ModeOverlay Mode = "overlay" // what the guest writes is kept apart from the base image
	ModeCopy    Mode = "copy"    // a full copy of the base image, which is not needed any more
	ModeDirect  Mode = "direct"  // the image itself
)

// IdentityName is a file of the caller's in the data directory, to be made with [WriteFile].
const IdentityName = "identity"

// Input is what was asked for.
type Input struct {
	// Image is the path of the base image. A VM whose disk is a full copy needs none.
	Image string
	// Format is how the image is to be read, whatever it looks like. A block device is raw in any case.
	Format Format
	// Known is what the image was when it was last looked at, and need not be found out again while it is untouched; the zero value: nothing.
	Known Identity `json:"-"`
	// Blank says that the image is an empty disk: that nothing is on it is no oddity.
	Blank bool
	// Recognise tells what an image that a guest has written looks like by now; nil: that is of no interest. How it is read is remembered.
	Recognise Recogniser `json:"-"`
	// Mode is what the guest's disk is to be; empty is ModeOverlay.
	Mode Mode
	// Recreate makes a new disk when the base image is not the one that the overlay was made from, and keeps the old one aside.
	// Without it that is refused.
	Recreate bool
	// None is a VM without a main disk. Only the variable store is then prepared.
	None bool
	// Size is the wanted size of the guest's disk in bytes, rounded up to 512.
	Size int64
	// SizeSet says that the user chose Size. A size that cannot be had is then a mistake or a warning; a default that
	// cannot be had gives way silently.
	SizeSet bool
	// DataDir is the directory where everything that outlives a restart is kept. It need not exist.
	DataDir string
	// Beside says that somebody has the data directory at this moment: what is not whole there is being made, and is nothing that was left. It is for a
	// plan that is only shown.
	Beside bool
	// NVRAMTemplate is the file that the UEFI variable store starts as a copy of. Empty: no store is needed.
	NVRAMTemplate string
	// NVRAMSize is what the firmware's chip for the variables holds, in bytes: a shorter template is filled up with zeros. 0: as much as
	// the template has.
	NVRAMSize int64
	// SecureBoot says that the variables hold the keys that boot loaders are checked with. They are kept apart: variables that were
	// made without any would let everything pass.
	SecureBoot bool
	// Keeps says that the caller keeps something of the guest's in the data directory besides.
	Keeps bool
	// QEMUImg is the qemu-img program: a path, or a name that is looked up in PATH. Empty: "qemu-img".
	QEMUImg string
	// Confine shuts qemu-img in; nil: it is not.
	Confine Confine `json:"-"`
}

// paths are the places in one data directory.
type paths struct{ data string }

func (p paths) lock() string    { return filepath.Join(p.data, LockName) }
func (p paths) disk() string    { return filepath.Join(p.data, diskName) }
func (p paths) next() string    { return filepath.Join(p.data, nextName) }
func (p paths) overlay() string { return filepath.Join(p.data, diskName, overlayName) }
func (p paths) copy() string    { return filepath.Join(p.data, diskName, copyName) }
func (p paths) record() string  { return filepath.Join(p.data, diskName, recordName) }
func (p paths) direct() string  { return filepath.Join(p.data, directName) }

// nvram is the variable store that is asked for.
func (in Input) nvram(p paths) string {
	if in.SecureBoot {
		return filepath.Join(p.data, secureName)
	}
	return filepath.Join(p.data, nvramName)
}

// belonging is where one of the disk's belongings is, and stranded where it is for a moment while its disk is set aside.
func (p paths) belonging(name string) string { return filepath.Join(p.data, name) }
func (p paths) stranded(name string) string  { return filepath.Join(p.data, diskName, name) }

// mode is the mode that was asked for.
func (in Input) mode() Mode { return cmp.Or(in.Mode, ModeOverlay) }
