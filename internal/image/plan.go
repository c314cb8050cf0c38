package image

import (
	"fmt"
	"strings"
)

// Plan is what will be done to have a local image.
type Plan struct {
	// Source is what the user named, as it may be shown; empty without a base image.
	Source string `json:"source,omitempty"`
	// Local is the image, where it is known before the steps are done; nil where they make it, or where there is none.
	Local *Local `json:"local,omitempty"`
	// Steps are done in this order. None are left where the last start did them all.
	Steps []Step `json:"steps,omitempty"`
	// Warnings are for the user; nothing is kept from being done.
	Warnings []string `json:"warnings,omitempty"`

	input Input
	facts Facts
}

// Action is what a step does.
type Action string

// The actions, in the order in which a plan has them.
const (
	ActionClean  Action = "clean"  // remove what a cut-off start left half made
	ActionFetch  Action = "fetch"  // fetch a URL, and unpack and convert it on the way
	ActionUnpack Action = "unpack" // unpack or convert a local file
	ActionVerify Action = "verify" // read a local file and compare its digest
	ActionBlank  Action = "blank"  // make what an empty disk is based on
)

// Step is one change, or one check that takes time.
type Step struct {
	Action Action `json:"action"`
	// Text says what is done, for people.
	Text string `json:"text"`
}

// String is the step's line in the printed plan.
func (s Step) String() string { return fmt.Sprintf("%-6s  %s", s.Action, s.Text) }

// Pending says that the image is not there yet: what depends on it is planned when the steps are done.
func (p Plan) Pending() bool { return p.Source != "" && p.Local == nil }

// CDAlone says that the VM does without the image where it is not to be had, or is no CD.
func (p Plan) CDAlone() bool { return p.input.CDAlone }

// Lines is the plan as text; none without a base image.
func (p Plan) Lines() []string {
	var lines []string
	if p.Source != "" {
		lines = append(lines, "from    "+p.Source)
	}
	if p.Local != nil {
		lines = append(lines, fmt.Sprintf("image   %s (%s)", p.Local.Path, p.Local.Format))
	}
	for _, s := range p.Steps {
		lines = append(lines, s.String())
	}
	for _, w := range p.Warnings {
		lines = append(lines, "warning "+w)
	}
	return lines
}

// String is the plan as lines of text.
func (p Plan) String() string { return strings.Join(p.Lines(), "\n") }

// MakePlan decides what has to be done, or refuses. It is pure. The error is an *Error.
func MakePlan(in Input, f Facts) (Plan, error) {
	in.DataDir = f.DataDir
	p := Plan{input: in, facts: f}
	if in.None || in.CDAlone && !f.mayBeCD() {
		return p, nil
	}
	p.Source = in.name()
	if f.File != nil {
		p.Source = f.File.Path
	}
	if len(f.Leftovers) > 0 {
		p.add(ActionClean, "remove what a start that was cut off left: %s", strings.Join(f.Leftovers, ", "))
	}
	switch {
	case f.Made != nil:
		p.Local = f.Made
	case f.File == nil:
		p.add(ActionFetch, "fetch %s to %s%s", p.Source, paths{f.DataDir}.dir(), verified(in, f))
	case f.File.Format.usable():
		p.planInPlace()
	case f.File.Format.foreign():
		p.add(ActionUnpack, "convert %s from %s to qcow2, in %s%s", p.Source, f.File.Format, paths{f.DataDir}.dir(), verified(in, f))
	default:
		p.add(ActionUnpack, "unpack %s (%s) to %s%s", p.Source, f.File.Format, paths{f.DataDir}.dir(), verified(in, f))
	}
	if p.Local != nil && p.Local.Format == ISO {
		p.planCD()
	}
	return p, nil
}

func (p *Plan) add(action Action, format string, args ...any) {
	p.Steps = append(p.Steps, Step{action, fmt.Sprintf(format, args...)})
}

// verified says by which digest the image will be verified.
func verified(in Input, f Facts) string {
	switch {
	case f.Want != "":
		return ", and verify that its SHA-256 is " + f.Want
	case in.Digest == DigestAuto:
		return ", and verify it by the digest that is published beside it"
	}
	return ""
}

// inPlace is the image as the file that was named.
func (p Plan) inPlace() *Local {
	return &Local{Path: p.facts.File.Path, Format: p.facts.File.Format, Device: p.facts.File.Device, Firmwares: p.facts.File.Firmwares}
}

// planInPlace uses a file where it is. One that was verified once, and was not touched since, is not read again.
func (p *Plan) planInPlace() {
	p.Local = p.inPlace()
	r := p.facts.Record
	if want := p.facts.Want; want != "" && (r == nil || r.SHA256 != want || r.Stamp != p.facts.File.Stamp || p.facts.File.Device) {
		p.add(ActionVerify, "read %s and verify that its SHA-256 is %s", p.Source, want)
	}
}

// planCD plans the empty disk beside a CD. It is planned as any other once its base is there.
func (p *Plan) planCD() {
	if len(p.Local.Firmwares) == 0 {
		p.Warnings = append(p.Warnings, p.Source+": it is a CD that nothing can be booted from (it has no El Torito catalogue)")
	}
	if p.input.CDAlone {
		return
	}
	if p.facts.Blank {
		p.Local.Blank = paths{p.facts.DataDir}.blank()
		return
	}
	p.add(ActionBlank, "make %s, which an empty disk is based on: the image is a CD", paths{p.facts.DataDir}.blank())
	p.Local = nil
}
