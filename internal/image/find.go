package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// sideFiles are the files that may lie beside an image without being one, as patterns of path.Match on the name: the name of
// the default user, and what goes with a download.
var sideFiles = []string{
	".*", "user", "README*", "LICENSE*", "*.md", "*.txt",
	"*.sha256", "*.sha512", "*.sha256sum", "SHA256SUMS*", "SHA512SUMS*", "*CHECKSUM", "*.asc", "*.sig",
}

func isSideFile(name string) bool {
	return slices.ContainsFunc(sideFiles, func(pattern string) bool {
		ok, _ := filepath.Match(pattern, name) // the patterns are constant and well-formed
		return ok
	})
}

// candidate is a file that may be the base image.
type candidate struct {
	path string
	info fs.FileInfo
}

// findImage finds the one image in dirs. Directories in them, sockets and the like are no images; a symbolic link counts as
// what it points to, and two names of one file as one.
func findImage(dirs []string) (string, error) {
	var found []candidate
	for _, dir := range dirs {
		more, err := candidates(dir)
		if err != nil {
			return "", ioError("look for an image in "+dir, err)
		}
		for _, c := range more {
			if !slices.ContainsFunc(found, func(f candidate) bool { return os.SameFile(f.info, c.info) }) {
				found = append(found, c)
			}
		}
	}
	switch len(found) {
	case 1:
		return found[0].path, nil
	case 0:
		return "", configError("find the base image", "put one image there, name one in VM_IMAGE, or set VM_IMAGE=none",
			"no image in %s", strings.Join(dirs, " or "))
	}
	names := make([]string, len(found))
	for i, c := range found {
		names[i] = c.path
	}
	return "", configError("find the base image", "name the one to boot in VM_IMAGE",
		"%d images in %s: %s", len(found), strings.Join(dirs, " and "), strings.Join(names, ", "))
}

func candidates(dir string) ([]candidate, error) {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var found []candidate
	for _, entry := range entries {
		if isSideFile(entry.Name()) {
			continue
		}
		path := filepath.Join(dir, entry.Name())
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) && entry.Type()&fs.ModeSymlink != 0 {
			return nil, fmt.Errorf("%s points to nothing", path)
		}
		if err != nil {
			return nil, err
		}
		if info.Mode().IsRegular() {
			found = append(found, candidate{path, info})
		}
	}
	return found, nil
}
