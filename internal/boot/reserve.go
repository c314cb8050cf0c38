package boot

import (
	"fmt"
	"strings"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/qemu"
)

const (
	defaultMemory = 4 << 30
	leastMemory   = 64 << 20 // below this no system boots
)

// chooseMemory chooses the guest's memory so that it can use all of it, and the container stays within its limit.
func (s *settings) chooseMemory(cfg config.Config, host Host, mistakes *config.Mistakes) {
	limit := host.Limits.Memory
	beside, who := besideGuest(cfg)
	most := qemu.MemoryWithin(s.accel, max(limit-beside, 0), s.cpus)
	need := func(memory int64) config.Bytes {
		return config.Bytes(qemu.Overhead(s.accel, memory, s.cpus) + beside)
	}
	switch {
	case mistakes.Has("VM_MEMORY"):
	case cfg.Memory > 0:
		s.memory = int64(cfg.Memory)
		s.note("memory", cfg.Memory.String(), "VM_MEMORY")
		if limit > 0 && s.memory > most {
			*mistakes = append(*mistakes, config.Mistake{Variable: "VM_MEMORY", Value: cfg.Memory.String(), Problem: fmt.Sprintf(
				"the container's memory limit is %s, of which %s must be left for %s: it would be killed when the guest uses its memory; at most %s, or raise the limit",
				config.Bytes(limit), need(s.memory), who, config.Bytes(most))})
		}
	case limit > 0 && most < leastMemory:
		*mistakes = append(*mistakes, config.Mistake{Variable: "VM_MEMORY", Problem: fmt.Sprintf(
			"the container's memory limit of %s leaves %s for the guest, which is too little; raise the limit to %s at least",
			config.Bytes(limit), config.Bytes(most), config.Bytes(leastMemory)+need(leastMemory))})
	case limit > 0 && most < defaultMemory:
		s.memory = most
		s.note("memory", config.Bytes(most).String(), fmt.Sprintf("the container's limit of %s, less %s for %s", config.Bytes(limit), need(most), who))
	default:
		s.memory = defaultMemory
		s.note("memory", config.Bytes(s.memory).String(), "the default")
	}
}

// besideGuest is the memory that what the user has chosen takes of the container's limit, in bytes, beside the guest and what every QEMU
// needs; and whose it is.
func besideGuest(cfg config.Config) (need int64, who string) {
	need = tableMemory(cfg)
	if cfg.Display == config.DisplayVNC {
		need += screenMemory
	}
	all := []string{"QEMU"}
	if passt := passtMemory(cfg); passt > 0 {
		need, all = need+passt, append(all, "passt")
	}
	if volumes := volumeMemory(cfg); volumes > 0 {
		need, all = need+volumes, append(all, "virtiofsd")
	}
	if cfg.TPM {
		need, all = need+swtpmMemory, append(all, "swtpm")
	}
	if len(all) == 1 {
		return need, "QEMU itself"
	}
	last := len(all) - 1
	return need, strings.Join(all[:last], ", ") + " and " + all[last]
}

// screenMemory is for the memory of the graphics card (16 MiB), VNC's copy of what is shown, and what is on its way to those who look on.
const screenMemory = 64 << 20

// Of a qcow2 disk's tables QEMU keeps in memory what was used, eight bytes for every cluster of 64 KiB, up to a limit (QEMU's docs/qcow2-cache.txt).
const (
	diskPerTable = 64 << 10 / 8
	mostTables   = 32 << 20
)

// tableMemory is what the tables of all disks take at most, in bytes. How large a file of the user's is and whether it is qcow2 is not
// looked at here: it is taken for a large one.
func tableMemory(cfg config.Config) int64 {
	tables := func(size config.Bytes) int64 { return min(int64(size)/diskPerTable, mostTables) }
	need := 2 * tables(cfg.DiskSize) // the overlay's and its base image's
	for _, d := range cfg.Disks {
		if d.Size > 0 {
			need += tables(d.Size)
		} else {
			need += mostTables
		}
	}
	return need
}
