// Package image turns what the user named as the base image (a file, a block device, a directory, a URL; packed or not; in
// any usual format) into a local file that a guest's disk can be based on. It works in three parts:
//
//	Inspect   looks: at the file, at what was made of it earlier. Changes nothing, and asks nobody on the network.
//	MakePlan  decides: a pure function from what was asked and what was found to a list of steps, or a refusal.
//	Apply     does the steps, under the lock of the data directory, and says what is there to boot from.
//
// A file that can be used as it is stays where it is. Everything else is made once and kept in the data directory:
//
//	images/DIGEST.qcow2, .raw, .iso   an image; DIGEST is the SHA-256 of the file that it was made of, as fetched
//	images/SOURCE.json                which digest a URL or a path had; SOURCE stands for the URL or path
//	images/blank.raw                  what an empty disk is based on
//	images/.NAME.part, .NAME.new-…    what is not whole yet
//
// An image gets its name when it is whole and on disk, so a start that is cut off at any instruction leaves nothing that could
// be taken for one.
//
// All the bytes here are foreign: formats are recognised by their content, read by this package's own bounded parsers, and
// whatever refers to another file or host is refused before any other program sees it.
package image

import (
	"cmp"
	"net/url"
	"path/filepath"
)

// dirName is where images are kept in the data directory.
const dirName = "images"

// Input is what was asked for.
type Input struct {
	// URL is where the image is fetched from. It may carry a password.
	URL *url.URL
	// Path is a file, a block device, or a directory with one image in it.
	Path string
	// Dirs are searched for the one image where neither URL nor Path is given. Those that do not exist are skipped.
	Dirs []string
	// Name is URL or Path as it may be shown: without what may be a secret. Empty: Path.
	Name string
	// None is a VM without a base image: nothing is looked for.
	None bool
	// CDAlone says that the guest has a disk which needs no base image, so that what is named is of use only if it is a CD. What must be
	// fetched or unpacked before that is known is taken for one where an earlier start had a CD.
	CDAlone bool
	// Digest is the SHA-256 that the file must have as it was fetched: 64 lower-case hexadecimal digits, [DigestAuto], or empty.
	Digest string
	// KnownRaw says that an earlier start has found the file at Path to be a raw disk. A guest may have written to it since:
	// whatever it looks like now, it is one.
	KnownRaw bool
	// Beside says that somebody has the data directory at this moment: what is not whole there is being made, and is nothing that was left. It is for a
	// plan that is only shown.
	Beside bool
	// Check says why a qcow2, raw or ISO file that was made cannot be an image; nil where it can. It is asked before the file gets its
	// name.
	Check func(path string, format Format) error
	// DataDir is the data directory. It need not exist.
	DataDir string
	// QEMUImg is the qemu-img program: a path, or a name that is looked up in PATH. Empty: "qemu-img".
	QEMUImg string
	// Confine gives the command by which qemu-img is run so that it reaches these files alone, to be read or to be written too; nil: it is
	// not shut in.
	Confine func(read, write, command []string) []string
}

// DigestAuto is the digest that is published beside the image.
const DigestAuto = "auto"

// name is how the image is called in messages.
func (in Input) name() string { return cmp.Or(in.Name, in.Path) }

// Local is an image in a local file, as it can be used.
type Local struct {
	// Path is absolute.
	Path string `json:"path"`
	// Format is [Raw], [QCOW2] or [ISO].
	Format Format `json:"format"`
	// Device says that it is a block device.
	Device bool `json:"device,omitempty"`
	// Firmwares are those that an ISO image can be booted with: "bios", "uefi".
	Firmwares []string `json:"firmwares,omitempty"`
	// Blank is what an empty disk can be based on, for an ISO image.
	Blank string `json:"blank,omitempty"`
	// Kept says that the file is one of the data directory's: it was made from what the user named, and is not to be written.
	Kept bool `json:"kept,omitempty"`
}

// paths are the places in one data directory.
type paths struct{ data string }

func (p paths) dir() string              { return filepath.Join(p.data, dirName) }
func (p paths) file(name string) string  { return filepath.Join(p.data, dirName, name) }
func (p paths) blank() string            { return p.file("blank.raw") }
func (p paths) record(key string) string { return p.file(key + ".json") }
