package disk

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Plan is what will be done, and what the guest's disk will then be.
type Plan struct {
	// Mode is what the guest's disk is; empty without a disk.
	Mode Mode `json:"mode,omitempty"`
	// Base is the base image: what the overlay lies on, what the copy is made of, or what the guest writes itself. Nil without a disk,
	// and where the copy is there already.
	Base *Image `json:"base,omitempty"`
	// Path is the file or block device that the guest writes; empty without a disk.
	Path string `json:"path,omitempty"`
	// Format is how Path is read.
	Format Format `json:"format,omitempty"`
	// Device says that Path is a block device.
	Device bool `json:"device,omitempty"`
	// Size is the size of the guest's disk in bytes.
	Size int64 `json:"size,omitempty"`
	// NVRAM is the path of the UEFI variable store; empty where none was asked for.
	NVRAM string `json:"nvram,omitempty"`
	// Cache is QEMU's cache mode for Path and what lies below it: "none" (O_DIRECT) or "writeback".
	Cache string `json:"cache,omitempty"`
	// AIO is QEMU's way of asynchronous I/O that goes with Cache: "native" or "threads".
	AIO string `json:"aio,omitempty"`
	// Steps are done in this order. None are left where the last start did them all.
	Steps []Step `json:"steps,omitempty"`
	// Warnings are for the user; nothing is kept from being done.
	Warnings []string `json:"warnings,omitempty"`
	// Input is what the plan was made for. Apply looks again with it.
	Input Input `json:"-"`

	source source // of a copy
	dirty  bool   // the header says that the reference counts are not to be trusted
}

// source is what a copy is made of.
type source struct {
	node  node
	files []string // that node names
	name  string   // for people
	size  int64    // of the disk in it, bytes
}

// below are the files that an overlay lies on.
func (p *Plan) below() []string {
	if p.Mode != ModeOverlay || p.Base == nil {
		return nil
	}
	return []string{p.Base.Path}
}

// Action is what a step does.
type Action string

// The actions, in the order in which a plan has them.
const (
	ActionClean   Action = "clean"   // remove what a cut-off start left half made
	ActionFinish  Action = "finish"  // give their names to what a cut-off start had made
	ActionRestore Action = "restore" // put a snapshot in the disk's place
	ActionVerify  Action = "verify"  // read the whole base image and compare it with the recorded digest
	ActionCheck   Action = "check"   // look for damage after an end that was not clean
	ActionCreate  Action = "create"  // make the overlay
	ActionCopy    Action = "copy"    // make the copy
	ActionRenew   Action = "renew"   // make the disk anew and keep the old one aside
	ActionMerge   Action = "merge"   // make a copy of the overlay with its base, and keep the overlay aside
	ActionFormat  Action = "format"  // remember how the image is read
	ActionRebase  Action = "rebase"  // write the base image's new path into the overlay
	ActionGrow    Action = "grow"    // make the disk larger
	ActionNVRAM   Action = "nvram"   // make the UEFI variable store
)

// Step is one change, or one check that takes time.
type Step struct {
	Action Action `json:"action"`
	// Text says what is done, for people.
	Text string `json:"text"`
	// Paths are what ActionClean removes.
	Paths []string `json:"paths,omitempty"`
	// Commands do the same by hand, for a script that is pasted into a shell: argument lists, unquoted. Apply differs from them
	// in that it makes files under temporary names, remembers the base image, and syncs.
	Commands [][]string `json:"commands,omitempty"`
}

// String is the step's line in the printed plan.
func (s Step) String() string { return fmt.Sprintf("%-6s  %s", s.Action, s.Text) }

// String is the plan as lines of text.
func (p Plan) String() string {
	var b strings.Builder
	if p.Base != nil {
		fmt.Fprintf(&b, "base    %s (%s)\n", p.Base.Path, p.Base.Identity)
	}
	if p.Path != "" {
		fmt.Fprintf(&b, "disk    %s, %s, cache=%s, aio=%s\n", p.Path, sizeText(p.Size), p.Cache, p.AIO)
	}
	if p.NVRAM != "" {
		fmt.Fprintf(&b, "vars    %s\n", p.NVRAM)
	}
	for _, step := range p.Steps {
		fmt.Fprintln(&b, step)
	}
	for _, warning := range p.Warnings {
		fmt.Fprintf(&b, "warning %s\n", warning)
	}
	return b.String()
}

