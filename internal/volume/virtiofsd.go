package volume

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
)

// Program is the virtiofsd that is installed.
type Program struct {
	Path    string
	Version string // "1.13.2"; "": another program of that name, such as the one of QEMU before 8.0
}

// Oldest is the oldest virtiofsd that has all that is asked of it: --readonly and --translate-uid.
const Oldest = "1.13"

// places are where distributions put it: it is not meant to be started by hand, so most have it outside of the path.
var places = []string{"/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/lib/qemu/virtiofsd"}

// ErrNotInstalled: there is no virtiofsd.
var ErrNotInstalled = errors.New("VM_VOLUMES: virtiofsd is not installed in this image; install it (the package virtiofsd of Debian 13), or leave VM_VOLUMES out")

// Find finds virtiofsd and asks for its version.
func Find(ctx context.Context, environ []string) (Program, error) {
	path, err := exec.LookPath("virtiofsd")
	for _, p := range places {
		if err != nil {
			path, err = exec.LookPath(p)
		}
	}
	if err != nil {
		return Program{}, ErrNotInstalled
	}
	if path, err = filepath.Abs(path); err != nil {
		return Program{}, err
	}
	cmd := exec.CommandContext(ctx, path, "--version")
	cmd.Env = environ
	out, _ := cmd.Output()
	p := Program{Path: path}
	if m := version().FindSubmatch(out); m != nil {
		p.Version = string(m[1])
	}
	return p, nil
}

var version = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^virtiofsd (\d+\.\d+\.\d+)`) })

// Check says whether p can do what is asked of it.
func (p Program) Check() error {
	if p.Version == "" {
		return fmt.Errorf("VM_VOLUMES: %s is not the virtiofsd that is needed, %s or later (the package virtiofsd of Debian 13); QEMU before 8.0 brought another one", p.Path, Oldest)
	}
	if older(p.Version, Oldest) {
		return fmt.Errorf("VM_VOLUMES: virtiofsd %s is too old: %s or later is needed (the package virtiofsd of Debian 13)", p.Version, Oldest)
	}
	return nil
}

// older compares major and minor.
func older(a, b string) bool {
	number := regexp.MustCompile(`\d+`)
	x, y := number.FindAllString(a, 2), number.FindAllString(b, 2)
	for i := range y {
		m, _ := strconv.Atoi(x[i])
		n, _ := strconv.Atoi(y[i])
		if m != n {
			return m < n
		}
	}
	return false
}

// Unsupervised is the command for a shell, where virtiofsd makes its socket itself.
func (s Share) Unsupervised() []string { return s.unsupervised }

// Listen makes the socket that virtiofsd serves, in place of one that an earlier start has left. Because it listens from then on, QEMU
// need not wait for virtiofsd.
func (s Share) Listen() (*os.File, error) {
	if err := os.Remove(s.Socket); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: s.Socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	if err := os.Chmod(s.Socket, 0o600); err != nil {
		return nil, err
	}
	return l.File()
}
