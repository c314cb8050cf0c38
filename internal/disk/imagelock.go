package disk

import (
	"context"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Sharing is who else may use an image at the same time.
type Sharing int

const (
	// Shared is for whoever only reads an image: others may read it too, nobody may write it.
	Shared Sharing = iota
	// Exclusive is for whoever writes an image: nobody else may use it.
	Exclusive
)

// imageLockByte is the byte of an image that vmentry locks. QEMU locks bytes of the images that it opens as well: those from
// 100 and from 200 on, one for each permission (RAW_LOCK_PERM_BASE and RAW_LOCK_SHARED_BASE in its block/file-posix.c). flock(2)
// would collide with those on NFS, where the client turns it into a lock on all bytes.
const imageLockByte = 0x766d656e

// holderAttribute is the extended attribute of an image in which whoever writes it leaves a name for the one who comes second.
const holderAttribute = "user.vmentry.holder"

// ImageLock is the use of one image file or block device, against every other vmentry that uses it. It belongs to the open
// file and not to the process, so that it lasts until every process that has inherited File has ended: give File to QEMU.
//
// What it is depends on what the path leads to:
//
//   - A file gets a lock on one byte (fcntl(2), F_OFD_SETLK), which every local file system has, and which NFS shares between
//     machines unless it was mounted with nolock or local_lock. It does not disturb QEMU's own.
//   - A block device that is written is claimed by O_EXCL (open(2)), because each container has a device node of its own and locks
//     on nodes do not meet. The claim is known to the whole machine, mounts included, but not to other machines, and nobody leaves a
//     name there. One that is only read is not claimed.
type ImageLock struct {
	file *os.File
	own  bool // the name in holderAttribute is ours
}

// LockImage locks the image file or block device at path, as [TakeLock] does with a data directory: while somebody else has it,
// it is tried again for wait, or until ctx ends. The image is opened for writing only if it is to be Exclusive. Where the file
// system has no locks, Exclusive is refused and Shared succeeds: who only reads does no harm. The error is an *Error of KindIO,
// which names the holder as far as known, or wraps the cause of ctx.
func LockImage(ctx context.Context, path string, sharing Sharing, holder Holder, wait time.Duration) (*ImageLock, error) {
	op, wayOut := "lock "+path, "stop that one first, or give each VM an image of its own"
	info, err := os.Stat(path)
	if err != nil {
		return nil, ioError(op, err)
	}
	if info.Mode()&fs.ModeDevice != 0 && sharing == Exclusive {
		return claimDevice(ctx, path, op, holder, wait)
	}
	mode, kind := os.O_RDONLY, int16(unix.F_RDLCK)
	if sharing == Exclusive {
		mode, kind = os.O_RDWR, unix.F_WRLCK
	}
	f, err := os.OpenFile(path, mode|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, ioError(op, err)
	}
	take := func() error {
		return unix.FcntlFlock(f.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: kind, Start: imageLockByte, Len: 1})
	}
	err = retry(ctx, take, func() time.Duration { return holder.patience(imageHolder(f), wait) })
	if err != nil && !(sharing == Shared && hasNoLocks(err)) {
		defer f.Close()
		return nil, lockError(ctx, op, wayOut, imageHolder(f), err)
	}
	lock := &ImageLock{file: f}
	if sharing == Exclusive {
		lock.own = leaveHolder(f, holder)
	}
	return lock, nil
}

// claimDevice takes a block device for itself.
func claimDevice(ctx context.Context, path, op string, holder Holder, wait time.Duration) (*ImageLock, error) {
	var f *os.File
	take := func() (err error) {
		f, err = os.OpenFile(path, os.O_RDWR|unix.O_EXCL|unix.O_NONBLOCK, 0)
		return err
	}
	err := retry(ctx, take, func() time.Duration { return wait })
	switch {
	case err == nil:
		return &ImageLock{file: f}, nil
	case ctx.Err() == nil && os.IsPermission(err):
		e := ioError(op, err)
		e.Advice = "the device must be writable for this container (in Kubernetes: volumeDevices with a claim that is not read-only; in Docker: --device PATH:PATH:rwm)"
		return nil, e
	case ctx.Err() == nil && errors.Is(err, unix.EBUSY):
		return nil, refusal(op, "unmount it, or stop what uses it", "it is in use on this machine: mounted, or the disk of another VM")
	}
	return nil, lockError(ctx, op, "", holder, err)
}

// leaveHolder writes who has the image beside its content, where the file system can. It says whether it could.
func leaveHolder(f *os.File, holder Holder) bool {
	b, err := json.Marshal(holder)
	return err == nil && unix.Fsetxattr(int(f.Fd()), holderAttribute, b, 0) == nil
}

// imageHolder reads who has the image; nobody where it is not known.
func imageHolder(f *os.File) (h Holder) {
	b := make([]byte, 4096)
	n, err := unix.Fgetxattr(int(f.Fd()), holderAttribute, b)
	if err != nil || json.Unmarshal(b[:n], &h) != nil {
		return Holder{}
	}
	return h
}

// File is the open image. A child process that inherits it keeps the image locked for as long as it lives.
func (l *ImageLock) File() *os.File { return l.file }

// Close gives the lock up, unless a child process that inherited it still lives.
func (l *ImageLock) Close() error {
	if l.own {
		_ = unix.Fremovexattr(int(l.file.Fd()), holderAttribute)
	}
	return l.file.Close()
}
