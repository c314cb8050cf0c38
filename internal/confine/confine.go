// Package confine shuts QEMU and the helpers in before their first instruction: each is started as vmentry's own command [Command], which
// gives up what a [Cell] does not have, and then lets the program take its place. A [Guard] says where a program may connect to.
package confine

import (
	"os"
	"path/filepath"
	"strings"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

// Reach is what a program can reach of the file system, by files and by directories with all below them. The zero value shuts nothing out.
type Reach struct {
	Read  []string // to be read, and executed
	Write []string // to be written as well
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

// renames is the first version of Landlock that can be told to let files move from one directory to another.
const renames = 2

func (r Reach) restrict(noNetwork bool) error {
	var rules []landlock.Rule
	for _, p := range r.Read {
		rule, err := read(p)
		if err != nil {
			return err
		}
		rules = append(rules, rule)
	}
	for _, p := range r.Write {
		rule, err := write(p)
		if err != nil {
			return err
		}
		rules = append(rules, rule)
	}
	// everything that this kernel's version knows: files, and from some version on also signals, sockets of others, TCP and UDP
	all := landlock.V11.BestEffort()
	if noNetwork {
		return all.Restrict(rules...)
	}
	if err := all.RestrictPaths(rules...); err != nil {
		return err
	}
	return all.RestrictScoped()
}

// read is the right to read what is at p, if there is anything: distributions differ in what they have.
func read(p string) (landlock.FSRule, error) {
	mode, err := fileMode(p)
	switch {
	case os.IsNotExist(err):
		return landlock.ROFiles(p).IgnoreIfMissing(), nil
	case err != nil:
		return landlock.FSRule{}, err
	case mode.IsDir():
		return landlock.RODirs(p), nil
	case mode&os.ModeDevice != 0: // its size is asked for by ioctl(2)
		return landlock.ROFiles(p).WithIoctlDev(), nil
	}
	return landlock.ROFiles(p), nil
}

// write is the right to write what is at p.
func write(p string) (landlock.FSRule, error) {
	mode, err := fileMode(p)
	switch {
	case err != nil:
		return landlock.FSRule{}, err
	case mode&os.ModeSocket != 0:
		return landlock.RWFiles(p).WithResolveUnix(), nil
	case mode&os.ModeDevice != 0:
		return landlock.RWFiles(p).WithIoctlDev(), nil
	case !mode.IsDir():
		return landlock.RWFiles(p), nil
	case Landlock() >= renames:
		return landlock.RWDirs(p).WithRefer(), nil
	}
	return landlock.RWDirs(p), nil
}

func fileMode(p string) (os.FileMode, error) {
	info, err := os.Stat(p)
	if err != nil {
		return 0, err
	}
	return info.Mode(), nil
}
