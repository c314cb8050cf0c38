// Package confine shuts a helper in before its first instruction: it is started as vmentry's own command [Command], which gives up all
// access to files but that of a [Reach] and all ways to more rights, and then lets the helper take its place.
package confine

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

// Command is the name of vmentry's own command that calls [Run].
const Command = "confine"

// Reach is what a program can reach of the file system, by files and by directories with all below them. The zero value shuts nothing out.
type Reach struct {
	Read  []string // to be read, and executed
	Write []string // to be written as well
}

// code is where programs and what they are linked with come from.
var code = []string{"/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/nix/store", "/gnu/store"}

// Around is the command by which vmentry, at self, runs another one that can reach its own code and r. Without anything to reach it is not
// shut in, and gets no more rights.
func (r Reach) Around(self string, command []string) []string {
	args := []string{self, Command}
	if len(r.Read)+len(r.Write) > 0 {
		for _, p := range append(home(command[0]), code...) {
			args = append(args, "--read="+p)
		}
	}
	for _, p := range r.Read {
		args = append(args, "--read="+p)
	}
	for _, p := range r.Write {
		args = append(args, "--write="+p)
	}
	return append(append(args, "--"), command...)
}

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

// mostFiles is how many files a helper may have open. virtiofsd has one for each that the guest's kernel remembers.
const mostFiles = 1_000_000

// Run lets a program take this process's place, with no way to more rights or to other files than r says. It returns only if that fails.
func Run(r Reach, command, environ []string) error {
	if err := allowFiles(); err != nil {
		return fmt.Errorf("cannot raise the limit of open files: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot set no_new_privs: %w", err)
	}
	if len(r.Read)+len(r.Write) > 0 {
		if err := restrict(r); err != nil {
			return fmt.Errorf("cannot shut %s in: %w", command[0], err)
		}
	}
	err := syscall.Exec(command[0], command, environ)
	return fmt.Errorf("cannot execute %s: %w", command[0], err)
}

// allowFiles raises the soft limit to the hard one.
func allowFiles() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return err
	}
	limit.Cur = min(limit.Max, mostFiles)
	return unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)
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

func restrict(r Reach) error {
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
	// everything that this kernel's version knows: files, and from some version on also TCP, signals, and sockets of others
	return landlock.V11.BestEffort().Restrict(rules...)
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
