package config

import (
	"errors"
	"fmt"
	"path"
	"strings"
)

// maxSerial is the longest serial, in bytes, that QEMU gives to a virtio disk. It cuts longer ones silently.
const maxSerial = 20

const diskHelp = "write [name=]SOURCE[:bus=BUS][:ro], with a size or a path as SOURCE"

var (
	// diskName is what can be a serial in the guest and part of a file's name in the data directory.
	diskName = pattern(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

	// diskOption is the end of an entry that can only be meant as an option. What else follows a colon belongs to the
	// path: /dev/disk/by-path is full of them.
	diskOption = pattern(`:([a-z]+(?:=[^:/]*)?)$`)
)

// Disk is one entry of VM_DISKS. Either Size or Path is set.
type Disk struct {
	Name     string // the serial that the guest sees, at most 20 bytes
	Size     Bytes  // of a disk that is made in the data directory, a multiple of 512
	Path     string // a file or a block device
	Bus      Bus
	ReadOnly bool
}

// String is the entry as it can be written in VM_DISKS, with nothing left out.
func (d Disk) String() string {
	source := d.Path
	if source == "" {
		source = d.Size.String()
	}
	entry := d.Name + "=" + source + ":bus=" + string(d.Bus)
	if d.ReadOnly {
		entry += ":ro"
	}
	return entry
}

// parseDisks reads VM_DISKS. With an error it gives the entries that are right. A disk without a name is called after its
// place in the list, so that it keeps its data as long as the disks before it stay.
func parseDisks(s string) ([]Disk, error) {
	if isNone(s) {
		return nil, nil
	}
	var disks []Disk
	var errs []error
	for i, entry := range strings.Split(s, ",") {
		entry = strings.TrimSpace(entry)
		d, err := parseDisk(entry, fmt.Sprintf("disk%d", i+1))
		if err == nil {
			err = besides(disks, d)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", entry, err))
			continue
		}
		disks = append(disks, d)
	}
	return disks, errors.Join(errs...)
}

func parseDisk(s, defaultName string) (Disk, error) {
	d := Disk{Name: defaultName, Bus: BusVirtio}
	source, err := d.takeOptions(s)
	if err != nil {
		return Disk{}, err
	}
	if name, rest, found := strings.Cut(source, "="); found && !strings.ContainsAny(name, "/:") {
		d.Name, source = name, rest
	}
	if err := checkDiskName(d.Name); err != nil {
		return Disk{}, err
	}
	source = strings.TrimSpace(source)
	if strings.Contains(source, "://") {
		return Disk{}, errors.New("a URL cannot be a disk; write a size or a path")
	}
	if strings.Contains(source, "/") {
		d.Path, err = parsePath(source)
		return d, err
	}
	if d.Size, err = diskSize(source); errors.Is(err, errNotSize) {
		return Disk{}, fmt.Errorf("%q is neither a size nor a path; %s (a path has a slash)", source, diskHelp)
	}
	if err == nil && d.ReadOnly {
		return Disk{}, errors.New("a new disk is empty, so that ro makes no sense; leave it out")
	}
	return d, err
}

// takeOptions cuts the options off the end of an entry and gives what is left.
func (d *Disk) takeOptions(s string) (string, error) {
	var bus, ro bool
	for {
		m := diskOption().FindStringSubmatch(s)
		if m == nil {
			return s, nil
		}
		s = strings.TrimSpace(strings.TrimSuffix(s, m[0]))
		name, value, hasValue := strings.Cut(m[1], "=")
		switch {
		case name == "ro" && !hasValue && !ro:
			d.ReadOnly, ro = true, true
		case name == "bus" && hasValue && !bus:
			parsed, err := parseBus(value)
			if err != nil {
				return "", fmt.Errorf("bus %q: %w", value, err)
			}
			d.Bus, bus = parsed, true
		default:
			return "", fmt.Errorf("option %q is unknown or there twice; %s", m[1], diskHelp)
		}
	}
}

func checkDiskName(name string) error {
	if len(name) > maxSerial {
		return fmt.Errorf("the name has %d bytes; at most %d", len(name), maxSerial)
	}
	if !diskName().MatchString(name) {
		return fmt.Errorf("%q is not a disk's name; write letters, digits, dots, hyphens and underscores", name)
	}
	return nil
}

// besides tells why d cannot be attached together with the others.
func besides(others []Disk, d Disk) error {
	for _, other := range others {
		if d.Name == other.Name {
			return fmt.Errorf("another disk is called %s too; give each a name of its own", d.Name)
		}
		if d.Path != "" && path.Clean(d.Path) == path.Clean(other.Path) && !(d.ReadOnly && other.ReadOnly) {
			return fmt.Errorf("%s has the same file; that needs :ro on both", other.Name)
		}
	}
	return nil
}
