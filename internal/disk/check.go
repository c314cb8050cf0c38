package disk

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
)

// What qemu-img check ends with (its manual, "check").
const (
	checkClean   = 0
	checkCorrupt = 2
	checkLeaks   = 3
)

// check looks through the tables of a qcow2 file after an end that was not clean. A QEMU that is killed leaves leaks at most: space
// that was taken and is not used. They are repaired, which does not touch the guest's data. Corruptions come from elsewhere (a
// machine that lost power, a disk that lies about what it has written), their repair is a guess, and so it is left to people.
func (a applier) check(ctx context.Context, p Plan, lock *Lock, dirty bool) error {
	op := "use the guest's disk " + p.Path
	if dirty {
		// lazy_refcounts: whoever made the image chose to have its reference counts made anew after every such end. QEMU does so
		// when it opens it.
		if err := p.Input.qemuImg().run(ctx, lock, reach{write: []string{p.Path}}, nil, p.checkArgs("-q", "-r", "all")); err != nil && exitStatus(err) < 0 {
			return stoppedOr(ctx, op, err)
		}
		a.step("reference counts made anew")
	}
	found, err := a.count(ctx, p, lock)
	if err == nil && found.Leaks > 0 && found.Corruptions == 0 {
		a.note(fmt.Sprintf("%s has %d leaked clusters after an end that was not clean: giving them back; nothing of the guest's is in them", p.Path, found.Leaks))
		if err := p.Input.qemuImg().run(ctx, lock, reach{write: []string{p.Path}}, nil, p.checkArgs("-q", "-r", "leaks")); err != nil {
			return stoppedOr(ctx, op, err)
		}
		a.step("leaks repaired")
		if err := syncPath(p.Path); err != nil {
			return ioError(op, err)
		}
		if found, err = a.count(ctx, p, lock); err == nil && found.Leaks > 0 {
			a.note(fmt.Sprintf("%d leaked clusters of %s could not be given back; nothing of the guest's is concerned", found.Leaks, p.Path))
		}
	}
	if err != nil {
		return stoppedOr(ctx, op, err)
	}
	if n := found.Corruptions + found.Errors; n > 0 {
		return refusal(op, fmt.Sprintf("keep a copy of that file, then repair it by hand, with the VM stopped: qemu-img check -r all %s; or go back to a backup", p.Path),
			"its last end was not clean, and qemu-img check finds %d corruptions in it, which are not repaired without you", n)
	}
	return nil
}

// checked is what qemu-img check counts.
type checked struct {
	Corruptions int `json:"corruptions"`
	Leaks       int `json:"leaks"`
	Errors      int `json:"check-errors"`
}

// count checks and changes nothing.
func (a applier) count(ctx context.Context, p Plan, lock *Lock) (checked, error) {
	var out bytes.Buffer
	err := p.Input.qemuImg().run(ctx, lock, reach{read: []string{p.Path}}, &out, p.checkArgs("--output=json"))
	switch exitStatus(err) {
	case checkClean, checkCorrupt, checkLeaks:
	default:
		return checked{}, err
	}
	var c checked
	if err := json.Unmarshal(out.Bytes(), &c); err != nil {
		return checked{}, fmt.Errorf("qemu-img check: %w", err)
	}
	a.step("disk checked")
	return c, nil
}

// checked is the plan for the file that is there: before a merge that is the overlay, which becomes another file.
func (p Plan) checked(f Facts) Plan {
	if f.Disk != nil {
		p.Path = f.Disk.Path
	}
	return p
}

// checkArgs look at the disk alone, whatever its header names below it.
func (p *Plan) checkArgs(options ...string) []string {
	return append(append([]string{"check"}, options...), layer(FormatQCOW2, rawFile(p.Path, p.Device), nil).String())
}
