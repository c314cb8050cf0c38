package volume

import (
	"fmt"
	"path/filepath"
	"syscall"

	"github.com/landlock-lsm/go-landlock/landlock"
	"golang.org/x/sys/unix"
)

// Confinement is what a program can reach of the file system. The zero value shuts nothing out.
type Confinement struct {
	Read  []string // to be read, and executed
	Write []string // to be written as well
}

// ConfineCommand is the name of vmentry's own command that calls [Confine].
const ConfineCommand = "confine"

// code is where programs and what they are linked with come from, and what virtiofsd must see of itself. /proc has nothing of other
// processes for it: Landlock keeps one that it has shut in, and that has no rights to override that, from looking into those outside.
var code = []string{"/usr", "/bin", "/lib", "/lib64", "/etc/ld.so.cache", "/proc"}

// confinement is that of a virtiofsd which shares dir.
func confinement(p Program, dir string, readOnly bool, s Sandbox) Confinement {
	if s.Landlock == 0 {
		return Confinement{}
	}
	c := Confinement{Read: append([]string{filepath.Dir(p.Path)}, code...)}
	if readOnly {
		c.Read = append(c.Read, dir)
	} else {
		c.Write = []string{dir}
	}
	return c
}

// Arguments are those of vmentry for [Confine].
func (c Confinement) Arguments(command []string) []string {
	args := []string{ConfineCommand}
	for _, p := range c.Read {
		args = append(args, "--read="+p)
	}
	for _, p := range c.Write {
		args = append(args, "--write="+p)
	}
	return append(append(args, "--"), command...)
}

// mostFiles is how many files virtiofsd may have open. It has one for each that the guest's kernel remembers.
const mostFiles = 1_000_000

// Confine lets a program take this process's place, with no way to more rights or to other files than c says. It returns only if that
// fails.
func Confine(c Confinement, command, environ []string) error {
	if err := allowFiles(); err != nil {
		return fmt.Errorf("cannot raise the limit of open files: %w", err)
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return fmt.Errorf("cannot set no_new_privs: %w", err)
	}
	if len(c.Read)+len(c.Write) > 0 {
		if err := restrict(c); err != nil {
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

// renames is the first version of Landlock that can be told to let files move from one directory to another.
const renames = 2

func restrict(c Confinement) error {
	var rules []landlock.Rule
	for _, p := range c.Read {
		rule, err := read(p)
		if err != nil {
			return err
		}
		rules = append(rules, rule)
	}
	for _, p := range c.Write {
		rule := landlock.RWDirs(p)
		if landlockVersion() >= renames {
			rule = rule.WithRefer()
		}
		rules = append(rules, rule)
	}
	// everything that this kernel's version knows: files, and from some version on also TCP, signals, and sockets of others
	return landlock.V11.BestEffort().Restrict(rules...)
}

// read is the right to read what is at p, if there is anything: distributions differ in what they have.
func read(p string) (landlock.FSRule, error) {
	var st unix.Stat_t
	err := unix.Stat(p, &st)
	switch {
	case err == unix.ENOENT:
		return landlock.ROFiles(p).IgnoreIfMissing(), nil
	case err != nil:
		return landlock.FSRule{}, fmt.Errorf("%s: %w", p, err)
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return landlock.RODirs(p), nil
	default:
		return landlock.ROFiles(p), nil
	}
}
