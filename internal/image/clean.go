package image

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Clean removes the images in a data directory that nothing uses any more, and gives their names. current is the path of the image of
// this start; it stays. So does every image that any qcow2 file of the data directory names as its backing file, whatever that file
// is: the guest's disk, an old one that was kept aside, a copy of the user's. Where one cannot be read, nothing is removed. It
// needs the lock of the data directory.
func Clean(dataDir, current string) ([]string, error) {
	places := paths{dataDir}
	entries, err := os.ReadDir(places.dir())
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ioError("look at "+places.dir(), err)
	}
	var unused []string
	for _, e := range entries {
		if isKept(e.Name()) && places.file(e.Name()) != current {
			unused = append(unused, e.Name())
		}
	}
	if len(unused) == 0 {
		return nil, nil
	}
	backing, err := backingNames(dataDir, places.dir())
	if err != nil {
		return nil, ioError("see which images are in use", err)
	}
	var removed []string
	for _, name := range unused {
		if strings.Contains(backing, name) {
			continue
		}
		if err := os.Remove(places.file(name)); err != nil {
			return removed, ioError("remove "+places.file(name), err)
		}
		removed = append(removed, name)
	}
	return removed, nil
}

// isKept says that a name is that of an image: DIGEST.FORMAT. The base of empty disks is not worth removing.
func isKept(name string) bool {
	digest, format, _ := strings.Cut(name, ".")
	return isDigest(digest) && Format(format).usable()
}

// backingNames are all that the qcow2 files below dir, but for those in except, name as their backing files, in one text. A reference
// may be in any of the spellings that QEMU knows; the name of an image is a digest, which is in all of them.
func backingNames(dir, except string) (string, error) {
	var all strings.Builder
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if path == except {
			return fs.SkipDir
		}
		if e.Type().IsRegular() {
			name, err := backingName(path)
			if err != nil {
				return err
			}
			all.WriteString(name + "\n")
		}
		return nil
	})
	return all.String(), err
}

// backingName is what a qcow2 file names as its backing file; empty for one without, and for every other file.
func backingName(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	head, err := readUpTo(f, 0, 20)
	if err != nil || len(head) < 20 || string(head[:4]) != qcow2Magic {
		return "", err
	}
	const longest = 1023 // of a name in a qcow2 file
	offset, length := binary.BigEndian.Uint64(head[8:]), binary.BigEndian.Uint32(head[16:])
	if offset == 0 {
		return "", nil
	}
	if offset > 1<<40 || length > longest {
		return "", errors.New(path + " has a bad header")
	}
	name, err := readUpTo(f, int64(offset), int64(length))
	return string(name), err
}
