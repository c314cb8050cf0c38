package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/vmentry/vmentry/internal/agent"
	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/control"
	"github.com/vmentry/vmentry/internal/disk"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/supervise"
)

// What can be asked of the supervisor about snapshots.
const (
	doCreate  = "snapshot create"
	doDelete  = "snapshot delete"
	doRestore = "snapshot restore"
	doCancel  = "snapshot restore --cancel"
	doExport  = "snapshot export"
)

// Freeze says whether the guest's file systems are frozen for the moment of which a copy is made.
type Freeze string

// The choices. Auto does it where the guest has an agent that does.
const (
	FreezeAuto   Freeze = "auto"
	FreezeAlways Freeze = "always"
	FreezeNever  Freeze = "never"
)

// SnapshotRequest is what is to be done.
type SnapshotRequest struct {
	Name     string `json:"name,omitempty"`
	Freeze   Freeze `json:"freeze,omitempty"`
	File     string `json:"file,omitempty"` // of an export; absolute
	Replace  bool   `json:"replace,omitempty"`
	Compress bool   `json:"compress,omitempty"`
}

// SnapshotResult is what came of it.
type SnapshotResult struct {
	State    string   `json:"state,omitempty"` // what the guest did meanwhile
	Keep     string   `json:"keep,omitempty"`  // the name that the disk of before will have
	Was      bool     `json:"was,omitempty"`   // there was something to cancel
	Warnings []string `json:"warnings,omitempty"`
}

// closing is how long QEMU may take to close what it has written.
const closing = time.Minute

// keeper makes snapshots while the guest runs. It belongs to the supervisor: that one thaws what it has frozen, whatever becomes of the
// one who has asked.
type keeper struct {
	*vm
	lock    *disk.Lock // of the data directory; nil where the VM has none
	monitor *qemu.Monitor
}

// serve takes requests until ctx ends; wait returns when nothing of it is left.
func (k keeper) serve(ctx context.Context) (wait func(), err error) {
	l, err := k.plan.listen(controlSocket, k.log)
	if err != nil {
		return nil, err
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		(&control.Server{Do: k.do}).Serve(ctx, l)
	}()
	return func() { <-done }, nil
}

func (k keeper) do(ctx context.Context, r control.Request, progress func(control.Progress)) (any, *control.Failure) {
	var s SnapshotRequest
	if err := json.Unmarshal(r.With, &s); err != nil {
		return nil, &control.Failure{Code: supervise.Software, Text: err.Error()}
	}
	began := time.Now()
	result, err := k.carryOut(ctx, r.Do, s, progress)
	if err != nil {
		err = snapshotFailure(err)
		k.log.Warn(r.Do+" has failed", "name", s.Name, "file", s.File, "error", err)
		return nil, &control.Failure{Code: ExitCode(err), Text: err.Error()}
	}
	k.log.Info(r.Do, "name", s.Name, "file", s.File, "state", result.State, "took", time.Since(began).Round(time.Millisecond))
	return result, nil
}

func (k keeper) carryOut(ctx context.Context, do string, s SnapshotRequest, progress func(control.Progress)) (SnapshotResult, error) {
	if k.lock == nil || k.plan.Disk.Path == "" {
		return SnapshotResult{}, fail(supervise.Usage, "%s: this VM has no disk", do)
	}
	if do == doCreate && k.plan.Disk.Mode == disk.ModeDirect {
		return SnapshotResult{}, fail(supervise.Usage, "%s: with VM_DISK_MODE=direct the guest's disk is %s, which is not vmentry's to keep copies of; use vmentry snapshot export, or the snapshots of that volume", do, k.plan.Disk.Path)
	}
	switch do {
	case doCreate:
		return k.create(ctx, s, progress)
	case doExport:
		return k.export(ctx, s, progress)
	}
	return atRest(k.lock, do, s)
}

// atRest does what changes nothing that a running guest uses.
func atRest(lock *disk.Lock, do string, s SnapshotRequest) (result SnapshotResult, err error) {
	switch do {
	case doDelete:
		err = disk.DeleteSnapshot(lock, s.Name)
	case doRestore:
		var r disk.Restore
		r, err = disk.RequestRestore(lock, s.Name, time.Now())
		result.Keep = r.Keep
	case doCancel:
		result.Was, err = disk.CancelRestore(lock)
	default:
		err = fail(supervise.Usage, "%s is not known", do)
	}
	return result, err
}

func (k keeper) create(ctx context.Context, s SnapshotRequest, progress func(control.Progress)) (SnapshotResult, error) {
	n, err := disk.BeginSnapshot(k.lock, s.Name)
	if err != nil {
		return SnapshotResult{}, err
	}
	defer n.Discard()
	main := k.plan.Machine.Disks[0]
	result, err := k.backup(ctx, qemu.Backup{Node: main.ID, Path: n.Path, Overlay: true, Backing: main.Backing}, s.Freeze, progress)
	if err == nil {
		err = n.Commit(result.State)
	}
	return result, err
}

