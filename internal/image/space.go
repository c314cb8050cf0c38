package image

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// freeSpace is how many bytes can be written to the file system of dir.
func freeSpace(dir string) (int64, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return 0, err
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// space judges whether an image fits. need is the least that it takes, in bytes, and most what it takes if it has no holes; 0 or less
// where they are not known. The warning is for what may fit or not.
func space(op, dir string, free, need, most int64) (warning string, err error) {
	switch {
	case need > free:
		return "", &Error{Kind: KindIO, Op: op, Err: fmt.Errorf("it takes %s, and %s has %s left: %w", sizeText(need), dir, sizeText(free), unix.ENOSPC),
			Advice: ioAdvice(unix.ENOSPC)}
	case most > free:
		return fmt.Sprintf("the disk in it has %s, and %s has %s left: it fits only if the rest of it is empty", sizeText(most), dir, sizeText(free)), nil
	}
	return "", nil
}

// sizeText writes a size in bytes for people, with one decimal.
func sizeText(bytes int64) string {
	if bytes < 1024 {
		return fmt.Sprintf("%d bytes", bytes)
	}
	value, units := float64(bytes)/1024, []string{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"}
	unit := 0
	for unit < len(units)-1 && value >= 1024 {
		value, unit = value/1024, unit+1
	}
	return fmt.Sprintf("%.1f %s", value, units[unit])
}