// maxDiskSize is the most that qcow2 with clusters of 64 KiB can map: QEMU's limit of 32 MiB for the L1 table.
const maxDiskSize = int64(maxL1Bytes) / 8 * (64 << 10) * (64 << 10) / 8

// MakePlan decides what has to be done, or refuses. It is pure. The error is an *Error.
func MakePlan(in Input, f Facts) (Plan, error) {
	in.DataDir = f.DataDir
	p := Plan{Input: in}
	if len(f.Leftovers) > 0 {
		p.Steps = append(p.Steps, cleanStep(f.Leftovers))
	}
	p.planFinish(f)
	if f.Place.OwnLayer && (!in.None && in.mode() != ModeDirect || in.NVRAMTemplate != "" || in.Keeps) {
		p.Warnings = append(p.Warnings, fmt.Sprintf(
			"%s is in the container's own writable layer: the guest's disk ends with the container; mount a volume there to keep it", f.DataDir))
	}
	if f.Place.LocalLocks {
		p.Warnings = append(p.Warnings, f.DataDir+" is an NFS volume whose locks are this machine's alone (nolock or local_lock): a VM on another machine that uses it will not be noticed")
	}
	if !in.None {
		if err := p.planDisk(f); err != nil {
			return Plan{}, err
		}
	}
	if err := p.planNVRAM(f); err != nil {
		return Plan{}, err
	}
	return p, nil
}

func cleanStep(leftovers []string) Step {
	return Step{
		Action: ActionClean, Text: "remove what a start that was cut off left: " + strings.Join(leftovers, ", "),
		Paths: leftovers, Commands: [][]string{append([]string{"rm", "-rf", "--"}, leftovers...)},
	}
}

// planFinish plans the renames that a start was cut off between.
func (p *Plan) planFinish(f Facts) {
	places := paths{f.DataDir}
	s := Step{Action: ActionFinish, Text: "give what a start that was cut off had made its name"}
	if f.Next {
		s.Text += ": " + places.disk()
		s.Commands = append(s.Commands, []string{"mv", "--", places.next(), places.disk()})
	}
	for _, name := range f.Stranded {
		s.Text += ": " + places.belonging(name)
		s.Commands = append(s.Commands, []string{"mv", "--", places.stranded(name), places.belonging(name)})
	}
	if s.Commands != nil {
		p.Steps = append(p.Steps, s)
	}
}

// planDisk plans what the guest writes.
func (p *Plan) planDisk(f Facts) error {
	p.Mode, p.Base = p.Input.mode(), f.Base
	if err := p.refuseMode(f.Disk); err != nil {
		return err
	}
	if f.Base != nil {
		p.Warnings = append(p.Warnings, f.Base.Warnings...)
	}
	if f.Restore != nil {
		p.Steps = append(p.Steps, restoreStep(f.DataDir, f.Restore))
	}
	var err error
	switch p.Mode {
	case ModeDirect:
		err = p.planDirect(f)
	case ModeCopy:
		err = p.planCopy(f)
	default:
		err = p.planOverlay(f)
	}
	if err != nil {
		return err
	}
	return p.needQEMUImg(f.QEMUImg)
}

