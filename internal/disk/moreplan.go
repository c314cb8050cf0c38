package disk

import (
	"cmp"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
)

// MorePlan is what will be done for the disks besides the main one, and what they will then be.
type MorePlan struct {
	// Disks are in the order in which they were asked for.
	Disks []MoreDisk `json:"disks,omitempty"`
	// Steps are done in this order. None are left where the last start did them all.
	Steps []MoreStep `json:"steps,omitempty"`
	// Warnings are for the user; nothing is kept from being done.
	Warnings []string `json:"warnings,omitempty"`
	// Input is what the plan was made for. Apply looks again with it.
	Input MoreInput `json:"-"`
}

// ActionRecord is the step that remembers that a file is raw.
const ActionRecord Action = "record"

// MoreStep is one change to a disk, or to what is remembered of it.
type MoreStep struct {
	Step
	// Disk is the number of the disk in the plan; -1 where it is about none.
	Disk int `json:"disk"`
}

// Lines are the plan as lines of text.
func (p MorePlan) Lines() []string {
	var lines []string
	for _, d := range p.Disks {
		line := fmt.Sprintf("%-7s %s, %s, %s, cache=%s, aio=%s", d.Name, d.Path, d.Format, sizeText(d.Size), d.Cache, d.AIO)
		if d.ReadOnly {
			line += ", read-only"
		}
		lines = append(lines, line)
	}
	for _, s := range p.Steps {
		lines = append(lines, s.String())
	}
	for _, w := range p.Warnings {
		lines = append(lines, "warning "+w)
	}
	return lines
}

// MakeMorePlan decides what to do, from what was asked and what was found. It reads nothing. All that is wrong with any of the disks is told at
// once, what the user has to write otherwise first; each part of the error is an *Error behind the entry that it is about.
func MakeMorePlan(in MoreInput, f MoreFacts) (MorePlan, error) {
	in.DataDir = f.DataDir
	p := MorePlan{Input: in}
	if len(f.Leftovers) > 0 {
		p.Steps = append(p.Steps, MoreStep{Step{Action: ActionClean, Text: "remove what a start that was cut off left: " + strings.Join(f.Leftovers, ", "), Paths: f.Leftovers}, -1})
	}
	var mistakes, failures []error
	for i, d := range in.Disks {
		err := p.planDisk(d, f.Found[i], f)
		if err == nil {
			err = apart(f, in, i)
		}
		if err == nil {
			continue
		}
		told := fmt.Errorf("VM_DISKS=%q: %w", d.Entry, err)
		if err.Kind == KindConfig {
			mistakes = append(mistakes, told)
		} else {
			failures = append(failures, told)
		}
	}
	if err := errors.Join(append(mistakes, failures...)...); err != nil {
		return MorePlan{}, err
	}
	if len(f.Unused) > 0 {
		p.Warnings = append(p.Warnings, fmt.Sprintf("%s: made by an earlier start, and VM_DISKS does not name it: it is kept, and the guest does not see it", strings.Join(f.Unused, ", ")))
	}
	needs := slices.ContainsFunc(p.Steps, func(s MoreStep) bool { return slices.Contains(helperActions, s.Action) })
	if needs && f.QEMUImg == "" {
		return MorePlan{}, &Error{Kind: KindMissing, Op: "prepare the disks of VM_DISKS", Err: fmt.Errorf("there is no program %q", cmp.Or(in.QEMUImg, "qemu-img")),
			Advice: "install qemu-utils in the container image"}
	}
	p.Input.QEMUImg = f.QEMUImg
	return p, nil
}

// planDisk adds a disk and its steps.
func (p *MorePlan) planDisk(d More, found foundDisk, f MoreFacts) *Error {
	if found.err != nil {
		return found.err
	}
	disk := MoreDisk{
		Name: d.Name, Path: found.path, Format: found.format, Size: found.size, ReadOnly: d.ReadOnly,
		Made: d.Path == "", Device: found.device, CD: found.cd && d.ReadOnly, Cache: "writeback", AIO: "threads", dirty: found.dirty,
	}
	if found.direct || disk.Made && !found.exists && f.Place.Direct {
		disk.Cache, disk.AIO = "none", "native"
	}
	switch {
	case found.exists && f.Unclean && disk.checkable():
		p.Steps = append(p.Steps, MoreStep{disk.file().checkStep(), len(p.Disks)})
	case found.dirty:
		p.Warnings = append(p.Warnings, found.path+" was not closed cleanly; QEMU repairs its reference counts as it opens it")
	}
	var err *Error
	if disk.Made {
		err = p.planMade(&disk, d, found)
	} else {
		p.planGiven(disk, found)
	}
	p.Disks = append(p.Disks, disk)
	return err
}

