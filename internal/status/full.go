package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Full says that the guest is paused because there was no space for what it wrote. It stands in the run directory for as long
// as that is so.
type Full struct {
	// Disk is "disk" for the main disk, else the disk's name in VM_DISKS.
	Disk string `json:"disk"`
	// Path is the file or block device that could not be written.
	Path string `json:"path"`
	// FileSystem is the type of the file system that the file is on, and where that is mounted: "ext4 on /var/lib/vmentry".
	// Empty for a block device.
	FileSystem string `json:"file_system,omitempty"`
	// Free is how many bytes were left to this user on it; -1 where that is not known.
	Free int64 `json:"free_bytes"`
	// Since is when the guest was paused.
	Since time.Time `json:"since"`
}

const fullFile = "full.json"

// String is a reason why the guest does not run.
func (f Full) String() string {
	where := f.Path
	if f.FileSystem != "" {
		where = f.FileSystem
	}
	return fmt.Sprintf("the guest is paused since %s: no space left for its disk %q in %s", f.Since.UTC().Format(time.RFC3339), f.Disk, where)
}

// Write puts it into the run directory dir, whole or not at all.
func (f Full) Write(dir string) error { return writeJSON(dir, fullFile, f) }

// ReadFull reads what [Full.Write] wrote; ok is false where the guest is not paused for want of space.
func ReadFull(dir string) (f Full, ok bool, err error) {
	data, err := os.ReadFile(filepath.Join(dir, fullFile))
	if errors.Is(err, fs.ErrNotExist) {
		return f, false, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &f)
	}
	return f, err == nil, err
}

// RemoveFull takes away what [Full.Write] wrote.
func RemoveFull(dir string) { os.Remove(filepath.Join(dir, fullFile)) }

const heldFile = "held"

// Hold notes in the run directory dir that a user has paused the guest. QEMU does not remember it of a guest that was paused
// already, for want of space, and such a guest must then not go on by itself.
func Hold(dir string) error { return write(dir, heldFile, nil) }

// Release takes back what [Hold] noted.
func Release(dir string) { os.Remove(filepath.Join(dir, heldFile)) }

// Held says whether a user has paused the guest.
func Held(dir string) bool {
	_, err := os.Stat(filepath.Join(dir, heldFile))
	return err == nil
}
