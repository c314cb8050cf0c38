package disk

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Room is how much more can be written to a file system.
type Room struct {
	// Type is the name of the file system, or its magic number in hex.
	Type string `json:"type"`
	// Mount is where it is mounted; empty where that is not to be known.
	Mount string `json:"mount,omitempty"`
	// Free is how many bytes are left to a user without privilege; Size is how many it has in all. Both are 0 for a block device.
	Free int64 `json:"free"`
	Size int64 `json:"size"`
}

// Known says that there are figures: a block device has none.
func (r Room) Known() bool { return r.Size > 0 }

// String is the file system for people: "ext4 on /var/lib/vmentry".
func (r Room) String() string {
	if r.Mount == "" {
		return r.Type
	}
	return r.Type + " on " + r.Mount
}

// InspectRoom looks at the file system that the file at path, with symbolic links resolved, is on.
func InspectRoom(path string) (Room, error) {
	info, err := os.Stat(path)
	if err != nil {
		return Room{}, err
	}
	if info.Mode()&os.ModeDevice != 0 {
		return Room{Type: "block device"}, nil
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return Room{}, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(real, &st); err != nil {
		return Room{}, &os.PathError{Op: "statfs", Path: real, Err: err}
	}
	room := Room{Type: fmt.Sprintf("%#x", st.Type), Free: int64(st.Bavail) * st.Bsize, Size: int64(st.Blocks) * st.Bsize}
	if known, ok := fileSystems[st.Type]; ok {
		room.Type = known.name
	}
	room.Mount = mountOf(real).point
	return room, nil
}
