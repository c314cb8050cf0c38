package disk

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// temporaryMark stands between the final name and random digits in the name of everything that is not whole yet:
// ".disk.new-123". A cut-off start leaves such names behind, and the next one removes them.
const temporaryMark = ".new-"

func temporaryPattern(name string) string { return "." + name + temporaryMark + "*" }

// isTemporary says that a name was made from temporaryPattern for one of the names given.
func isTemporary(name string, finals ...string) bool {
	for _, final := range finals {
		digits, ok := strings.CutPrefix(name, "."+final+temporaryMark)
		if ok && digits != "" && strings.Trim(digits, "0123456789") == "" {
			return true
		}
	}
	return false
}

// writeFileAtomic makes the file at path by fill, or replaces it: under another name, synced, renamed, the directory synced.
// When it fails nothing has changed.
func writeFileAtomic(path string, mode os.FileMode, fill func(*os.File) error) (err error) {
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
	err = errors.Join(fill(f), f.Chmod(mode), f.Sync(), f.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncPath(dir)
}

// WriteFile makes the small file at path in a data directory, or replaces it: whole and on disk, or not at all.
func WriteFile(path string, data []byte) error {
	err := writeFileAtomic(path, 0o600, func(f *os.File) error {
		_, err := f.Write(data)
		return err
	})
	if err != nil {
		return ioError("write "+path, err)
	}
	return nil
}

// syncPaths makes files and directories durable, all at once: a file system writes down in one go what is asked for at the same time.
func syncPaths(all ...string) error {
	slices.Sort(all)
	all = slices.Compact(all)
	errs := make([]error, len(all))
	var syncing sync.WaitGroup
	for i, path := range all {
		syncing.Go(func() { errs[i] = syncPath(path) })
	}
	syncing.Wait()
	return errors.Join(errs...)
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
