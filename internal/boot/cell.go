package boot

import (
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/vmentry/vmentry/internal/confine"
	"github.com/vmentry/vmentry/internal/network"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/supervise"
)

// Cell is what QEMU is shut into, and why it is not a narrower one.
type Cell struct {
	confine.Cell
	Open bool // the user has asked for a QEMU with all of vmentry's rights
	Why  string
}

// numbersOfUsers are those from which the user that QEMU gets comes. Each VM has one of its own, so that QEMUs do not share one where containers' users are
// the node's. The first are nobody's: neither Debian and systemd (Debian Policy, 9.2.2; systemd's "Users, Groups, UIDs and GIDs") nor useradd give
// them to users, and to containers only those from 100000 on (subuid(5)). A user namespace has seldom more than 65536 numbers; these are nobody's but its own,
// and systemd leaves the second ones free there.
var numbersOfUsers = []struct{ first, count int }{{65536, 34464}, {60578, 606}}

// rightsForUser are the capabilities by which QEMU can be given a user of its own, and dealt with then. They are in the runtimes' default set.
var rightsForUser = []int{unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_CHOWN, unix.CAP_KILL, unix.CAP_DAC_OVERRIDE}

// whatQEMUReads are files of the container that QEMU and its libraries read by themselves: names and addresses, the clock, the machine.
var whatQEMUReads = []string{
	"/etc/resolv.conf", "/etc/hosts", "/etc/host.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services", "/etc/localtime", "/etc/ld.so.conf",
	"/proc", "/sys", "/dev/urandom", "/dev/random", "/dev/zero",
}

// planCell chooses the narrowest cell in which QEMU can do its work.
func (p *Plan) planCell() Cell {
	m := p.Machine
	if m.Unconfined() {
		return Cell{Open: true, Why: "VM_ARGS has -sandbox off"}
	}
	var cell confine.Cell
	read, write := p.qemuFiles()
	made, sockets := p.missing()
	if confine.Landlock() > 0 {
		cell.Read = append(read[:len(read):len(read)], whatQEMUReads...)
		cell.Write = append(write[:len(write):len(write)], p.file(qemuDir), os.DevNull)
		cell.Write = slices.Concat(cell.Write, p.qemuSockets(), made)
		cell.Sockets = sockets
		// what the extra arguments want of the network is not known
		cell.NoNetwork = p.Network.Mode != network.User && len(m.ExtraArgs) == 0
	}
	cell.Strip = true
	if p.wantsLowPort() {
		cell.Keep = confine.Has(unix.CAP_NET_BIND_SERVICE)
	}
	write = append(write, sockets...)
	enter := []string{existing(p.Config.RunDir)}
	for _, path := range made {
		enter = append(enter, filepath.Dir(path))
	}
	why := "vmentry is not root here"
	if os.Geteuid() == 0 {
		why = "the container has not all of the capabilities SETUID, SETGID, CHOWN, KILL and DAC_OVERRIDE"
		if len(confine.Has(rightsForUser...)) == len(rightsForUser) {
			for _, numbers := range numbersOfUsers {
				own := cell
				own.User = p.qemuUser(numbers.first, numbers.count)
				err := own.Try(read, write, enter)
				if err == nil {
					return Cell{Cell: own, Why: "the container may change users"}
				}
				why = "a user of its own could not do its work: " + err.Error()
				if !errors.Is(err, unix.EINVAL) { // the namespace has the number
					break
				}
			}
		}
	}
	if err := cell.Try(read, write, enter); errors.Is(err, fs.ErrPermission) {
		cell.Keep = append(cell.Keep, confine.Has(unix.CAP_DAC_OVERRIDE)...)
		why += "; nor could one without capabilities: " + err.Error()
	}
	return Cell{Cell: cell, Why: why}
}

// String says it in words.
func (c Cell) String() string {
	if c.Open {
		return "with all of vmentry's rights: " + c.Why
	}
	user := "as vmentry's own user"
	if c.User != nil {
		user = fmt.Sprintf("as user %d", c.User.UID)
	}
	rights := "no capability"
	if len(c.Keep) > 0 {
		words := make([]string, len(c.Keep))
		for i, n := range c.Keep {
			words[i] = map[int]string{unix.CAP_NET_BIND_SERVICE: "NET_BIND_SERVICE", unix.CAP_DAC_OVERRIDE: "DAC_OVERRIDE"}[n]
		}
		rights = strings.Join(words, ", ")
	}
	around := "not shut in by Landlock, which this kernel has not"
	if v := confine.Landlock(); v > 0 {
		around = fmt.Sprintf("shut in by Landlock (version %d)", v)
	}
	return fmt.Sprintf("%s, with %s, %s: %s", user, rights, around, c.Why)
}

