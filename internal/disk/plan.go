package disk

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Plan is what will be done, and what the guest's disk will then be.
type Plan struct {
	// Base is the base image; nil without a disk.
	Base *Image `json:"base,omitempty"`
	// Overlay is the path of the qcow2 file that the guest writes; empty without a disk.
	Overlay string `json:"overlay,omitempty"`
	// Size is the size of the guest's disk in bytes.
	Size int64 `json:"size,omitempty"`
	// NVRAM is the path of the UEFI variable store; empty where none was asked for.
	NVRAM string `json:"nvram,omitempty"`
	// Cache is QEMU's cache mode for the overlay and its backing file: "none" (O_DIRECT) or "writeback".
	Cache string `json:"cache,omitempty"`
	// AIO is QEMU's way of asynchronous I/O that goes with Cache: "native" or "threads".
	AIO string `json:"aio,omitempty"`
	// Steps are done in this order. None are left where the last start did them all.
	Steps []Step `json:"steps,omitempty"`
	// Warnings are for the user; nothing is kept from being done.
	Warnings []string `json:"warnings,omitempty"`
	// Input is what the plan was made for. Apply looks again with it.
	Input Input `json:"-"`
}

// Action is what a step does.
type Action string

// The actions, in the order in which a plan has them.
const (
	ActionClean   Action = "clean"   // remove what a cut-off start left half made
	ActionRestore Action = "restore" // put a snapshot in the overlay's place
	ActionVerify  Action = "verify"  // read the whole base image and compare it with the recorded digest
	ActionCreate  Action = "create"  // make the overlay
	ActionRebase  Action = "rebase"  // write the base image's new path into the overlay
	ActionGrow    Action = "grow"    // make the overlay larger
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
		fmt.Fprintf(&b, "disk    %s, %s, cache=%s, aio=%s\n", p.Overlay, sizeText(p.Size), p.Cache, p.AIO)
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
	if f.Place.OwnLayer && (!in.None || in.NVRAMTemplate != "") {
		p.Warnings = append(p.Warnings, fmt.Sprintf(
			"%s is in the container's own writable layer: the guest's disk ends with the container; mount a volume there to keep it", f.DataDir))
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

// planDisk plans the overlay over the base image.
func (p *Plan) planDisk(f Facts) error {
	p.Base, p.Overlay = f.Base, paths{f.DataDir}.overlay()
	p.Warnings = append(p.Warnings, f.Base.Warnings...)
	if len(f.Base.Path) > maxBackingName {
		return configError("use "+f.Base.Path+" as base image", "mount it at a shorter path",
			"its path has %d bytes, and a qcow2 overlay can name %d", len(f.Base.Path), maxBackingName)
	}
	p.Cache, p.AIO = "writeback", "threads"
	if f.Place.Direct && f.Base.Direct {
		p.Cache, p.AIO = "none", "native"
	}
	size, err := wantedSize(p.Input, f.Base.Identity.VirtualSize)
	if err != nil {
		return err
	}
	if f.Restore != nil {
		p.Steps = append(p.Steps, restoreStep(f.DataDir, f.Restore))
	}
	if f.Overlay == nil {
		p.Size = size
		p.Steps = append(p.Steps, p.createStep())
	} else if err := p.planExisting(f.Overlay, size); err != nil {
		return err
	}
	return p.needQEMUImg(f.QEMUImg)
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

// planExisting plans the reuse of an overlay: only over the base that it was made from, and only ever larger.
func (p *Plan) planExisting(o *Overlay, size int64) error {
	if o.Flaw != "" {
		return refusal("use the guest's disk "+o.Path,
			"restore it from a backup, or look at it with qemu-img check; to start afresh move "+paths{p.Input.DataDir}.disk()+" aside", "%s", o.Flaw)
	}
	if err := p.planSameBase(o); err != nil {
		return err
	}
	if o.Dirty {
		p.Warnings = append(p.Warnings, o.Path+" was not closed cleanly; QEMU repairs its reference counts as it opens it")
	}
	if o.Backing != p.Base.Path {
		p.Steps = append(p.Steps, p.rebaseStep(o.Backing))
	}
	p.Size = max(o.VirtualSize, size)
	if o.VirtualSize < size {
		p.Steps = append(p.Steps, p.growStep(o.VirtualSize))
	}
	if o.VirtualSize > size && p.Input.SizeSet {
		p.Warnings = append(p.Warnings, fmt.Sprintf("VM_DISK_SIZE is %s and the guest's disk already has %s: it stays as it is, because a disk is never made smaller",
			sizeText(p.Input.Size), sizeText(o.VirtualSize)))
	}
	return nil
}

// planSameBase refuses every base image but the one that the overlay was made from.
func (p *Plan) planSameBase(o *Overlay) error {
	op := "use the guest's disk " + o.Path + " over " + p.Base.Path
	advice := fmt.Sprintf("put the image of then back, or move %s aside to start afresh from the new one (what the guest wrote is then no longer used)",
		paths{p.Input.DataDir}.disk())
	recorded, now := o.Record.Base, p.Base.Identity
	switch recorded.compare(now) {
	case verdictDifferent:
		return refusal(op, advice, "it was made from another base image: then %s (%s), now %s (%s)", o.Record.Path, recorded, p.Base.Path, now)
	case verdictUnproven:
		return refusal(op, advice, "its base image has another date, and no digest was recorded to prove that it is the same: then %s (%s), now %s (%s)",
			o.Record.Path, recorded, p.Base.Path, now)
	case verdictCompare:
		p.Steps = append(p.Steps, Step{
			Action: ActionVerify, Text: fmt.Sprintf("compare all %s of %s with the digest of then: the file is a new copy", sizeText(now.Bytes), p.Base.Path),
			Commands: [][]string{{"sha256sum", "--", p.Base.Path}},
		})
	}
	if o.BackingFormat != string(now.Format) {
		return refusal(op, advice, "it reads its base as %q, and the base is %s", o.BackingFormat, now.Format)
	}
	return nil
}

// createArgs are the arguments of qemu-img that make the overlay at path. Nothing is left to qemu-img to guess: not the
// backing format (a raw disk may begin with a qcow2 header that its guest wrote), and not the size. Of the options,
// lazy_refcounts stays off, since it buys little speed with a repair after every kill, and extended_l2 is not used, since QEMU
// before 5.2 and many backup programs cannot read it.
func (p *Plan) createArgs(path string) []string {
	return []string{"create", "-q", "-f", "qcow2", "-o", "compat=1.1,lazy_refcounts=off",
		"-b", p.Base.Path, "-F", string(p.Base.Identity.Format), path, fmt.Sprint(p.Size)}
}

func (p *Plan) createStep() Step {
	return Step{
		Action: ActionCreate, Text: fmt.Sprintf("make the overlay %s of %s over %s", p.Overlay, sizeText(p.Size), p.Base.Path),
		Commands: [][]string{{"mkdir", "-p", "--", paths{p.Input.DataDir}.disk()}, append([]string{"qemu-img"}, p.createArgs(p.Overlay)...)},
	}
}

// rebaseArgs only rewrite the name in the header ("unsafe" rebase): the base has been proven to be the same.
func (p *Plan) rebaseArgs() []string {
	return []string{"rebase", "-q", "-u", "-f", "qcow2", "-F", string(p.Base.Identity.Format), "-b", p.Base.Path, p.Overlay}
}

func (p *Plan) rebaseStep(from string) Step {
	return Step{
		Action: ActionRebase, Text: fmt.Sprintf("the base image moved from %s to %s: write that into %s", from, p.Base.Path, p.Overlay),
		Commands: [][]string{append([]string{"qemu-img"}, p.rebaseArgs()...)},
	}
}

func (p *Plan) growArgs() []string {
	return []string{"resize", "-q", "-f", "qcow2", p.Overlay, fmt.Sprint(p.Size)}
}

func (p *Plan) growStep(from int64) Step {
	return Step{
		Action: ActionGrow, Text: fmt.Sprintf("grow %s from %s to %s", p.Overlay, sizeText(from), sizeText(p.Size)),
		Commands: [][]string{append([]string{"qemu-img"}, p.growArgs()...)},
	}
}

// needQEMUImg refuses a plan that needs a program which is not there.
func (p *Plan) needQEMUImg(path string) error {
	needs := slices.ContainsFunc(p.Steps, func(s Step) bool {
		return s.Action == ActionCreate || s.Action == ActionRebase || s.Action == ActionGrow
	})
	if !needs || path != "" {
		p.Input.QEMUImg = path
		return nil
	}
	return &Error{Kind: KindMissing, Op: "prepare the guest's disk", Err: fmt.Errorf("there is no program %q", cmp.Or(p.Input.QEMUImg, "qemu-img")),
		Advice: "install qemu-utils in the container image"}
}

// planNVRAM plans the variable store. One that is there is kept: it holds the guest's boot entries.
func (p *Plan) planNVRAM(f Facts) error {
	template := p.Input.NVRAMTemplate
	if template == "" {
		return nil
	}
	p.NVRAM = paths{f.DataDir}.nvram()
	switch {
	case f.NVRAMTemplate < 0:
		return &Error{Kind: KindMissing, Op: "make the UEFI variable store", Err: fmt.Errorf("there is no template %s", template),
			Advice: "install the firmware (ovmf, or qemu-efi-aarch64) in the container image"}
	case f.NVRAM < 0:
		p.Steps = append(p.Steps, Step{
			Action: ActionNVRAM, Text: fmt.Sprintf("make the UEFI variable store %s from %s", p.NVRAM, template),
			Commands: [][]string{{"mkdir", "-p", "--", f.DataDir}, {"cp", "--", template, p.NVRAM}},
		})
	case f.NVRAM != f.NVRAMTemplate:
		return refusal("use the UEFI variable store "+p.NVRAM, "use the firmware that it was made for, or move it aside to start with empty variables",
			"it has %d bytes, and the firmware's template %s has %d: they do not belong together", f.NVRAM, template, f.NVRAMTemplate)
	}
	return nil
}
