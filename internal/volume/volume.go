// Package volume gives the guest directories of the pod over virtio-fs: inspect → plan → apply. [Inspect] and [InspectRights] look at
// the directories and at what this container may do, [MakePlan] turns that into a [Plan], and each [Share] of it is a virtiofsd
// (https://gitlab.com/virtio-fs/virtiofsd) that runs beside QEMU, started in the strictest sandbox that is to be had.
package volume

import (
	"fmt"
	"strings"
)

// Most is how many volumes a guest can have: the functions of one PCI slot.
const Most = 8

// Volume is a directory of the pod that the guest is to have.
type Volume struct {
	Tag       string // what the guest mounts it by
	Path      string // in the pod, absolute and clean
	GuestPath string // where the guest mounts it; "": it does so itself
	ReadOnly  bool
}

// Input is what a plan is made from.
type Input struct {
	Volumes   []Volume
	Found     []Directory // what is at each one's path
	Own       []Own       // directories that no volume may hold or lie in
	RunDir    string
	Virtiofsd Program
	Rights    Rights
	// Confine gives the command by which another is run that reaches these files alone, to be read or to be written too, and gets no more
	// rights. Without any it is not shut in.
	Confine func(read, write, command []string) []string
}

// Own is a directory that is vmentry's or the kernel's.
type Own struct {
	Path string // without symbolic links
	What string
}

// Plan is how the guest gets its volumes.
type Plan struct {
	Shares    []Share
	Virtiofsd Program
	Sandbox   Sandbox
	Warnings  []string `json:",omitempty"`
}

// Share is one volume and the virtiofsd that serves it.
type Share struct {
	Volume
	Socket  string   // where it listens for QEMU
	Command []string // the program first; it finds the listening socket at descriptor 3

	unsupervised []string
}

// Mistakes are what the user can mend in the settings.
type Mistakes []Mistake

// Mistake is one of them.
type Mistake struct {
	Volume  Volume
	Problem string // what is wrong, and what would be right
}

func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i, one := range m {
		lines[i] = fmt.Sprintf("%s=%s: %s", one.Volume.Tag, one.Volume.Path, one.Problem)
	}
	return strings.Join(lines, "\n")
}

// Lines prints the plan for people.
func (p Plan) Lines() []string {
	var lines []string
	for _, s := range p.Shares {
		line := fmt.Sprintf("%s: %s of the pod, ", s.Tag, s.Path)
		if s.GuestPath != "" {
			line += "at " + s.GuestPath + " in the guest, "
		} else {
			line += "for the guest to mount, "
		}
		lines = append(lines, line+map[bool]string{true: "read-only", false: "read-write"}[s.ReadOnly])
	}
	lines = append(lines, fmt.Sprintf("virtiofsd %s, %s", p.Virtiofsd.Version, p.Sandbox))
	for _, w := range p.Warnings {
		lines = append(lines, "warning: "+w)
	}
	return lines
}
