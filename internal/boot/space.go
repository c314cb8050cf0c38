package boot

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/disk"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/status"
	"github.com/vmentry/vmentry/internal/supervise"
)

// spacePace is how a guest that is paused for want of space is watched.
var spacePace = supervise.SpacePace{
	Look: 500 * time.Millisecond, Slowest: 5 * time.Second, Blind: 30 * time.Second, Settle: 2 * time.Second, Answer: qmpAnswer,
}

// oftenTold is the least time between two lines of the log about I/O errors that the guest was told of.
const oftenTold = time.Minute

// diskErrors takes QEMU's events about errors of disks.
type diskErrors struct {
	full chan string // disks, by QEMU's name, for which there was no space
	told time.Time   // when the log last told of an error that went to the guest
	more int         // such errors since then
}

// ioError is the BLOCK_IO_ERROR event (QEMU's qapi/block-core.json).
type ioError struct {
	Node      string `json:"node-name"`
	Operation string `json:"operation"`
	Action    string `json:"action"` // "stop": the guest is paused; "report": it was told
	NoSpace   bool   `json:"nospace"`
	Reason    string `json:"reason"`
}

// diskError takes the event, with v.mu held.
func (v *vm) diskError(e qemu.Event) {
	var data ioError
	if json.Unmarshal(e.Data, &data) != nil {
		return
	}
	if data.Action == "stop" {
		select {
		case v.errors.full <- data.Node:
		default: // many writes fail together
		}
		return
	}
	if v.errors.more++; e.Time.Sub(v.errors.told) < oftenTold {
		return
	}
	d := v.plan.diskOf(data.Node)
	v.log.Error("the guest was told of an I/O error of its disk", "disk", d.name, "file", d.path, "operation", data.Operation, "error", data.Reason, "errors", v.errors.more)
	v.errors.told, v.errors.more = e.Time, 0
}

// watchSpace resumes a guest that QEMU has paused for want of space, when there is space again, until ctx ends.
func (v *vm) watchSpace(ctx context.Context, guest supervise.Stalled) {
	supervise.Space{
		Guest: guest,
		Free: func(node string) (int64, bool) {
			room, err := disk.InspectRoom(v.plan.diskOf(node).path)
			return room.Free, err == nil && room.Known()
		},
		Held:  func() bool { return status.Held(v.plan.Config.RunDir) },
		Full:  v.diskFull,
		Freed: v.diskFreed,
		Pace:  spacePace,
		Log:   v.log,
	}.Run(ctx, v.errors.full)
}

// diskFull tells that the guest is paused.
func (v *vm) diskFull(node string) {
	d := v.plan.diskOf(node)
	full := status.Full{Disk: d.name, Path: d.path, Free: -1, Since: time.Now()}
	attrs := []any{"disk", d.name, "file", d.path}
	advice := "make the volume behind it larger"
	room, err := disk.InspectRoom(d.path)
	if err == nil && room.Known() {
		full.FileSystem, full.Free = room.String(), room.Free
		attrs = append(attrs, "file system", room.String(), "free", config.Bytes(room.Free).String(), "of", config.Bytes(room.Size).String())
		advice = "free space there, or make the volume larger"
	}
	if err := full.Write(v.plan.Config.RunDir); err != nil {
		v.log.Warn("the guest's pause cannot be shown by status", "error", err)
	}
	v.mu.Lock()
	v.full = full.String()
	v.mu.Unlock()
	// last: who has read this and asks is told the same
	v.log.Error(fmt.Sprintf("the guest is paused: no space left for what it writes to its disk %q; %s, and it goes on by itself", d.name, advice), attrs...)
}

// diskFreed tells that the guest has gone on.
func (v *vm) diskFreed(after time.Duration) {
	v.log.Info("there is space again: the guest goes on", "paused for", after.Round(time.Second))
	status.RemoveFull(v.plan.Config.RunDir)
	v.mu.Lock()
	v.full = ""
	v.mu.Unlock()
}

// namedDisk is a disk as the user knows it.
type namedDisk struct{ name, path string }

// diskOf finds the disk by QEMU's name of its node. One that is not known is taken for the main disk's: what is added to a
// running machine, for a snapshot, is that.
func (p Plan) diskOf(node string) namedDisk {
	for _, d := range p.Machine.Disks {
		if d.ID == node {
			return namedDisk{strings.TrimPrefix(d.ID, morePrefix), d.Path}
		}
	}
	return namedDisk{"disk", p.Disk.Path}
}

// morePrefix begins QEMU's names of the disks of VM_DISKS.
const morePrefix = "data-"
