package disk

import (
	"fmt"
	"strings"
)

// refuseMode refuses to leave a disk unused that a guest has written to. What an overlay or a copy holds can become neither the
// other way round nor the image's own content without somebody's decision about what is given up.
func (p *Plan) refuseMode(have *GuestDisk) error {
	if have == nil || have.Record.mode() == p.Mode {
		return nil
	}
	dir := paths{p.Input.DataDir}.disk()
	op := "use VM_DISK_MODE=" + string(p.Mode)
	switch {
	case have.Record.mode() == ModeCopy:
		return configError(op, fmt.Sprintf("set VM_DISK_MODE=copy to go on with it, or move %s aside to start afresh", dir),
			"what the guest wrote is in a full copy, %s", have.Path)
	case p.Mode == ModeDirect:
		return configError(op, fmt.Sprintf("set VM_DISK_MODE=overlay to go on with it, or copy to make one disk of it and the image, or move %s aside to start from the image as it is", dir),
			"what the guest wrote is in the overlay %s, which is worth nothing once its base image is written to", have.Path)
	}
	return nil // an overlay becomes a copy
}

// planCopy plans a full copy of the image, or of the overlay that is there with its image.
func (p *Plan) planCopy(f Facts) error {
	p.Path, p.Format = paths{f.DataDir}.copy(), FormatQCOW2
	p.useCache(f.Place.Direct)
	if f.Disk != nil && f.Disk.Record.mode() == ModeCopy {
		return p.planExistingCopy(f)
	}
	size, err := wantedSize(p.Input, f.Base.Identity.VirtualSize)
	if err != nil {
		return err
	}
	p.Size = size
	base := layer(f.Base.Identity.Format, rawFile(f.Base.Path, f.Base.Device), nil)
	p.source = source{base, []string{f.Base.Path}, f.Base.Path, f.Base.Identity.VirtualSize}
	if f.Disk == nil {
		p.Steps = append(p.Steps, p.copyStep(ActionCopy, fmt.Sprintf("copy %s to %s, a disk of %s", f.Base.Path, p.Path, sizeText(p.Size))))
		return nil
	}
	same, err := p.planSameBase(f.Disk)
	if err != nil {
		return err
	}
	if !same {
		p.recreate(f)
		return nil
	}
	return p.planMerge(f, base)
}

func (p *Plan) planExistingCopy(f Facts) error {
	if err := p.usable(f.Disk); err != nil {
		return err
	}
	if p.Input.Recreate {
		p.Warnings = append(p.Warnings, "VM_DISK_ON_NEW_IMAGE=recreate does nothing here: a copy does not look at the image again; to start afresh move "+
			paths{p.Input.DataDir}.disk()+" aside")
	}
	size := p.Input.Size
	if _, err := wantedSize(Input{Size: size}, 0); err != nil {
		return err
	}
	p.planCheck(f.Unclean, f.Disk.Dirty)
	p.planGrowth(f.Disk.VirtualSize, roundUp(size))
	return nil
}

// planMerge makes one disk of the overlay and its base image.
func (p *Plan) planMerge(f Facts, base node) error {
	if n := f.Disk.Snapshots; n > 0 {
		return configError("use VM_DISK_MODE=copy", "set VM_DISK_MODE=overlay to go on with it, or delete them first (qemu-img snapshot -l, -d)",
			"the overlay %s has %d snapshots, which a copy of it would not have", f.Disk.Path, n)
	}
	target := *p
	target.Path = f.Disk.Path
	target.planCheck(f.Unclean, f.Disk.Dirty)
	p.Steps, p.dirty = target.Steps, target.dirty
	p.source = source{layer(FormatQCOW2, rawFile(f.Disk.Path, false), base), []string{f.Disk.Path, f.Base.Path}, f.Disk.Path + " with " + f.Base.Path, f.Disk.VirtualSize}
	p.Size = max(p.Size, f.Disk.VirtualSize)
	p.Steps = append(p.Steps, p.copyStep(ActionMerge, fmt.Sprintf("copy %s with its base image %s to %s, a disk of %s, and keep the overlay aside as %s",
		f.Disk.Path, f.Base.Path, p.Path, sizeText(p.Size), p.kept())))
	return nil
}

