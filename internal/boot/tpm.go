package boot

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/confine"
	"github.com/vmentry/vmentry/internal/disk"
	"github.com/vmentry/vmentry/internal/supervise"
	"github.com/vmentry/vmentry/internal/tpm"
)

// swtpmMemory is what swtpm takes of the container's limit, in bytes.
const swtpmMemory = 16 << 20

// planTPM plans the guest's TPM, if it is to have one.
func planTPM(ctx context.Context, cfg config.Config) (tpm.Plan, error) {
	if !cfg.TPM {
		return tpm.Plan{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	program, err := tpm.Find(ctx, environForOthers(cfg))
	if err != nil {
		return tpm.Plan{}, fail(supervise.Unavailable, "%w", err)
	}
	in := tpm.Input{State: filepath.Join(cfg.DataDir, disk.TPMName), RunDir: cfg.RunDir, Swtpm: program, Landlock: confine.Landlock() > 0}
	if self, err := os.Executable(); err == nil {
		in.Confine = around(self, forFiles())
	}
	return tpm.MakePlan(in), nil
}

// prepareTPM makes the directory of the TPM's state, which is beside the disk's and locked with it.
func (p Plan) prepareTPM() error {
	if !p.TPM.Wanted() {
		return nil
	}
	if err := p.TPM.Prepare(); err != nil {
		return fail(supervise.IOError, "the TPM's state cannot be kept: %w", err)
	}
	return nil
}

// swtpmBeside is the swtpm of the guest's TPM, with the socket that it listens on. It inherits the lock of the data directory: one that outlives
// a vmentry that was killed must not write the state that the next start's reads. It ends when QEMU lets go of it.
func swtpmBeside(p tpm.Plan, lock *disk.Lock) (beside, error) {
	socket, err := p.Listen()
	if err != nil {
		return beside{}, fail(supervise.IOError, "VM_TPM: the TPM's socket cannot be made: %w", err)
	}
	held, err := duplicate(lock.File())
	if err != nil {
		socket.Close()
		return beside{}, fail(supervise.IOError, "VM_TPM: the lock of the data directory cannot be handed over: %w", err)
	}
	return beside{name: "swtpm", path: p.Command[0], args: p.Command[1:], files: []*os.File{socket, held}, greets: slog.LevelWarn}, nil
}

// duplicate is another descriptor of the same open file.
func duplicate(f *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), f.Name()), nil
}
