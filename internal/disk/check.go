package disk

import (
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

// qcow2File is a file that is looked through after an end that was not clean.
type qcow2File struct {
	path   string
	device bool
}

// checkArgs look at the file alone, whatever its header names below it.
func (f qcow2File) checkArgs(options ...string) []string {
	return append(append([]string{"check"}, options...), layer(FormatQCOW2, rawFile(f.path, f.device), nil).String())
}

// checkStep is the plan's step.
func (f qcow2File) checkStep() Step {
	return Step{
		Action: ActionCheck, Text: fmt.Sprintf("check %s, because its last end was not clean", f.path),
		Commands: [][]string{append([]string{"qemu-img"}, f.checkArgs("-q", "-r", "leaks")...)},
	}
}

// check looks through the tables of a qcow2 file after an end that was not clean. A QEMU that is killed leaves leaks at most: space
// that was taken and is not used. They are repaired, which does not touch the guest's data. Corruptions come from elsewhere (a
// machine that lost power, a disk that lies about what it has written), their repair is a guess, and so it is left to people.
func (a applier) check(ctx context.Context, q qemuImg, f qcow2File, lock *Lock, dirty bool) error {
	op := "use the guest's disk " + f.path
	if dirty {
		// lazy_refcounts: whoever made the image chose to have its reference counts made anew after every such end. QEMU does so
		// when it opens it.
		if err := q.run(ctx, lock, reach{write: []string{f.path}}, nil, f.checkArgs("-q", "-r", "all")); err != nil && exitStatus(err) < 0 {
			return stoppedOr(ctx, op, err)
		}
		a.step("reference counts made anew")
	}
	found, err := a.count(ctx, q, f, lock)
	if err == nil && found.Leaks > 0 && found.Corruptions == 0 {
		a.note(fmt.Sprintf("%s has %d leaked clusters after an end that was not clean: giving them back; nothing of the guest's is in them", f.path, found.Leaks))
		if err := q.run(ctx, lock, reach{write: []string{f.path}}, nil, f.checkArgs("-q", "-r", "leaks")); err != nil {
			return stoppedOr(ctx, op, err)
		}
		a.step("leaks repaired")
		if err := syncPath(f.path); err != nil {
			return ioError(op, err)
		}
		if found, err = a.count(ctx, q, f, lock); err == nil && found.Leaks > 0 {
			a.note(fmt.Sprintf("%d leaked clusters of %s could not be given back; nothing of the guest's is concerned", found.Leaks, f.path))
		}
	}
	if err != nil {
		return stoppedOr(ctx, op, err)
	}
	if n := found.Corruptions + found.Errors; n > 0 {
		return refusal(op, fmt.Sprintf("keep a copy of that file, then repair it by hand, with the VM stopped: qemu-img check -r all %s; or go back to a backup", f.path),
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
func (a applier) count(ctx context.Context, q qemuImg, f qcow2File, lock *Lock) (checked, error) {
	var out tail
	err := q.run(ctx, lock, reach{read: []string{f.path}}, &out, f.checkArgs("--output=json"))
	switch exitStatus(err) {
	case checkClean, checkCorrupt, checkLeaks:
	default:
		return checked{}, err
	}
	var c checked
	if err := json.Unmarshal(out, &c); err != nil {
		return checked{}, fmt.Errorf("qemu-img check: %w", err)
	}
	a.step("disk checked")
	return c, nil
}