// planOverlay plans an overlay over the base image.
func (p *Plan) planOverlay(f Facts) error {
	p.Path, p.Format = paths{f.DataDir}.overlay(), FormatQCOW2
	p.useCache(f.Place.Direct && f.Base.Direct)
	if len(f.Base.Path) > maxBackingName {
		return configError("use "+f.Base.Path+" as base image", "mount it at a shorter path, or use VM_DISK_MODE=copy",
			"its path has %d bytes, and a qcow2 overlay can name %d", len(f.Base.Path), maxBackingName)
	}
	size, err := wantedSize(p.Input, f.Base.Identity.VirtualSize)
	if err != nil {
		return err
	}
	p.Size = size
	if f.Disk == nil {
		p.Steps = append(p.Steps, p.createStep())
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
	p.planCheck(f.Unclean, f.Disk.Dirty)
	if f.Disk.Backing != p.Base.Path {
		p.Steps = append(p.Steps, p.rebaseStep(f.Disk.Backing))
	}
	p.planGrowth(f.Disk.VirtualSize, size)
	return nil
}

// useCache chooses QEMU's cache mode and its way of asynchronous I/O.
func (p *Plan) useCache(direct bool) {
	p.Cache, p.AIO = "writeback", "threads"
	if direct {
		p.Cache, p.AIO = "none", "native"
	}
}

// wantedSize is the size that a new overlay gets, in bytes.
func wantedSize(in Input, image int64) (int64, error) {
	const op = "size the guest's disk"
	size := roundUp(max(0, min(in.Size, maxDiskSize+1)))
	switch {
	case size > maxDiskSize:
		return 0, configError(op, "", "VM_DISK_SIZE is %s, and at most %s can be had", sizeText(in.Size), sizeText(maxDiskSize))
	case in.SizeSet && size < image:
		return 0, configError(op, "raise VM_DISK_SIZE, or leave it unset to get the image's size",
			"VM_DISK_SIZE is %s and the image's disk has %s; a disk is never made smaller", sizeText(in.Size), sizeText(image))
	}
	return max(size, image), nil
}

// planGrowth plans for a disk of so many bytes: it is only ever made larger.
func (p *Plan) planGrowth(has, size int64) {
	p.Size = max(has, size)
	if has < size {
		p.Steps = append(p.Steps, p.growStep(has))
	}
	if has > size && p.Input.SizeSet {
		p.Warnings = append(p.Warnings, fmt.Sprintf("VM_DISK_SIZE is %s and the guest's disk already has %s: it stays as it is, because a disk is never made smaller",
			sizeText(p.Input.Size), sizeText(has)))
	}
}

// planCheck plans a look at a qcow2 file that was perhaps not closed.
func (p *Plan) planCheck(unclean, dirty bool) {
	if p.Format != FormatQCOW2 || !unclean && !dirty {
		return
	}
	p.dirty = dirty
	p.Steps = append(p.Steps, p.file().checkStep())
}

func (p *Plan) file() qcow2File { return qcow2File{p.Path, p.Device} }

// usable refuses a disk that must not be used whatever its base.
func (p *Plan) usable(d *GuestDisk) error {
	if d.Flaw == "" {
		return nil
	}
	return refusal("use the guest's disk "+d.Path,
		"restore it from a backup, or look at it with qemu-img check; to start afresh move "+paths{p.Input.DataDir}.disk()+" aside", "%s", d.Flaw)
}

// planSameBase says whether the base image is the one that the overlay was made from. Every other is refused, unless a new disk
// was asked for in that case.
func (p *Plan) planSameBase(o *GuestDisk) (same bool, err error) {
	if err := p.usable(o); err != nil {
		return false, err
	}
	op := "use the guest's disk " + o.Path + " over " + p.Base.Path
	advice := fmt.Sprintf("put the image of then back (VM_DISK_MODE=copy then makes a disk that needs none), or set VM_DISK_ON_NEW_IMAGE=recreate to start afresh "+
		"from the new one and keep the old disk aside, or move %s aside yourself", paths{p.Input.DataDir}.disk())
	recorded, now := o.Record.Base, p.Base.Identity
	switch recorded.compare(now) {
	case verdictDifferent:
		if p.Input.Recreate {
			return false, nil
		}
		return false, refusal(op, advice, "it was made from another base image: then %s (%s), now %s (%s)", o.Record.Path, recorded, p.Base.Path, now)
	case verdictUnproven:
		return false, refusal(op, advice, "its base image has another date, and no digest was recorded to prove that it is the same: then %s (%s), now %s (%s)",
			o.Record.Path, recorded, p.Base.Path, now)
	case verdictCompare:
		p.Steps = append(p.Steps, Step{
			Action: ActionVerify, Text: fmt.Sprintf("compare all %s of %s with the digest of then: the file is a new copy", sizeText(now.Bytes), p.Base.Path),
			Commands: [][]string{{"sha256sum", "--", p.Base.Path}},
		})
	}
	if o.BackingFormat != string(now.Format) {
		return false, refusal(op, advice, "it reads its base as %q, and the base is %s", o.BackingFormat, now.Format)
	}
	return true, nil
}

// overlay is the new overlay. Nothing is left to its reader to guess: not the backing format (a raw disk may begin with a qcow2 header that its
// guest wrote), and not the size.
func (p *Plan) overlay() newQCOW2 {
	return newQCOW2{size: p.Size, backing: p.Base.Path, format: p.Base.Identity.Format}
}

// createArgs are the arguments of a qemu-img that makes the same at path.
func (p *Plan) createArgs(path string) []string {
	return []string{"create", "-q", "-f", "qcow2", "-o", "compat=1.1,lazy_refcounts=off",
		"-b", p.Base.Path, "-F", string(p.Base.Identity.Format), path, fmt.Sprint(p.Size)}
}

func (p *Plan) createStep() Step {
	return Step{
		Action: ActionCreate, Text: fmt.Sprintf("make the overlay %s of %s over %s", p.Path, sizeText(p.Size), p.Base.Path),
		Commands: [][]string{{"mkdir", "-p", "--", paths{p.Input.DataDir}.disk()}, append([]string{"qemu-img"}, p.createArgs(p.Path)...)},
	}
}

// rebaseArgs only rewrite the name in the header ("unsafe" rebase): the base has been proven to be the same.
func (p *Plan) rebaseArgs() []string {
	return []string{"rebase", "-q", "-u", "-f", "qcow2", "-F", string(p.Base.Identity.Format), "-b", p.Base.Path, p.Path}
}

func (p *Plan) rebaseStep(from string) Step {
	return Step{
		Action: ActionRebase, Text: fmt.Sprintf("the base image moved from %s to %s: write that into %s", from, p.Base.Path, p.Path),
		Commands: [][]string{append([]string{"qemu-img"}, p.rebaseArgs()...)},
	}
}

func (p *Plan) growArgs() []string {
	return []string{"resize", "-q", "-f", string(p.Format), p.Path, fmt.Sprint(p.Size)}
}

func (p *Plan) growStep(from int64) Step {
	return Step{
		Action: ActionGrow, Text: fmt.Sprintf("grow %s from %s to %s", p.Path, sizeText(from), sizeText(p.Size)),
		Commands: [][]string{append([]string{"qemu-img"}, p.growArgs()...)},
	}
}

// helperActions are those that qemu-img does. An overlay is made without it.
var helperActions = []Action{ActionCheck, ActionCopy, ActionMerge, ActionRebase, ActionGrow}

// needQEMUImg refuses a plan that needs a program which is not there.
func (p *Plan) needQEMUImg(path string) error {
	needs := slices.ContainsFunc(p.Steps, func(s Step) bool {
		return slices.Contains(helperActions, s.Action) || s.Action == ActionRenew && p.Mode == ModeCopy
	})
	if !needs || path != "" {
		p.Input.QEMUImg = path
		return nil
	}
	return &Error{Kind: KindMissing, Op: "prepare the guest's disk", Err: fmt.Errorf("there is no program %q", cmp.Or(p.Input.QEMUImg, "qemu-img")),
		Advice: "install qemu-utils in the container image"}
}

// does says whether a plan has a step of that kind.
func (p *Plan) does(a Action) bool {
	return slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Action == a })
}

