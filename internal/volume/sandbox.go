package volume

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Sandbox is what a virtiofsd is shut into.
type Sandbox struct {
	Mode     string   // virtiofsd's own: "namespace", "chroot" or "none"
	Landlock int      // version of Landlock's rules around it; 0: none
	Why      string   // the reason for the choice
	Keeps    []string // capabilities
	Squash   string   // "UID:GID" that everything the guest makes belongs to; "": it belongs to whom the guest says
}

func (s Sandbox) String() string {
	around := ""
	switch {
	case s.Landlock > 0 && s.Mode == "none":
		around = fmt.Sprintf("shut in by Landlock (version %d)", s.Landlock)
	case s.Landlock > 0:
		around = fmt.Sprintf("in a chroot, and shut in by Landlock (version %d)", s.Landlock)
	case s.Mode == "namespace":
		around = "in namespaces of its own"
	case s.Mode == "chroot":
		around = "in a chroot"
	default:
		around = "with its seccomp filter alone"
	}
	keeps := "no capability"
	if len(s.Keeps) > 0 {
		keeps = strings.ToUpper(strings.Join(s.Keeps, ", "))
	}
	return around + ", with " + keeps + ": " + s.Why
}

// daemonCapabilities are those that virtiofsd keeps if it is let, and wants to have then. useful are those that a guest's ordinary
// work on files takes. A guest has no business making device nodes, or programs with capabilities, in the pod's directories.
var (
	daemonCapabilities = []string{"chown", "dac_override", "fowner", "fsetid", setgid, setuid, "mknod", "setfcap"}
	usefulCapabilities = daemonCapabilities[:6]
)

// ErrCapabilities: before it serves anybody, a virtiofsd of root's gives capabilities up, which takes SETPCAP, and leaves the container's supplementary
// groups, which takes SETGID. It ends if it may not, also where it has no capability to give up.
var ErrCapabilities = errors.New("VM_VOLUMES: virtiofsd cannot run as root without")

// lacking is an [ErrCapabilities] with what root lacks for virtiofsd, and nil if that is nothing.
func lacking(r Rights) error {
	var all []string
	if !r.Capabilities[setpcap] {
		all = append(all, "the capability SETPCAP, by which it gives up others")
	}
	if r.Groups && !r.Capabilities[setgid] {
		all = append(all, "the capability SETGID, by which it leaves the groups that the container runtime has put root into")
	}
	if all == nil {
		return nil
	}
	return fmt.Errorf("%w %s: run the container as another user (docker run --user 1000, in the pod's securityContext: {runAsUser: 1000, fsGroup: 1000}), or give it SETPCAP, SETGID "+
		"and those that the guest's work on files takes (docker's default set has them; capabilities: {add: [SETPCAP, SETGID, SETUID, SYS_CHROOT, CHOWN, DAC_OVERRIDE, FOWNER, FSETID]})",
		ErrCapabilities, strings.Join(all, ", and "))
}

// choose takes the strictest sandbox that r allows. Namespaces come first: there virtiofsd sees no other file, process or network. They
// exclude Landlock, under which nobody can mount.
func choose(r Rights) (Sandbox, error) {
	s := Sandbox{Mode: "none", Landlock: r.Landlock}
	root := r.UID == 0
	gives := root && r.Capabilities[setuid] && r.Capabilities[setgid] // files to others: one capability alone is of no use
	if root {
		if err := lacking(r); err != nil {
			return s, err
		}
		s.Keeps = slices.DeleteFunc(slices.Clone(usefulCapabilities), func(c string) bool {
			return !r.Capabilities[c] || !gives && (c == setuid || c == setgid)
		})
	}
	if !gives {
		s.Squash = fmt.Sprintf("%d:%d", r.UID, r.GID)
	}
	switch {
	case r.Namespaces:
		s.Mode, s.Landlock, s.Why = "namespace", 0, "this container may make namespaces"
	case root && r.Capabilities[sysChroot]:
		s.Mode, s.Why = "chroot", "this container may not make namespaces"
	case root:
		s.Why = "this container has neither the capability SYS_ADMIN nor SYS_CHROOT"
	default:
		s.Why = fmt.Sprintf("vmentry is not root here, but user %d", r.UID)
	}
	return s, nil
}

// arguments are virtiofsd's for s.
func (s Sandbox) arguments() []string {
	args := []string{"--sandbox", s.Mode}
	var drop []string
	for _, c := range daemonCapabilities {
		if !slices.Contains(s.Keeps, c) {
			drop = append(drop, "-"+c)
		}
	}
	args = append(args, "--modcaps="+strings.Join(drop, ":"))
	if s.Squash != "" {
		uid, gid, _ := strings.Cut(s.Squash, ":")
		every := strconv.FormatUint(1<<32-1, 10) // all but -1, which is nobody's
		args = append(args, "--translate-uid", "squash-guest:0:"+uid+":"+every, "--translate-gid", "squash-guest:0:"+gid+":"+every)
	}
	return args
}