func (k keeper) export(ctx context.Context, s SnapshotRequest, progress func(control.Progress)) (SnapshotResult, error) {
	for _, d := range k.plan.Machine.Disks {
		if sameFile(s.File, d.Path) || d.Backing != nil && sameFile(s.File, d.Backing.Path) {
			return SnapshotResult{}, fail(supervise.Usage, "%s is a disk of this VM; write to another file", s.File)
		}
	}
	e, err := beginExport(s, k.plan.Config.Volumes)
	if err != nil {
		return SnapshotResult{}, err
	}
	defer e.Discard()
	result, err := k.backup(ctx, qemu.Backup{Node: k.plan.Machine.Disks[0].ID, Path: e.Path, File: e.File, Compress: s.Compress}, s.Freeze, progress)
	if err == nil {
		err = e.Commit()
	}
	return result, err
}

// beginExport begins an export, where the guest cannot come between: in a directory that it can write it could put a link where vmentry is about to write.
func beginExport(s SnapshotRequest, volumes []config.Volume) (*disk.Export, error) {
	dir, err := filepath.EvalSymlinks(filepath.Dir(s.File))
	if err != nil {
		return nil, fail(supervise.IOError, "cannot export to %s: %w", s.File, err)
	}
	for _, v := range volumes {
		if !v.ReadOnly && isBelow(dir, v.Path) {
			return nil, fail(supervise.Usage, "cannot export to %s: the guest can write there, by VM_VOLUMES=%s; take a directory that it has not", s.File, v)
		}
	}
	return disk.BeginExport(filepath.Join(dir, filepath.Base(s.File)), s.Replace)
}

// isBelow says whether a directory is another one or below it, by whatever mounts.
func isBelow(dir, other string) bool {
	for ; ; dir = filepath.Dir(dir) {
		if sameFile(dir, other) {
			return true
		}
		if dir == filepath.Dir(dir) {
			return false
		}
	}
}

func sameFile(a, b string) bool {
	infoA, errA := os.Stat(a)
	infoB, errB := os.Stat(b)
	return errA == nil && errB == nil && os.SameFile(infoA, infoB)
}

// backup has QEMU copy the disk as it is at one moment, if possible one at which the guest's file systems are at rest.
func (k keeper) backup(ctx context.Context, b qemu.Backup, freeze Freeze, progress func(control.Progress)) (result SnapshotResult, err error) {
	defer func() {
		end, cancel := context.WithTimeout(context.Background(), closing)
		defer cancel()
		if endErr := k.monitor.EndBackup(end); err == nil && endErr != nil {
			err = endErr // the file may not be whole
		}
	}()
	if err := k.monitor.PrepareBackup(ctx, b); err != nil {
		return result, noSpace(err, b.Path)
	}
	if result, err = k.begin(ctx, b, freeze); err != nil {
		return result, noSpace(err, b.Path)
	}
	err = k.monitor.AwaitBackup(ctx, func(done qemu.BackedUp) { progress(control.Progress(done)) })
	return result, noSpace(err, b.Path)
}

// begin starts the copy, with the guest's file systems frozen for a moment where that can be had and is wanted.
func (k keeper) begin(ctx context.Context, b qemu.Backup, freeze Freeze) (result SnapshotResult, err error) {
	result.State = disk.StateRunning
	start := func(ctx context.Context) error { return k.monitor.StartBackup(ctx, b) }
	state, err := k.monitor.RunState(ctx)
	if err != nil {
		return result, err
	}
	if state != "running" && freeze == FreezeAlways {
		return result, fail(supervise.Unavailable, "the guest is %s, and its file systems cannot be frozen", state)
	}
	if freeze == FreezeNever || state != "running" {
		return result, start(ctx)
	}
	err = k.agent.WhileFrozen(ctx, start)
	var refused *agent.FreezeError
	switch {
	case err == nil:
		result.State = disk.StateFrozen
		return result, nil
	case errors.Is(err, agent.ErrNotThawed):
		k.log.Error(err.Error())
		return result, fail(supervise.Unavailable, "%w", err)
	case !errors.As(err, &refused):
		return result, err
	case freeze == FreezeAlways:
		return result, fail(supervise.Unavailable, "%w", err)
	case !errors.Is(err, agent.ErrAbsent):
		result.Warnings = append(result.Warnings, refused.Error()+"; the copy is that of a running guest, as after a power cut")
	}
	return result, start(ctx)
}

// noSpace puts what QEMU says of a full volume in other words.
func noSpace(err error, path string) error {
	if err == nil || !strings.Contains(err.Error(), "No space left on device") {
		return err
	}
	return fail(supervise.IOError, "there is no space left in %s; make the volume larger, or delete what is not needed. Nothing is left of the copy, and the guest's disk is as it was", filepath.Dir(path))
}

// snapshotFailure gives an error its exit code. What is wrong with a name or a file is a wrong command line here.
func snapshotFailure(err error) error {
	var e *disk.Error
	if errors.As(err, &e) && e.Kind == disk.KindConfig {
		return &Failure{supervise.Usage, err}
	}
	var f *Failure
	if err = diskFailure(err); err == nil || errors.As(err, &f) || errors.As(err, new(supervise.Stop)) {
		return err
	}
	return fail(supervise.IOError, "%w", err)
}

// String is the state of a copy in words.
func (r SnapshotResult) String() string {
	switch r.State {
	case disk.StateFrozen:
		return "the guest's file systems were at rest"
	case disk.StateRunning:
		return "of a running guest, as after a power cut"
	}
	return fmt.Sprintf("the guest was %s", r.State)
}
