package config

import (
	"errors"
	"fmt"
	"path"
	"strings"
	"unicode"
)

// maxTag is the longest tag, in bytes, that virtio-fs has room for (virtio 1.2, 5.11.4).
const maxTag = 36

// maxVolumes is how many a guest can have: the functions of one PCI slot.
const maxVolumes = 8

const volumeHelp = "write tag=/path[@/guest/path][:ro]"

var volumeTag = pattern(`^[A-Za-z0-9][A-Za-z0-9._-]*$`)

// Volume is one entry of VM_VOLUMES: a directory of the pod in the guest.
type Volume struct {
	Tag       string // what the guest mounts it by, at most 36 bytes
	Path      string // in the container, absolute and clean
	GuestPath string // where the guest mounts it, absolute and clean; "": the guest mounts it itself
	ReadOnly  bool
}

// String is the entry as it can be written in VM_VOLUMES.
func (v Volume) String() string {
	entry := v.Tag + "=" + v.Path
	if v.GuestPath != "" {
		entry += "@" + v.GuestPath
	}
	if v.ReadOnly {
		entry += ":ro"
	}
	return entry
}

// parseVolumes reads VM_VOLUMES. With an error it gives the entries that are right.
func parseVolumes(s string) ([]Volume, error) {
	if isNone(s) {
		return nil, nil
	}
	var volumes []Volume
	var errs []error
	for entry := range strings.SplitSeq(s, ",") {
		entry = strings.TrimSpace(entry)
		v, err := parseVolume(entry)
		for _, other := range volumes {
			switch {
			case err != nil:
			case len(volumes) == maxVolumes:
				err = fmt.Errorf("one too many: a guest has at most %d volumes; share a directory that holds several", maxVolumes)
			case v.Tag == other.Tag:
				err = fmt.Errorf("another volume has the tag %s too; give each a tag of its own", v.Tag)
			case v.GuestPath != "" && v.GuestPath == other.GuestPath:
				err = fmt.Errorf("%s is mounted at %s too; give each a place of its own", other.Tag, v.GuestPath)
			}
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", entry, err))
			continue
		}
		volumes = append(volumes, v)
	}
	return volumes, errors.Join(errs...)
}

func parseVolume(s string) (Volume, error) {
	tag, rest, found := strings.Cut(s, "=")
	if !found {
		return Volume{}, errors.New("not a volume; " + volumeHelp)
	}
	if len(tag) > maxTag || !volumeTag().MatchString(tag) {
		return Volume{}, fmt.Errorf("%q is not a tag; write letters, digits, dots, hyphens and underscores, at most %d bytes", tag, maxTag)
	}
	v := Volume{Tag: tag}
	rest, v.ReadOnly = strings.CutSuffix(rest, ":ro")
	source, guest, hasGuest := cutLast(rest, "@/")
	if !path.IsAbs(source) {
		return Volume{}, fmt.Errorf("%q is not an absolute path; %s", source, volumeHelp)
	}
	v.Path = path.Clean(source)
	if hasGuest {
		v.GuestPath = path.Clean("/" + guest)
	}
	if err := checkGuestPath(v.GuestPath); err != nil {
		return Volume{}, err
	}
	for _, dir := range []string{v.Path, v.GuestPath} {
		if strings.TrimSpace(dir) != dir || strings.HasSuffix(dir, ":ro") {
			return Volume{}, fmt.Errorf("%q cannot be told from a path with an option or a blank after it; rename it", dir)
		}
	}
	return v, nil
}

// checkGuestPath refuses what no guest can mount at. White space and backslashes are what an fstab has to spell in another way.
func checkGuestPath(guest string) error {
	if guest == "/" {
		return errors.New("a volume cannot be the guest's root directory; " + volumeHelp)
	}
	if strings.ContainsFunc(guest, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) || r == '\\' }) {
		return fmt.Errorf("%q cannot be a guest's mount point, because of a blank, control character or backslash in it; write another", guest)
	}
	for _, kernel := range []string{"/proc", "/sys", "/dev"} {
		if guest == kernel || strings.HasPrefix(guest, kernel+"/") {
			return fmt.Errorf("%s is the guest's kernel's; mount the volume elsewhere", guest)
		}
	}
	return nil
}