// qemuUser is the user that QEMU gets, of so many.
func (p *Plan) qemuUser(first, count int) *confine.User {
	sum := fnv.New32()
	sum.Write([]byte(p.Identity))
	id := first + int(sum.Sum32()%uint32(count))
	u := &confine.User{UID: id, GID: id}
	if info, err := os.Stat(kvmDevice); p.Machine.Accel == qemu.KVM && err == nil && info.Mode()&0o060 == 0o060 {
		u.Groups = append(u.Groups, int(info.Sys().(*syscall.Stat_t).Gid))
	}
	return u
}

const kvmDevice = "/dev/kvm"

// qemuFiles are the files that QEMU opens by name. Those of its disks are opened for it.
func (p *Plan) qemuFiles() (read, write []string) {
	m := p.Machine
	read = append(read, p.QEMU.Path)
	if f := m.Firmware; f != nil {
		read = append(read, f.Code)
	}
	if k := m.Kernel; k != nil {
		read = append(read, k.Image)
		if k.Initrd != "" {
			read = append(read, k.Initrd)
		}
	}
	if m.Accel == qemu.KVM {
		write = append(write, kvmDevice)
	}
	for _, e := range m.ExtraPaths() {
		switch _, err := os.Lstat(e.Path); {
		case err != nil: // see missing
		case unix.Access(e.Path, unix.W_OK) == nil:
			write = append(write, e.Path)
		default:
			read = append(read, e.Path)
		}
	}
	if m.Temporary() {
		write = append(write, existing("/var/tmp"))
	}
	return read, write
}

// missing are the files of the extra arguments that are not there: vmentry makes them, so that QEMU needs no right to do so. It has to make its sockets
// itself, so for those it is the directories. Where there is no directory QEMU can make nothing.
func (p *Plan) missing() (files, directories []string) {
	for _, e := range p.Machine.ExtraPaths() {
		dir := filepath.Dir(e.Path)
		if info, err := os.Stat(dir); err != nil || !info.IsDir() {
			continue
		}
		switch _, err := os.Lstat(e.Path); {
		case err == nil:
		case e.Socket:
			directories = append(directories, dir)
		default:
			files = append(files, e.Path)
		}
	}
	return files, directories
}

// makeMissing makes the files that QEMU is to find.
func (p *Plan) makeMissing() error {
	files, _ := p.missing()
	for _, path := range files {
		f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if errors.Is(err, fs.ErrExist) { // it is named twice
			continue
		}
		if err != nil {
			return err
		}
		if u := p.Cell.User; u != nil {
			err = f.Chown(u.UID, u.GID)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	}
	return nil
}

// qemuSockets are those of others in the run directory that QEMU connects to, and its files there.
func (p *Plan) qemuSockets() []string {
	var all []string
	for _, n := range p.Network.NICs {
		if n.Socket != "" {
			all = append(all, n.Socket)
		}
	}
	for _, v := range p.Volumes.Shares {
		all = append(all, v.Socket)
	}
	if p.TPM.Wanted() {
		all = append(all, p.TPM.Socket)
	}
	for _, f := range p.Machine.FWCfg {
		all = append(all, f.Path)
	}
	return all
}

// existing is path, or the nearest directory above it that is there.
func existing(path string) string {
	for path != "/" {
		if _, err := os.Stat(path); err == nil {
			break
		}
		path = filepath.Dir(path)
	}
	return path
}

// wantsLowPort says whether QEMU is to bind a port that takes the capability NET_BIND_SERVICE.
func (p *Plan) wantsLowPort() bool {
	first := 1024
	if text, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(text))); err == nil {
			first = n
		}
	}
	for _, n := range p.Machine.NICs {
		if n.User == nil {
			continue
		}
		for _, f := range n.User.Forwards {
			if int(f.HostPort) < first {
				return true
			}
		}
	}
	return false
}

