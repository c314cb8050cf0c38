package qemu

import (
	"fmt"
	"strconv"
)

// Disk is one block device of the guest.
type Disk struct {
	ID       string // unique among the disks; letters, digits, dots, dashes and underscores, at most 25 bytes
	Path     string
	Format   string   // "qcow2" or "raw"; never guessed by QEMU
	Backing  *Backing // optional: what an overlay lies on; the header's own reference is then not followed
	Bus      Bus
	Serial   string // optional; at most 20 bytes. NVMe cannot do without
	ReadOnly bool
	CDROM    bool // a CD where the bus has such a thing
	Direct   bool // bypass the host's page cache, with native asynchronous I/O
	Device   bool // Path is a block device
	// BootIndex is the place in the order in which the firmware tries the disks, from 1 on; 0: only the first disk is booted from.
	BootIndex int
}

// Backing is the read-only image below an overlay.
type Backing struct {
	Path   string
	Format string
	Device bool // Path is a block device
}

// Most disks of a kind of place. SCSI: the targets of QEMU's virtio controller, less one.
const (
	mostPCI   = 1 + 8*functions
	mostSCSI  = 255
	mostIDE   = 4 // two channels of two units
	ahciPorts = 6
	mostAHCI  = functions * ahciPorts
)

// attachment is how a disk is attached, which is by another bus than was asked for where the machine or the bus has no such thing.
func (m Machine) attachment(d Disk) Bus {
	switch {
	case d.Bus == IDE && !m.isI440FX(): // the same disk to the guest's users, on a controller that the machine has
		return SATA
	case d.Bus == NVMe && d.CDROM:
		return SATA
	}
	return d.Bus
}

// TooManyDisks says for which buses the machine has more disks than places, in words for the user.
func (m Machine) TooManyDisks() []string {
	count := map[Bus]int{}
	for _, d := range m.Disks {
		count[m.attachment(d)]++
	}
	sata := mostAHCI
	if m.isQ35() {
		sata += ahciPorts
	}
	var problems []string
	complain := func(what string, n, most int) {
		if n > most {
			problems = append(problems, fmt.Sprintf("the machine has places for %d disks on %s, and %d are wanted there, with the main disk and the seed", most, what, n))
		}
	}
	complain("virtio and nvme together", count[VirtIO]+count[NVMe], mostPCI)
	complain("scsi", count[SCSI], mostSCSI)
	complain("sata", count[SATA], sata)
	complain("ide", count[IDE], mostIDE)
	return problems
}

func (m Machine) disks(a *args) {
	var used places
	for i, d := range m.Disks {
		if i == 0 && d.BootIndex == 0 {
			d.BootIndex = 1
		}
		place := m.place(a, &used, m.attachment(d), i == 0)
		d.blockdev(a)
		device := []kv{
			{"id", d.ID + "-dev"}, {"drive", d.ID},
			when(d.Serial != "", "serial", d.Serial),
			when(d.BootIndex != 0 && m.Kernel == nil, "bootindex", strconv.Itoa(d.BootIndex)),
		}
		if !d.ReadOnly && d.Bus != NVMe { // which tells the guest of every error
			device = append(device, onError...)
		}
		a.device(m.diskModel(d), append(device, place...)...)
	}
}

// onError is QEMU's own default, which is written down because vmentry counts on it: a write that finds no space pauses the guest, and is done
// again when it is resumed. All other errors go to the guest, which knows better than to stand still what to do about a bad sector (QEMU's
// manual, -drive werror, rerror).
var onError = []kv{{"werror", "enospc"}, {"rerror", "report"}}

// diskModel is QEMU's device for a disk.
func (m Machine) diskModel(d Disk) string {
	drive := "-hd"
	if d.CDROM {
		drive = "-cd"
	}
	switch m.attachment(d) {
	case SCSI:
		return "scsi" + drive
	case SATA, IDE:
		return "ide" + drive
	case NVMe:
		return "nvme"
	}
	return "virtio-blk-pci"
}

// places counts the disks of each kind, so that every one has its own place, and keeps it when others follow.
type places struct{ pci, scsi, sata, ide int }

// place is where the next disk on bus goes, with the controller before it if it is the first there. The first disk of all has a PCI slot of
// its own, taken or not.
func (m Machine) place(a *args, used *places, bus Bus, first bool) []kv {
	switch bus {
	case SCSI:
		if used.scsi == 0 {
			a.device("virtio-scsi-pci", append([]kv{{"id", "scsi"}}, m.pci(slotSCSI)...)...)
		}
		used.scsi++
		return []kv{{"bus", "scsi.0"}, {"scsi-id", strconv.Itoa(used.scsi - 1)}}
	case SATA:
		used.sata++
		return m.placeSATA(a, used.sata-1)
	case IDE:
		used.ide++
		return []kv{{"bus", fmt.Sprintf("ide.%d", (used.ide-1)/2)}, {"unit", strconv.Itoa((used.ide - 1) % 2)}}
	}
	if first {
		return m.pci(slotDisk)
	}
	used.pci++
	return m.function(slotDisks, used.pci-1)
}

// placeSATA is the n-th port, from 0. The first controller is the machine's own where it has one; each channel has one unit.
func (m Machine) placeSATA(a *args, n int) []kv {
	controller, port := n/ahciPorts, n%ahciPorts
	if m.isQ35() {
		if controller == 0 {
			return []kv{{"bus", fmt.Sprintf("ide.%d", port)}}
		}
		controller--
	}
	id := fmt.Sprintf("ahci%d", controller)
	if port == 0 {
		a.device("ich9-ahci", append([]kv{{"id", id}}, m.function(slotAHCI, controller)...)...)
	}
	return []kv{{"bus", fmt.Sprintf("%s.%d", id, port)}}
}

// blockdev names the whole chain by hand. An overlay's header also names its backing file, but what is
// written in a file is not what decides which file of this host is opened.
func (d Disk) blockdev(a *args) {
	if b := d.Backing; b != nil {
		// the host's page cache is shared by all guests that lie on the same base image
		a.opt("-blockdev", kv{"driver", fileDriver(b.Device)}, kv{"node-name", d.ID + "-base-file"}, kv{"filename", b.Path}, kv{"read-only", "on"})
		a.opt("-blockdev", kv{"driver", b.Format}, kv{"node-name", d.ID + "-base"}, kv{"file", d.ID + "-base-file"}, kv{"read-only", "on"})
	}
	a.opt("-blockdev", kv{"driver", fileDriver(d.Device)}, kv{"node-name", d.ID + "-file"}, kv{"filename", d.Path},
		when(d.ReadOnly, "read-only", "on"),
		when(!d.ReadOnly, "discard", "unmap"),
		when(d.Direct, "cache.direct", "on"),
		when(d.Direct, "aio", "native"))
	a.opt("-blockdev", kv{"driver", d.Format}, kv{"node-name", d.ID}, kv{"file", d.ID + "-file"},
		when(d.ReadOnly, "read-only", "on"),
		when(!d.ReadOnly, "discard", "unmap"),
		when(d.Direct, "cache.direct", "on"),
		when(d.Backing != nil, "backing", d.ID+"-base"))
}

// fileDriver is QEMU's name for what is below a format.
func fileDriver(device bool) string {
	if device {
		return "host_device"
	}
	return "file"
}
