package qemu

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Handed is a file that QEMU finds opened: where it would open Path, it takes one of the descriptors, whichever is opened as it needs it.
type Handed struct {
	Path string
	FDs  []int
}

// HandOver is m with the files of its disks opened by others, so that QEMU needs no right to them. open opens one with flags of open(2), and says at which
// descriptor QEMU will find it.
// Files that QEMU's own code does not open by name cannot be handed over: kernel, initrd and what the guest reads through fw_cfg.
func (m Machine) HandOver(open func(path string, flags int) (fd int, err error)) (Machine, error) {
	hand := func(path *string, modes ...int) error {
		h := Handed{Path: *path}
		for _, flags := range modes {
			fd, err := open(*path, flags)
			if err != nil {
				return err
			}
			h.FDs = append(h.FDs, fd)
		}
		m.Handed = append(m.Handed, h)
		*path = fmt.Sprintf("/dev/fdset/%d", len(m.Handed))
		return nil
	}
	m.Handed, m.Disks = slices.Clone(m.Handed), slices.Clone(m.Disks)
	for i := range m.Disks {
		d := &m.Disks[i]
		if err := hand(&d.Path, d.flags()); err != nil {
			return m, err
		}
		if d.Backing == nil {
			continue
		}
		below := *d.Backing
		if err := hand(&below.Path, os.O_RDONLY); err != nil {
			return m, err
		}
		d.Backing = &below
	}
	if m.Firmware != nil {
		f := *m.Firmware
		// QEMU opens a -drive to read it, and again when the machine wants to write
		if err := hand(&f.Vars, os.O_RDONLY, os.O_RDWR); err != nil {
			return m, err
		}
		m.Firmware = &f
	}
	return m, nil
}

// flags are those that QEMU would open the disk's file with. Since 9.1 it takes no descriptor that differs in O_DIRECT.
func (d Disk) flags() int {
	flags := os.O_RDWR
	if d.ReadOnly {
		flags = os.O_RDONLY
	}
	if d.Direct {
		flags |= unix.O_DIRECT
	}
	return flags
}

func (m Machine) handed(a *args) {
	for i, h := range m.Handed {
		for _, fd := range h.FDs {
			a.opt("-add-fd", kv{"fd", strconv.Itoa(fd)}, kv{"set", strconv.Itoa(i + 1)}, kv{"opaque", h.Path})
		}
	}
}

// sandbox is QEMU's own system-call filter: no program, no other user, no other priority, no call that only the old need.
func (m Machine) sandbox(a *args) {
	if m.Sandbox && !m.OwnSandbox() {
		a.add("-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny")
	}
}

// OwnSandbox says whether the user has a -sandbox among the extra arguments, which is then the only one.
func (m Machine) OwnSandbox() bool {
	return slices.ContainsFunc(m.ExtraArgs, isSandbox)
}

func isSandbox(a string) bool { return a == "-sandbox" || a == "--sandbox" }

// Unconfined says whether the user has switched the sandbox off.
func (m Machine) Unconfined() bool {
	for i, a := range m.ExtraArgs[:max(len(m.ExtraArgs)-1, 0)] {
		if isSandbox(a) && m.ExtraArgs[i+1] == "off" {
			return true
		}
	}
	return false
}

// ExtraPath is an absolute path in the extra arguments.
type ExtraPath struct {
	Path   string
	Socket bool // QEMU makes a socket there, or connects to one
}

// ExtraPaths are those of the host's: "/a,b" of "file=/a,,b,id=x".
func (m Machine) ExtraPaths() []ExtraPath {
	var paths []ExtraPath
	for i, a := range m.ExtraArgs {
		if i > 0 && strings.TrimLeft(m.ExtraArgs[i-1], "-") == "append" {
			continue // the guest's
		}
		socket := strings.Contains(a, "unix") || strings.HasPrefix(a, "socket,") || strings.Contains(a, ".path=")
		a = strings.ReplaceAll(a, ",,", "\x00")
		for _, w := range strings.FieldsFunc(a, func(r rune) bool { return r == ',' || r == '=' || r == ':' }) {
			w = strings.ReplaceAll(w, "\x00", ",")
			if strings.HasPrefix(w, "/") && strings.Trim(w, "/") != "" {
				paths = append(paths, ExtraPath{w, socket})
			}
		}
	}
	return paths
}

// Temporary says whether the extra arguments have QEMU make temporary files, in which it keeps what is not to be written to disks.
func (m Machine) Temporary() bool {
	return slices.ContainsFunc(m.ExtraArgs, func(a string) bool {
		return strings.TrimLeft(a, "-") == "snapshot" || strings.Contains(a, "snapshot=on")
	})
}
