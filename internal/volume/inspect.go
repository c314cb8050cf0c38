package volume

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// Directory is what was found at a volume's path.
type Directory struct {
	Real     string // the path without symbolic links
	Writable bool
	Problem  string // why it can be no volume, and what to do; "": it can
}

// Inspect looks at a volume's path.
func Inspect(path string) Directory {
	real, err := filepath.EvalSymlinks(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return Directory{Problem: "is not there; mount a volume at it, or mend the path"}
	case err != nil:
		return Directory{Problem: "cannot be used: " + cause(err)}
	}
	info, err := os.Stat(real)
	switch {
	case err != nil:
		return Directory{Problem: "cannot be used: " + cause(err)}
	case !info.IsDir():
		return Directory{Problem: "is not a directory; name the one that it lies in"}
	}
	if err := unix.Access(real, unix.R_OK|unix.X_OK); err != nil {
		return Directory{Problem: "may not be read by this user: " + err.Error() + "; change the directory's owner or mode, or the container's user (in the pod's securityContext: runAsUser, fsGroup)"}
	}
	return Directory{Real: real, Writable: unix.Access(real, unix.W_OK) == nil}
}

// cause is an error of a file without the file's name, which the message has anyway.
func cause(err error) string {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err.Error()
	}
	return err.Error()
}

// Rights are what this process may do, as far as a sandbox depends on it.
type Rights struct {
	UID, GID     int
	Groups       bool            // this process is in supplementary groups
	Capabilities map[string]bool // permitted, by the names that virtiofsd has for them
	Namespaces   bool            // mount, PID and network namespaces can be made, without a user namespace
	Landlock     int             // version of the kernel's Landlock; 0: none
}

// capabilities are those that a sandbox may depend on (capabilities(7)).
var capabilities = map[string]int{
	"chown": unix.CAP_CHOWN, "dac_override": unix.CAP_DAC_OVERRIDE, "fowner": unix.CAP_FOWNER, "fsetid": unix.CAP_FSETID,
	setgid: unix.CAP_SETGID, setuid: unix.CAP_SETUID, "mknod": unix.CAP_MKNOD, "setfcap": unix.CAP_SETFCAP,
	setpcap: unix.CAP_SETPCAP, sysChroot: unix.CAP_SYS_CHROOT, sysAdmin: unix.CAP_SYS_ADMIN,
}

const (
	setgid    = "setgid"
	setuid    = "setuid"
	setpcap   = "setpcap"
	sysChroot = "sys_chroot"
	sysAdmin  = "sys_admin"
)

// InspectRights finds out what this process may do. landlock is the version of it that the kernel has, and harmless a command that may be
// run to try it.
func InspectRights(landlock int, harmless ...string) Rights {
	r := Rights{UID: os.Geteuid(), GID: os.Getegid(), Capabilities: map[string]bool{}, Landlock: landlock}
	groups, err := os.Getgroups()
	r.Groups = err != nil || len(groups) > 0
	var data [2]unix.CapUserData
	if unix.Capget(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}, &data[0]) != nil {
		return r
	}
	for name, number := range capabilities {
		permitted := data[number/32].Permitted&(1<<(number%32)) != 0
		bounded, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(number), 0, 0, 0)
		r.Capabilities[name] = permitted && err == nil && bounded == 1
	}
	r.Namespaces = r.UID == 0 && r.Capabilities[sysAdmin] && tryNamespaces(harmless)
	return r
}

// tryNamespaces says whether a child can be put into namespaces of its own, and mount there: AppArmor's usual profile for containers
// forbids the second to those who may do the first.
func tryNamespaces(harmless []string) bool {
	cmd := exec.Command(harmless[0], harmless[1:]...)
	// with CLONE_NEWNS, the child changes the propagation of its mounts, which is a mount(2)
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET}
	if cmd.Start() != nil {
		return false
	}
	cmd.Wait()
	return true
}