// checks says whether the plan has a check of the disk with that number.
func (p MorePlan) checks(disk int) bool {
	return slices.ContainsFunc(p.Steps, func(s MoreStep) bool { return s.Action == ActionCheck && s.Disk == disk })
}

// planMade plans a disk of vmentry's own: made where there is none, only ever made larger.
func (p *MorePlan) planMade(disk *MoreDisk, d More, found foundDisk) *Error {
	size := roundUp(d.Size)
	if d.Size > maxDiskSize {
		return configError("make a disk of "+sizeText(d.Size), "write a smaller size", "at most %s can be had", sizeText(maxDiskSize))
	}
	i := len(p.Disks)
	switch {
	case !found.exists:
		disk.Size = size
		p.Steps = append(p.Steps, MoreStep{Step{
			Action: ActionCreate, Text: fmt.Sprintf("make the disk %s of %s", disk.Path, sizeText(size)),
			Commands: [][]string{{"mkdir", "-p", "--", filepath.Dir(disk.Path)}, append([]string{"qemu-img"}, disk.createArgs(disk.Path)...)},
		}, i})
	case found.size < size:
		disk.Size = size
		p.Steps = append(p.Steps, MoreStep{Step{
			Action: ActionGrow, Text: fmt.Sprintf("grow %s from %s to %s", disk.Path, sizeText(found.size), sizeText(size)),
			Commands: [][]string{append([]string{"qemu-img"}, disk.growArgs()...)},
		}, i})
	case found.size > size:
		p.Warnings = append(p.Warnings, fmt.Sprintf("VM_DISKS has %s for %s, and %s already has %s: it stays as it is, because a disk is never made smaller",
			sizeText(size), d.Name, disk.Path, sizeText(found.size)))
	}
	return nil
}

// createArgs are the arguments of a qemu-img that makes at path what create does.
//
// It is qcow2 and not raw: it takes only the space that the guest has written on every file system, also on those without holes; snapshots
// can be taken of it as of the main disk; its first bytes are never the guest's, so that no program can be led by them to other files. The
// price is some writing of tables when the guest writes to a place for the first time.
func (d MoreDisk) createArgs(path string) []string {
	return []string{"create", "-q", "-f", "qcow2", "-o", "compat=1.1,lazy_refcounts=off", path, fmt.Sprint(d.Size)}
}

func (d MoreDisk) growArgs() []string {
	return []string{"resize", "-q", "-f", "qcow2", d.Path, fmt.Sprint(d.Size)}
}

// planGiven remembers of a raw file that is to be written that it is raw, and warns of one that no longer looks so.
func (p *MorePlan) planGiven(disk MoreDisk, found foundDisk) {
	if found.record && found.looks == FormatQCOW2 {
		p.Warnings = append(p.Warnings, fmt.Sprintf("%s begins like a qcow2 image, and was raw when the guest first had it: it is still taken as raw; if you have put a qcow2 image there, remove %s",
			disk.Path, paths{p.Input.DataDir}.moreRecord(disk.Name)))
	}
	if disk.Format == FormatRaw && !disk.Device && !disk.ReadOnly && !found.record {
		path := paths{p.Input.DataDir}.moreRecord(disk.Name)
		p.Steps = append(p.Steps, MoreStep{Step{Action: ActionRecord, Text: fmt.Sprintf("remember in %s that %s is raw", path, disk.Path)}, len(p.Disks)})
	}
}

// apart refuses the i-th disk if it is another's file, by whatever name.
func apart(f MoreFacts, in MoreInput, i int) *Error {
	found, d := f.Found[i], in.Disks[i]
	if !found.exists {
		return nil
	}
	const advice = "a file can be attached twice only if nobody writes it; name another"
	op := "use " + cmp.Or(d.Path, found.path)
	for _, taken := range f.Taken {
		if taken.id == found.id && (taken.Written || !d.ReadOnly) {
			return configError(op, advice, "it is the same as %s, which is %s", taken.Path, taken.What)
		}
	}
	for j, other := range f.Found[:i] {
		if other.exists && other.id == found.id && !(d.ReadOnly && in.Disks[j].ReadOnly) {
			return configError(op, advice, "it is the same as %s, which is the disk %s", cmp.Or(in.Disks[j].Path, other.path), in.Disks[j].Name)
		}
	}
	return nil
}