// recreate plans a new disk in the place of an overlay whose base image is gone.
func (p *Plan) recreate(f Facts) {
	text := fmt.Sprintf("start afresh from %s, because the guest's disk was made from another image (%s): a new disk %s of %s; the old one is kept aside as %s",
		p.Base.Path, f.Disk.Record.Path, p.Path, sizeText(p.Size), p.kept())
	if p.Mode == ModeCopy {
		p.Steps = append(p.Steps, p.copyStep(ActionRenew, text))
		return
	}
	places := paths{p.Input.DataDir}
	s := p.createStep()
	s.Action, s.Text, s.Commands = ActionRenew, text, append([][]string{setAside(places.disk())}, s.Commands...)
	p.Steps = append(p.Steps, s)
}

// kept is the name of an old disk that is set aside, for people.
func (p *Plan) kept() string { return paths{p.Input.DataDir}.data + "/" + keptPrefix + "DATE" }

// setAside is a command that gives a disk the name under which it is kept.
func setAside(path string) []string {
	return []string{"sh", "-c", `mv -- "$1" "${1%/disk}/` + keptPrefix + `$(date -u +%Y%m%dT%H%M%SZ)"`, "sh", path}
}

// convertArgs are the arguments of qemu-img that make the copy at path. Holes and zeros are not written. For the options see
// createArgs.
func (p *Plan) convertArgs(path string) []string {
	return []string{"convert", "-p", "-O", "qcow2", "-o", "compat=1.1,lazy_refcounts=off", p.source.node.String(), path}
}

func (p *Plan) copyStep(action Action, text string) Step {
	places := paths{p.Input.DataDir}
	path := strings.Replace(p.Path, places.disk(), places.next(), 1)
	s := Step{Action: action, Text: text, Commands: [][]string{
		{"mkdir", "-p", "--", places.next()},
		append([]string{"qemu-img"}, p.convertArgs(path)...),
		{"qemu-img", "resize", "-q", "-f", "qcow2", path, fmt.Sprint(p.Size)},
	}}
	if action != ActionCopy {
		s.Commands = append(s.Commands, setAside(places.disk()))
	}
	s.Commands = append(s.Commands, []string{"mv", "--", places.next(), places.disk()})
	return s
}

// planDirect plans for an image that the guest writes itself.
func (p *Plan) planDirect(f Facts) error {
	op := "write to the image " + f.Base.Path
	if f.Target.Unwritable != "" {
		return refusal(op, "give the container a writable file or block device, or use VM_DISK_MODE=overlay or copy, which leave the image as it is",
			"it is read-only: %s", f.Target.Unwritable)
	}
	p.Path, p.Format, p.Device = f.Base.Path, f.Base.Identity.Format, f.Base.Device
	p.useCache(f.Base.Direct)
	p.directWarnings(f)
	if f.Target.Remembered == "" {
		p.Steps = append(p.Steps, Step{Action: ActionFormat, Text: fmt.Sprintf("remember that %s is %s, whatever the guest writes into it", p.Path, p.Format)})
	}
	p.planCheck(f.Unclean, f.Base.Dirty)
	has := f.Base.Identity.VirtualSize
	size := has
	if p.Input.SizeSet { // a file of the user's is not changed by a default
		wanted, err := wantedSize(Input{Size: p.Input.Size}, 0)
		if err != nil {
			return err
		}
		size = wanted
	}
	if p.Device && size > has {
		return configError("size the guest's disk", "make the volume larger, or leave VM_DISK_SIZE unset",
			"VM_DISK_SIZE is %s and the block device %s has %s", sizeText(p.Input.Size), p.Path, sizeText(has))
	}
	p.planGrowth(has, size)
	return nil
}

func (p *Plan) directWarnings(f Facts) {
	if p.Input.Recreate {
		p.Warnings = append(p.Warnings, "VM_DISK_ON_NEW_IMAGE=recreate does nothing with VM_DISK_MODE=direct: whatever image is there is the guest's disk")
	}
	if f.Target.OwnLayer {
		p.Warnings = append(p.Warnings, p.Path+" is in the container's own writable layer: what the guest writes ends with the container; mount a volume with the image to keep it")
	}
	if r := f.Target.Remembered; r != "" && f.Target.Resembles != "" && r != f.Target.Resembles {
		p.Warnings = append(p.Warnings, fmt.Sprintf("%s looks like %s and is used as %s, as it was at its first start: its guest may have written that; if you have put another image there, remove %s",
			p.Path, f.Target.Resembles, r, paths{f.DataDir}.direct()))
	}
}

// record is what is remembered of the base image beside a new disk.
func (p *Plan) record() Record {
	r := Record{Version: recordVersion, Path: p.Base.Path, Base: p.Base.Identity}
	if p.Mode == ModeCopy {
		boot := p.Base.Boot
		r.Mode, r.Boot = ModeCopy, &boot
	}
	return r
}
