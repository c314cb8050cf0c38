package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// temporaryMark stands between the final name and random digits in the name of everything that is not whole yet.
	temporaryMark = ".new-"
	// partSuffix is that of what can be gone on with.
	partSuffix = ".part"
)

func temporaryPattern(name string) string { return "." + name + temporaryMark + "*" }

// writeFileAtomic makes the small file at path, or replaces it: whole and on disk, or not at all.
func writeFileAtomic(path string, data []byte) (err error) {
	dir, name := filepath.Split(path)
	f, err := os.CreateTemp(dir, temporaryPattern(name))
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncPath(dir)
}

// syncPath makes a file or directory durable. File systems that cannot sync a directory say EINVAL or ENOTSUP, and have
// nothing to make durable that way.
func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	err = f.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

// findLeftovers lists what starts that were cut off have left, but for the part of the image with that key, which can be gone on
// with; an empty key is none.
func findLeftovers(dir, key string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []string
	for _, e := range entries {
		name := e.Name()
		part := strings.HasSuffix(name, partSuffix) || strings.HasSuffix(name, partSuffix+".json")
		mine := key != "" && strings.HasPrefix(name, "."+key+partSuffix)
		if strings.HasPrefix(name, ".") && (strings.Contains(name, temporaryMark) || part && !mine) {
			found = append(found, filepath.Join(dir, name))
		}
	}
	return found, nil
}