// planNVRAM plans the variable store. One that is there is kept: it holds the guest's boot entries.
func (p *Plan) planNVRAM(f Facts) error {
	template := p.Input.NVRAMTemplate
	if template == "" {
		return nil
	}
	p.NVRAM = p.Input.nvram(paths{f.DataDir})
	size := max(f.NVRAMTemplate, p.Input.NVRAMSize)
	switch {
	case f.NVRAMTemplate < 0:
		return &Error{Kind: KindMissing, Op: "make the UEFI variable store", Err: fmt.Errorf("there is no template %s", template),
			Advice: "install the firmware (ovmf, or qemu-efi-aarch64) in the container image"}
	case f.NVRAM < 0 || p.does(ActionRenew): // another system does not begin with the variables of the old one
		s := Step{
			Action: ActionNVRAM, Text: fmt.Sprintf("make the UEFI variable store %s from %s", p.NVRAM, template),
			Commands: [][]string{{"mkdir", "-p", "--", f.DataDir}, {"cp", "--", template, p.NVRAM}},
		}
		if size > f.NVRAMTemplate {
			s.Commands = append(s.Commands, []string{"truncate", "-s", strconv.FormatInt(size, 10), "--", p.NVRAM})
		}
		p.Steps = append(p.Steps, s)
	case f.NVRAM != size:
		return refusal("use the UEFI variable store "+p.NVRAM, "use the firmware that it was made for, or move it aside to start with empty variables",
			"it has %d bytes, and the firmware of %s wants %d: they do not belong together", f.NVRAM, template, size)
	}
	return nil
}
