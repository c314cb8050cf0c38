package disk

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Place is what the file system below the data directory can do.
type Place struct {
	// Type is the name of the file system, or its magic number in hex.
	Type string `json:"type"`
	// Direct says that files on it can be opened with O_DIRECT, so that the guest's disk need not pass through the page cache,
	// which counts against the container's memory limit.
	Direct bool `json:"direct"`
	// OwnLayer says that the directory belongs to the container's own writable layer and ends with the container.
	OwnLayer bool `json:"ownLayer"`
	// LocalLocks says that it is an NFS volume whose locks other machines do not see (nfs(5), nolock and local_lock).
	LocalLocks bool `json:"localLocks,omitempty"`
}

// fileSystems are those that are met below containers. Direct is what open(2) and the file systems' own documents say: tmpfs
// has it only from Linux 6.6 on, overlayfs only if its upper layer has it, FUSE and 9p only if their server does. What is not
// certain counts as no: the price is the page cache, and that of a wrong yes a VM that does not start.
var fileSystems = map[int64]struct {
	name   string
	direct bool
}{
	unix.EXT4_SUPER_MAGIC:      {"ext4", true},
	unix.XFS_SUPER_MAGIC:       {"xfs", true},
	unix.BTRFS_SUPER_MAGIC:     {"btrfs", true},
	unix.F2FS_SUPER_MAGIC:      {"f2fs", true},
	unix.NFS_SUPER_MAGIC:       {"nfs", true},
	unix.TMPFS_MAGIC:           {"tmpfs", false},
	unix.RAMFS_MAGIC:           {"ramfs", false},
	unix.OVERLAYFS_SUPER_MAGIC: {"overlayfs", false},
	unix.FUSE_SUPER_MAGIC:      {"fuse", false},
	unix.V9FS_MAGIC:            {"9p", false},
}

// inspectPlace looks at the file system of dir, or of its nearest ancestor that exists.
func inspectPlace(dir string) (Place, error) {
	existing, err := nearestExisting(dir)
	if err != nil {
		return Place{}, err
	}
	var st unix.Statfs_t
	if err := unix.Statfs(existing, &st); err != nil {
		return Place{}, &fs.PathError{Op: "statfs", Path: existing, Err: err}
	}
	place := Place{Type: "unknown"}
	if known, ok := fileSystems[int64(st.Type)]; ok {
		place.Type, place.Direct = known.name, known.direct
	}
	m := mountOf(existing)
	place.OwnLayer = m.point == "/"
	place.LocalLocks = place.Type == "nfs" && m.localLocks()
	return place, nil
}

// nearestExisting gives dir with symbolic links resolved, or its nearest ancestor that exists.
func nearestExisting(dir string) (string, error) {
	for {
		real, err := filepath.EvalSymlinks(dir)
		if err == nil {
			return real, nil
		}
		if !errors.Is(err, fs.ErrNotExist) || dir == filepath.Dir(dir) {
			return "", err
		}
		dir = filepath.Dir(dir)
	}
}

// mount is what a path lies on.
type mount struct {
	point   string // "/" is the container's own writable layer. Device numbers would not tell: some storage drivers give a volume the same one
	options string // the file system's own, with commas between
}

// mounts are what was mounted when this process first asked: a container's mounts are made before its first process begins.
var mounts = sync.OnceValue(func() []mount {
	text, _ := os.ReadFile("/proc/self/mountinfo")
	return parseMounts(string(text))
})

// mountOf finds the mount that path (absolute, without links) lies on; the zero value where that is not to be found out.
func mountOf(path string) mount { return findMount(mounts(), path) }

// localLocks says that locks on an NFS mount are this machine's alone.
func (m mount) localLocks() bool {
	return slices.ContainsFunc(strings.Split(m.options, ","), func(o string) bool {
		return o == "nolock" || strings.HasPrefix(o, "local_lock=") && o != "local_lock=none"
	})
}

// parseMounts reads the format of proc(5), "/proc/[pid]/mountinfo".
func parseMounts(mountinfo string) []mount {
	var all []mount
	for line := range strings.Lines(mountinfo) {
		fields := strings.SplitN(line, " ", 6)
		if len(fields) < 6 {
			continue
		}
		m := mount{point: mountEscapes.Replace(fields[4])}
		if _, after, found := strings.Cut(fields[5], " - "); found {
			if last := strings.Fields(after); len(last) > 2 {
				m.options = last[2]
			}
		}
		all = append(all, m)
	}
	return all
}

// findMount finds the innermost of all that path lies on, and of several at one place the last, which hides the others.
func findMount(all []mount, path string) mount {
	var best mount
	for _, m := range all {
		if len(m.point) >= len(best.point) && (path == m.point || strings.HasPrefix(path, strings.TrimSuffix(m.point, "/")+"/")) {
			best = m
		}
	}
	return best
}

// mountEscapes undoes the octal escapes of mountinfo: space, tab, line feed and backslash.
var mountEscapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// directReadable says whether the file can be read with O_DIRECT, by doing it.
func directReadable(path string) bool {
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECT|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer f.Close()
	const block = 4096
	buf := make([]byte, 2*block)
	// Direct reads need memory on a block boundary.
	skip := -uintptr(unsafe.Pointer(&buf[0])) & (block - 1)
	_, err = f.ReadAt(buf[skip:skip+block], 0)
	return err == nil || err == io.EOF
}
