package boot

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/disk"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/supervise"
)

// planMore plans the disks of VM_DISKS. It comes after the main disk's plan, whose files are not to be given to the guest twice.
func (p *Plan) planMore(cfg config.Config) error {
	in := disk.MoreInput{DataDir: cfg.DataDir, Taken: p.taken(), Beside: p.Beside != "", Recognise: recognise, Confine: aroundQEMUImg()}
	for _, d := range cfg.Disks {
		in.Disks = append(in.Disks, disk.More{Name: d.Name, Size: int64(d.Size), Path: d.Path, ReadOnly: d.ReadOnly, Entry: d.String()})
	}
	facts, err := disk.InspectMore(in)
	if err == nil {
		p.More, err = disk.MakeMorePlan(in, facts)
	}
	if err != nil {
		return diskFailure(err)
	}
	var mistakes config.Mistakes
	for i, d := range cfg.Disks {
		switch {
		case !d.ReadOnly:
		case d.Bus == config.BusNVMe: // QEMU takes it, and the guest believes that it can write
			mistakes = append(mistakes, config.Mistake{Variable: "VM_DISKS", Value: d.String(), Problem: "there are no read-only disks on nvme; write bus=virtio or scsi"})
		case !p.More.Disks[i].CD && (d.Bus == config.BusSATA || d.Bus == config.BusIDE): // QEMU refuses
			mistakes = append(mistakes, config.Mistake{Variable: "VM_DISKS", Value: d.String(), Problem: fmt.Sprintf(
				"there are no read-only hard disks on %s, only CDs, and this is no ISO image; write bus=virtio or scsi", d.Bus)})
		}
	}
	return wrong(mistakes)
}

// taken are the files of the main disk.
func (p *Plan) taken() []disk.Taken {
	var taken []disk.Taken
	if p.Disk.Base != nil {
		taken = append(taken, disk.Taken{Path: p.Disk.Base.Path, What: "the base image (VM_IMAGE)"})
	}
	if p.Disk.Path != "" {
		taken = append(taken, disk.Taken{Path: p.Disk.Path, What: "the guest's main disk", Written: true})
	}
	if p.Disk.NVRAM != "" {
		taken = append(taken, disk.Taken{Path: p.Disk.NVRAM, What: "the guest's UEFI variables", Written: true})
	}
	return taken
}

// checkBuses adds mistakes about what the machine cannot have.
func checkBuses(cfg config.Config, arch string, mistakes *config.Mistakes) {
	if arch == "arm64" && cfg.DiskBus == config.BusIDE {
		*mistakes = append(*mistakes, config.Mistake{Variable: "VM_DISK_BUS", Value: "ide", Problem: "arm64 machines have no IDE; write virtio, scsi, sata or nvme"})
	}
	for _, d := range cfg.Disks {
		switch {
		case arch == "arm64" && d.Bus == config.BusIDE:
			*mistakes = append(*mistakes, config.Mistake{Variable: "VM_DISKS", Value: d.String(), Problem: "arm64 machines have no IDE; write bus=virtio, scsi, sata or nvme"})
		case d.Name == mainSerial && d.Bus == config.BusNVMe && cfg.DiskBus == config.BusNVMe:
			*mistakes = append(*mistakes, config.Mistake{Variable: "VM_DISKS", Value: d.String(), Problem: "the main disk on nvme has the serial " + mainSerial + " too; write another name"})
		}
	}
}

// wantsIDE says whether a disk is to be on IDE.
func wantsIDE(cfg config.Config) bool {
	for _, d := range cfg.Disks {
		if d.Bus == config.BusIDE {
			return true
		}
	}
	return cfg.DiskBus == config.BusIDE
}

// tooManyDisks is the mistake of more disks than the machine has places for.
func tooManyDisks(m qemu.Machine) error {
	problems := m.TooManyDisks()
	if len(problems) == 0 {
		return nil
	}
	return fail(supervise.Misconfigured, "VM_DISKS: %s; write fewer, or another bus=", strings.Join(problems, "; "))
}

// moreDisks are the disks of VM_DISKS as QEMU takes them.
func (p Plan) moreDisks() []qemu.Disk {
	var disks []qemu.Disk
	for i, d := range p.More.Disks {
		bus := qemu.Bus(p.Config.Disks[i].Bus)
		disks = append(disks, qemu.Disk{
			ID: morePrefix + d.Name, Path: d.Path, Format: string(d.Format), Bus: bus, Serial: d.Name, ReadOnly: d.ReadOnly,
			CDROM: d.CD && (bus == qemu.SCSI || bus == qemu.SATA || bus == qemu.IDE), Direct: d.Cache == "none", Device: d.Device,
		})
	}
	return disks
}

// lockMore locks the files and devices of VM_DISKS. They are locked for as long as the files are open, here or in a QEMU that has inherited them.
func (p Plan) lockMore(ctx context.Context) (files []*os.File, unlock func(), err error) {
	locks, err := p.More.Lock(ctx, lockHolder(), disk.LockWait)
	for _, l := range locks {
		files = append(files, l.File())
	}
	return files, func() {
		for _, l := range locks {
			l.Close()
		}
	}, stopped(ctx, diskFailure(err))
}

// applyMore prepares the disks of VM_DISKS in the data directory, which is locked.
func (p Plan) applyMore(ctx context.Context, lock *disk.Lock, reports disk.Reports, log *slog.Logger) error {
	for _, s := range p.More.Steps {
		log.Info("disk: " + s.Text)
	}
	return diskFailure(p.More.Apply(ctx, lock, reports))
}
