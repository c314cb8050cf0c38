// Package tpm gives the guest a TPM 2.0: a swtpm (https://github.com/stefanberger/swtpm) that runs beside QEMU. [Find] looks at the program,
// [MakePlan] is pure, and [Plan.Prepare] and [Plan.Listen] make what swtpm is started with.
//
// What a guest has sealed with its TPM is worth no more than the TPM's state. swtpm writes that under another name and renames it, so it is
// whole whenever swtpm is killed. It is locked together with the data directory: swtpm inherits that lock, and keeps it as long as it lives.
package tpm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
)

// Socket is the name in the run directory of what swtpm listens on for QEMU.
const Socket = "tpm.sock"

// Program is the swtpm that is installed.
type Program struct {
	Path    string
	Version string // "0.7.1"
}

// Input is what a plan is made from.
type Input struct {
	State  string // directory of the TPM's state
	RunDir string
	Swtpm  Program
	// Confine gives the command by which another is run that reaches these files alone, to be read or to be written too. Nil: there is
	// nothing to shut it in with.
	Confine  func(read, write, command []string) []string
	Landlock bool // the kernel has what keeps it to these files
}

// Plan is how the guest gets its TPM.
type Plan struct {
	Swtpm    Program
	State    string   // the directory
	Socket   string   // where swtpm listens for QEMU
	Command  []string // the program first; it finds the listening socket at descriptor 3
	Confined bool     // it can write its state and nothing else

	unsupervised []string
}

var (
	// ErrNotInstalled: there is no swtpm.
	ErrNotInstalled = errors.New("VM_TPM: swtpm is not installed in this image; install it (the package swtpm), or leave VM_TPM out")
	// ErrNoTPM2: swtpm is there, and cannot be what is needed.
	ErrNoTPM2 = errors.New("VM_TPM: the swtpm of this image has no TPM 2.0; install another (the package swtpm of Debian 12 or later), or leave VM_TPM out")
)

// Find finds swtpm, and asks it what it can do.
func Find(ctx context.Context, environ []string) (Program, error) {
	path, err := exec.LookPath("swtpm")
	if err != nil {
		return Program{}, ErrNotInstalled
	}
	if path, err = filepath.Abs(path); err != nil {
		return Program{}, err
	}
	cmd := exec.CommandContext(ctx, path, "socket", "--tpm2", "--print-capabilities")
	cmd.Env = environ
	out, err := cmd.Output()
	if err != nil {
		return Program{}, fmt.Errorf("VM_TPM: %s does not say what it can do: %w", path, err)
	}
	version, err := version(out)
	return Program{path, version}, err
}

// version reads what swtpm says of itself (swtpm(8), --print-capabilities). An old one says neither its version nor which TPMs it has.
func version(capabilities []byte) (string, error) {
	var can struct {
		Features []string
		Version  string
	}
	if json.Unmarshal(capabilities, &can) != nil || can.Version == "" || !slices.Contains(can.Features, "tpm-2.0") {
		return "", ErrNoTPM2
	}
	return can.Version, nil
}

// MakePlan makes the plan.
func MakePlan(in Input) Plan {
	p := Plan{Swtpm: in.Swtpm, State: in.State, Socket: filepath.Join(in.RunDir, Socket), Confined: in.Confine != nil && in.Landlock}
	p.Command = in.command("fd=3")
	if in.Confine != nil {
		p.Command = in.Confine(nil, []string{in.State}, p.Command)
	}
	p.unsupervised = in.command("path=" + p.Socket)
	return p
}

// command is swtpm's, for a control channel that is given or that it makes. It ends when QEMU lets go of that.
func (in Input) command(channel string) []string {
	return []string{in.Swtpm.Path, "socket", "--tpm2", "--tpmstate", "dir=" + in.State + ",mode=0600", "--ctrl", "type=unixio," + channel, "--terminate"}
}

// Wanted says whether the guest is to have one.
func (p Plan) Wanted() bool { return p.Socket != "" }

// Lines prints the plan for people.
func (p Plan) Lines() []string {
	around := "with its seccomp filter alone"
	if p.Confined {
		around = "shut in by Landlock"
	}
	return []string{"state   " + p.State, fmt.Sprintf("swtpm %s, %s", p.Swtpm.Version, around)}
}

// Unsupervised is the command for a shell, where swtpm makes its socket itself.
func (p Plan) Unsupervised() []string { return p.unsupervised }

// Prepare makes the directory of the state, in a data directory that is there and locked. swtpm itself makes a TPM where there is no state.
func (p Plan) Prepare() error {
	if err := os.Mkdir(p.State, 0o700); err != nil && !os.IsExist(err) {
		return err
	}
	parent, err := os.Open(filepath.Dir(p.State))
	if err != nil {
		return err
	}
	defer parent.Close()
	parent.Sync() // not every file system can, and those that cannot have nothing to lose
	return nil
}

// Listen makes the socket that swtpm serves, in place of one that an earlier start has left. Because it listens from then on, QEMU need not
// wait for swtpm.
func (p Plan) Listen() (*os.File, error) {
	if err := os.Remove(p.Socket); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.Socket, Net: "unix"})
	if err != nil {
		return nil, err
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	if err := os.Chmod(p.Socket, 0o600); err != nil {
		return nil, err
	}
	return l.File()
}