// readyQEMU opens QEMU's disks for it, gives it what it has to have in the run directory, and returns the machine as QEMU will find it. hand says
// at which descriptor QEMU will find a file.
func (p Plan) readyQEMU(hand func(*os.File) (int, error)) (confine.Cell, qemu.Machine, error) {
	cell := p.Cell.Cell
	if p.Cell.Open {
		return cell, p.Machine, nil
	}
	if err := p.giveToQEMU(); err != nil {
		return cell, p.Machine, fail(supervise.IOError, "the run directory cannot be given to QEMU: %w", err)
	}
	if err := p.makeMissing(); err != nil {
		return cell, p.Machine, fail(supervise.IOError, "VM_ARGS: a file cannot be made for QEMU: %w", err)
	}
	m, err := p.Machine.HandOver(func(path string, flags int) (int, error) {
		f, err := os.OpenFile(path, flags, 0)
		if err != nil {
			return 0, err
		}
		return hand(f)
	})
	if err != nil {
		return cell, m, fail(supervise.IOError, "QEMU's disk cannot be opened: %w", err)
	}
	return cell, m, nil
}

// giveToQEMU makes QEMU's user the owner of what is QEMU's in the run directory.
func (p Plan) giveToQEMU() error {
	u := p.Cell.User
	if u == nil {
		return nil
	}
	info, err := os.Stat(p.Config.RunDir)
	if err != nil {
		return err
	}
	if info.Mode()&0o001 == 0 { // who knows a name in it may go there, and no more
		if err := os.Chmod(p.Config.RunDir, info.Mode()|0o011); err != nil {
			return err
		}
	}
	for _, path := range append(p.qemuSockets(), p.file(qemuDir)) {
		if err := os.Lchown(path, u.UID, u.GID); err != nil {
			return err
		}
	}
	return nil
}

// command is QEMU's, shut into its cell: for a vmentry whose place it takes.
func (p Plan) command(cell confine.Cell, m qemu.Machine) ([]string, error) {
	command := append([]string{p.QEMU.Path}, m.Args()...)
	if p.Cell.Open {
		return command, nil
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fail(supervise.Software, "QEMU could not be started: %w", err)
	}
	return cell.Around(self, command), nil
}

// startQEMU starts QEMU. It inherits the files of keep, as the descriptors from firstFD on.
func (p Plan) startQEMU(reaper *supervise.Reaper, keep []*os.File, stderr *os.File, log *slog.Logger) (*supervise.Process, error) {
	files := keep[:len(keep):len(keep)]
	defer func() {
		for _, f := range files[len(keep):] {
			f.Close()
		}
	}()
	hand := func(f *os.File) (int, error) {
		files = append(files, f)
		return firstFD + len(files) - 1, nil
	}
	cell, machine, err := p.readyQEMU(hand)
	if err != nil {
		return nil, err
	}
	command := supervise.Command{Path: p.QEMU.Path, Args: machine.Args(), Env: p.Environ, Stderr: stderr, Files: files, Last: syscall.SIGTERM}
	guard := p.guard()
	if !p.Cell.Open {
		cell.Guard = guard
		command.Within = func(fork func(*syscall.SysProcAttr), ended <-chan struct{}) error {
			return cell.Start(p.QEMU.Path, fork, ended)
		}
	}
	if p.givesUpFirst() {
		p.giveUp(log)
	}
	process, err := reaper.Start(command)
	if err != nil {
		return nil, fail(supervise.Software, "QEMU could not be started: %w", err)
	}
	if guard != nil {
		post(guard, log)
	}
	return process, nil
}

// givesUpFirst says whether vmentry gives up what it needs no longer before QEMU is started, and not after. A QEMU without a user of its own is
// made by a thread that has less than vmentry keeps, and what all threads give up must be had by all; one with its own cannot be made without
// the right to change users.
func (p Plan) givesUpFirst() bool { return p.Cell.User == nil && !p.Cell.Open }

// giveUp gives up what vmentry itself needs no longer once QEMU runs.
func (p Plan) giveUp(log *slog.Logger) {
	keep := append(confine.Has(unix.CAP_KILL, unix.CAP_DAC_OVERRIDE), p.Cell.Keep...)
	if len(p.Network.Bridges) > 0 {
		keep = append(keep, unix.CAP_NET_ADMIN)
	}
	if err := confine.GiveUp(keep); err != nil {
		log.Warn("vmentry keeps all the rights that it was started with", "error", err)
	}
}
