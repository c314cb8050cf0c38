package disk

import (
	"context"
	"errors"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// copyPart is how much of a file is copied between two looks at whether it is still wanted, in bytes.
const copyPart = 16 << 20

// copyFile copies a file to a new one, with its holes, and makes it durable. Where the file system can share blocks between files it
// takes a moment and no space. progress may be nil.
func copyFile(ctx context.Context, from, to string, progress func(done, total int64)) (err error) {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if unix.IoctlFileClone(int(out.Fd()), int(in.Fd())) == nil {
		return out.Sync()
	}
	if err := out.Truncate(info.Size()); err != nil {
		return err
	}
	total := info.Sys().(*syscall.Stat_t).Blocks * 512
	done := int64(0)
	for at := int64(0); at < info.Size(); {
		begin, end, err := extent(in, at, info.Size())
		if err != nil {
			return err
		}
		for at = begin; at < end; {
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			n, err := copyRange(out, in, at, min(copyPart, end-at))
			if err != nil {
				return err
			}
			at += n
			if done += n; progress != nil {
				progress(min(done, total), total)
			}
		}
	}
	return out.Sync()
}

// extent finds the next data of a file at or after at; begin is size where there are none.
func extent(f *os.File, at, size int64) (begin, end int64, err error) {
	begin, err = unix.Seek(int(f.Fd()), at, unix.SEEK_DATA)
	switch {
	case err == unix.ENXIO:
		return size, size, nil
	case err == unix.EINVAL: // a file system that knows no holes
		return at, size, nil
	case err != nil:
		return 0, 0, os.NewSyscallError("lseek", err)
	}
	end, err = unix.Seek(int(f.Fd()), begin, unix.SEEK_HOLE)
	if err != nil {
		return 0, 0, os.NewSyscallError("lseek", err)
	}
	return begin, min(end, size), nil
}

func copyRange(out, in *os.File, at, length int64) (int64, error) {
	if _, err := in.Seek(at, io.SeekStart); err != nil {
		return 0, err
	}
	if _, err := out.Seek(at, io.SeekStart); err != nil {
		return 0, err
	}
	return io.CopyN(out, in, length)
}

// allocated is how many bytes of its volume a file takes.
func allocated(path string) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return 0, err
	}
	return info.Sys().(*syscall.Stat_t).Blocks * 512, nil
}

// freeSpace is how many bytes a volume has left for us.
func freeSpace(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, &os.PathError{Op: "statfs", Path: dir, Err: err}
	}
	return int64(s.Bavail) * s.Bsize, nil
}
