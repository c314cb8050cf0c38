// Package confine shuts QEMU and the helpers in before their first instruction: each is started by a thread that has given up what a [Cell] does
// not have, or as vmentry's own command [Command], which does so and then lets the program take its place. A [Guard] says where a program may
// connect to.
package confine

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"
	ll "github.com/landlock-lsm/go-landlock/landlock/syscall"
	"golang.org/x/sys/unix"
)

// Reach is what a program can reach of the file system, by files and by directories with all below them. The zero value shuts nothing out.
type Reach struct {
	Read    []string // to be read, and executed
	Write   []string // to be written as well
	Sockets []string // directories in which it makes sockets, and takes away what is there
}

// code is where programs and what they are linked with come from.
var code = []string{"/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/nix/store", "/gnu/store"}

// home is where a program lies. Where that is not below /usr, its libraries may be beside it.
func home(program string) []string {
	dir := filepath.Dir(program)
	if real, err := filepath.EvalSymlinks(program); err == nil {
		dir = filepath.Dir(real)
	}
	places := []string{dir}
	if prefix, ok := strings.CutSuffix(dir, "/bin"); ok && !strings.HasPrefix(dir, "/usr/") {
		for _, name := range []string{"lib", "lib64", "libexec", "share"} {
			places = append(places, filepath.Join(prefix, name))
		}
	}
	return places
}

// Landlock is the version that the kernel has of it (landlock(7)). Where it is not built in, or not switched on, it is 0.
func Landlock() int {
	version, _, errno := unix.Syscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	if errno != 0 {
		return 0
	}
	return int(version)
}

// versions are what each version of Landlock knows, from the first on.
var versions = []landlock.Config{landlock.V1, landlock.V2, landlock.V3, landlock.V4, landlock.V5, landlock.V6, landlock.V7, landlock.V8, landlock.V9, landlock.V10, landlock.V11}

// Rights of Landlock: to read; to write as well; and those of them that files have, and not directories alone.
const (
	toRead  = ll.AccessFSExecute | ll.AccessFSReadFile | ll.AccessFSReadDir
	toWrite = toRead | ll.AccessFSWriteFile | ll.AccessFSTruncate | ll.AccessFSRemoveDir | ll.AccessFSRemoveFile | ll.AccessFSRefer |
		ll.AccessFSMakeChar | ll.AccessFSMakeDir | ll.AccessFSMakeReg | ll.AccessFSMakeSock | ll.AccessFSMakeFifo | ll.AccessFSMakeBlock | ll.AccessFSMakeSym
	ofFiles = ll.AccessFSExecute | ll.AccessFSReadFile | ll.AccessFSWriteFile | ll.AccessFSTruncate
)

// restrict shuts the calling thread in, and what it becomes and starts, and no other thread: the library's own functions shut all in. What
// this kernel's version knows is forbidden: files, and from some version on also signals, sockets of others, TCP and UDP.
func (r Reach) restrict(noNetwork bool) error {
	version := min(Landlock(), len(versions))
	if version == 0 {
		return nil
	}
	knows := versions[version-1]
	handled := ll.RulesetAttr{HandledAccessFS: uint64(knows.HandledAccessFS), Scoped: uint64(knows.Scoped)}
	if noNetwork {
		handled.HandledAccessNet = uint64(knows.HandledAccessNet)
	}
	rules, err := ll.LandlockCreateRuleset(&handled, 0)
	if err != nil {
		return fmt.Errorf("landlock_create_ruleset: %w", err)
	}
	defer unix.Close(rules)
	for _, p := range r.Read {
		// distributions differ in what they have
		if err := allow(rules, p, toRead, handled.HandledAccessFS); err != nil && !errors.Is(err, unix.ENOENT) {
			return err
		}
	}
	for _, p := range r.Write {
		if err := allow(rules, p, toWrite, handled.HandledAccessFS); err != nil {
			return err
		}
	}
	for _, p := range r.Sockets {
		if err := allow(rules, p, ll.AccessFSMakeSock|ll.AccessFSRemoveFile, handled.HandledAccessFS); err != nil {
			return err
		}
	}
	if err := ll.LandlockRestrictSelf(rules, 0); err != nil {
		return fmt.Errorf("landlock_restrict_self: %w", err)
	}
	return nil
}

// allow adds rights to what is at p, as far as it can have them and the kernel knows them.
func allow(rules int, p string, rights, known uint64) error {
	fd, err := unix.Open(p, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: p, Err: err}
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return &os.PathError{Op: "stat", Path: p, Err: err}
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR {
		rights &= ofFiles
	}
	switch {
	case kind == unix.S_IFCHR || kind == unix.S_IFBLK: // a disk's size is asked for by ioctl(2)
		rights |= ll.AccessFSIoctlDev
	case kind == unix.S_IFSOCK && rights&ll.AccessFSWriteFile != 0:
		rights |= ll.AccessFSResolveUnix
	}
	if err := ll.LandlockAddPathBeneathRule(rules, &ll.PathBeneathAttr{AllowedAccess: rights & known, ParentFd: fd}, 0); err != nil {
		return &os.PathError{Op: "landlock_add_rule", Path: p, Err: err}
	}
	return nil
}
