package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"
)

// Backup is a copy of a disk as it is at one moment, which QEMU makes while the guest goes on writing: before the guest overwrites what
// has not been copied yet, that is copied first (QEMU docs/interop/live-block-operations, blockdev-backup). The disk itself is only
// read, so that whatever ends it at whatever moment, the disk is as it was.
type Backup struct {
	Node     string   // of the disk
	Path     string   // of the qcow2 file that is made
	File     *os.File // that file, empty and open for reading and writing; nil: it is made, or emptied
	Compress bool
	// Overlay says that only what the disk itself holds is copied, and not what lies below it: the copy is an overlay over Backing.
	// Else it holds all that the guest sees, and stands alone.
	Overlay bool
	Backing *Backing
}

// Names of what a backup needs in QEMU. There is one at a time.
const (
	backupNode = "vmentry-backup"
	backupFile = "vmentry-backup-file"
	backupJob  = "vmentry-backup"
)

// jobLook is the time between two looks at a job.
const jobLook = 50 * time.Millisecond

// BackedUp says how far a backup has come, in bytes of work.
type BackedUp struct{ Done, Total int64 }

// PrepareBackup makes the file, and opens it in QEMU. What an earlier backup has left in QEMU is taken away first.
func (m *Monitor) PrepareBackup(ctx context.Context, b Backup) error {
	m.EndBackup(ctx)
	size, err := m.diskSize(ctx, b.Node)
	if err != nil {
		return err
	}
	if err := m.openFile(ctx, backupFile, b); err != nil {
		return err
	}
	image := map[string]any{"driver": "qcow2", "file": backupFile, "size": size, "version": "v3"}
	qcow2 := map[string]any{"driver": "qcow2", "node-name": backupNode, "file": backupFile, "discard": "unmap"}
	if b.Overlay && b.Backing != nil {
		image["backing-file"], image["backing-fmt"] = b.Backing.Path, b.Backing.Format
		qcow2["backing"] = b.Node + "-base"
	} else {
		qcow2["backing"] = nil
	}
	if err := m.create(ctx, image); err != nil {
		return err
	}
	return m.Execute(ctx, "blockdev-add", qcow2, nil)
}

// openFile hands the backup's file to QEMU, which need not be able to open it.
func (m *Monitor) openFile(ctx context.Context, node string, b Backup) error {
	f := b.File
	if f == nil {
		var err error
		if f, err = os.OpenFile(b.Path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600); err != nil {
			return err
		}
		defer f.Close()
	}
	var set struct {
		ID int `json:"fdset-id"`
	}
	if err := m.execute(ctx, "add-fd", map[string]any{"opaque": b.Path}, &set, f); err != nil {
		return err
	}
	err := m.Execute(ctx, "blockdev-add", map[string]any{"driver": "file", "node-name": node, "filename": fmt.Sprintf("/dev/fdset/%d", set.ID), "discard": "unmap"}, nil)
	// the node has a descriptor of its own by now
	_ = m.Execute(ctx, "remove-fd", map[string]any{"fdset-id": set.ID}, nil)
	return err
}

// StartBackup begins to copy. The moment of the copy is between the call and its return.
func (m *Monitor) StartBackup(ctx context.Context, b Backup) error {
	what := "full"
	if b.Overlay {
		what = "top"
	}
	return m.Execute(ctx, "blockdev-backup", map[string]any{
		"job-id": backupJob, "device": b.Node, "target": backupNode, "sync": what, "compress": b.Compress, "auto-dismiss": false,
		// a guest that is paused because a backup's volume is full would be a high price
		"on-target-error": "report", "on-source-error": "report",
	}, nil)
}

// AwaitBackup waits until all is copied, or ctx ends, which cancels it.
func (m *Monitor) AwaitBackup(ctx context.Context, progress func(BackedUp)) error {
	return m.awaitJob(ctx, backupJob, progress)
}

// EndBackup closes the file and takes away what a backup needs in QEMU, however far it has come. A copy that is complete is whole then, and
// has yet to be synced.
func (m *Monitor) EndBackup(ctx context.Context) error {
	for _, job := range []string{backupJob, createJob} {
		if m.Execute(ctx, "job-cancel", map[string]any{"id": job}, nil) == nil {
			_ = m.awaitJob(ctx, job, nil)
		}
		_ = m.Execute(ctx, "job-dismiss", map[string]any{"id": job}, nil)
	}
	err := m.removeNode(ctx, backupNode)
	return errors.Join(err, m.removeNode(ctx, backupFile))
}

func (m *Monitor) removeNode(ctx context.Context, node string) error {
	err := m.Execute(ctx, "blockdev-del", map[string]any{"node-name": node}, nil)
	var refused *CommandError
	if errors.As(err, &refused) && !m.hasNode(ctx, node) {
		return nil
	}
	return err
}

// node is what QEMU says of a block node.
type node struct {
	Name  string `json:"node-name"`
	Image struct {
		VirtualSize int64 `json:"virtual-size"`
	} `json:"image"`
}

func (m *Monitor) nodes(ctx context.Context) ([]node, error) {
	var all []node
	err := m.Execute(ctx, "query-named-block-nodes", map[string]any{"flat": true}, &all)
	return all, err
}

func (m *Monitor) hasNode(ctx context.Context, name string) bool {
	all, err := m.nodes(ctx)
	for _, n := range all {
		if n.Name == name {
			return true
		}
	}
	return err != nil
}

func (m *Monitor) diskSize(ctx context.Context, name string) (int64, error) {
	all, err := m.nodes(ctx)
	if err != nil {
		return 0, err
	}
	for _, n := range all {
		if n.Name == name {
			return n.Image.VirtualSize, nil
		}
	}
	return 0, fmt.Errorf("QEMU has no disk %q", name)
}

const createJob = "vmentry-create"

// create makes an image.
func (m *Monitor) create(ctx context.Context, options map[string]any) error {
	if err := m.Execute(ctx, "blockdev-create", map[string]any{"job-id": createJob, "options": options}, nil); err != nil {
		return err
	}
	err := m.awaitJob(ctx, createJob, nil)
	_ = m.Execute(ctx, "job-dismiss", map[string]any{"id": createJob}, nil)
	return err
}

// awaitJob waits until a job has been concluded.
func (m *Monitor) awaitJob(ctx context.Context, id string, progress func(BackedUp)) error {
	for {
		var jobs []struct {
			ID      string `json:"id"`
			Status  string `json:"status"`
			Current int64  `json:"current-progress"`
			Total   int64  `json:"total-progress"`
			Error   string `json:"error"`
		}
		err := m.Execute(ctx, "query-jobs", nil, &jobs)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			return err
		}
		found := false
		for _, j := range jobs {
			if j.ID != id {
				continue
			}
			found = true
			if progress != nil {
				progress(BackedUp{j.Current, j.Total})
			}
			switch {
			case j.Status != "concluded":
			case j.Error != "":
				return errors.New(j.Error)
			default:
				return nil
			}
		}
		if !found {
			return fmt.Errorf("QEMU's job %q is gone", id)
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(jobLook):
		}
	}
}
