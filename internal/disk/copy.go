package disk

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// copy makes a qcow2 file that needs no other, of the base image or of the overlay with the base image.
func (a applier) copy(ctx context.Context, p Plan, lock *Lock, file string) error {
	if err := a.checkSpace(ctx, p, lock); err != nil {
		return err
	}
	watch := &progress{report: func(fraction float64) { a.progress("copying "+p.source.name, fraction) }}
	if err := p.Input.qemuImg().run(ctx, lock, reach{p.source.files, []string{filepath.Dir(file)}}, watch, p.convertArgs(file)); err != nil {
		return err
	}
	a.step("image copied")
	if p.Size == p.source.size {
		return nil
	}
	return p.Input.qemuImg().run(ctx, lock, reach{write: []string{file}}, nil, []string{"resize", "-q", "-f", "qcow2", file, fmt.Sprint(p.Size)})
}

// checkSpace refuses a copy that will not fit, before it is begun.
func (a applier) checkSpace(ctx context.Context, p Plan, lock *Lock) error {
	var out tail
	if err := p.Input.qemuImg().run(ctx, lock, reach{read: p.source.files}, &out, []string{"measure", "--output=json", "-O", "qcow2", p.source.node.String()}); err != nil {
		return err
	}
	var need struct {
		Required int64 `json:"required"` // bytes, without the clusters that are not there or zero
	}
	if err := json.Unmarshal(out, &need); err != nil {
		return fmt.Errorf("qemu-img measure: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(p.Input.DataDir, &st); err != nil {
		return err
	}
	free := int64(st.Bavail) * st.Bsize
	a.step("space measured")
	if free < need.Required {
		return refusal("copy "+p.source.name+" to "+p.Path, "free space on that volume or make it larger, or use VM_DISK_MODE=overlay, which begins with next to nothing",
			"it needs %s and %s has %s left", roughSize(need.Required), p.Input.DataDir, roughSize(free))
	}
	return nil
}

// roughSize writes a size in bytes with three digits or so.
func roughSize(bytes int64) string {
	if bytes < 1<<20 {
		return fmt.Sprintf("%d bytes", bytes)
	}
	value, unit := float64(bytes)/(1<<20), "MiB"
	for _, larger := range []string{"GiB", "TiB", "PiB"} {
		if value < 1024 {
			break
		}
		value, unit = value/1024, larger
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}

// progress reads what qemu-img prints with -p, "    (12.34/100%)\r", and reports it from 0 to 1.
type progress struct {
	report func(fraction float64)
	line   []byte
}

// Write never fails.
func (p *progress) Write(b []byte) (int, error) {
	for _, c := range b {
		switch {
		case c != '\r' && c != '\n':
			if len(p.line) < 64 {
				p.line = append(p.line, c)
			}
			continue
		}
		text, _, found := bytes.Cut(bytes.TrimLeft(p.line, " ("), []byte("/"))
		if percent, err := strconv.ParseFloat(string(text), 64); found && err == nil {
			p.report(percent / 100)
		}
		p.line = p.line[:0]
	}
	return len(b), nil
}
