package boot

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"golang.org/x/term"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/control"
	"github.com/vmentry/vmentry/internal/disk"
	"github.com/vmentry/vmentry/internal/status"
	"github.com/vmentry/vmentry/internal/supervise"
)

// CreateSnapshot makes a snapshot of the VM's disk, whether it runs or not.
func CreateSnapshot(ctx context.Context, streams Streams, name string, freeze Freeze) error {
	result, err := keep(ctx, streams, doCreate, SnapshotRequest{Name: name, Freeze: freeze})
	if err == nil {
		fmt.Fprintf(streams.Out, "snapshot %s: made (%s)\n", name, result)
	}
	return err
}

// DeleteSnapshot deletes one.
func DeleteSnapshot(ctx context.Context, streams Streams, name string) error {
	_, err := keep(ctx, streams, doDelete, SnapshotRequest{Name: name})
	if err == nil {
		fmt.Fprintf(streams.Out, "snapshot %s: deleted\n", name)
	}
	return err
}

// RestoreSnapshot has one restored when the VM starts next.
func RestoreSnapshot(ctx context.Context, streams Streams, name string) error {
	result, err := keep(ctx, streams, doRestore, SnapshotRequest{Name: name})
	if err == nil {
		fmt.Fprintf(streams.Out, "snapshot %s: restored when the VM starts next; the disk of then becomes the snapshot %s\n", name, result.Keep)
	}
	return err
}

// CancelRestore takes that back.
func CancelRestore(ctx context.Context, streams Streams) error {
	result, err := keep(ctx, streams, doCancel, SnapshotRequest{})
	switch {
	case err != nil:
	case result.Was:
		fmt.Fprintln(streams.Out, "nothing is restored when the VM starts next")
	default:
		fmt.Fprintln(streams.Out, "nothing was to be restored")
	}
	return err
}

// ListSnapshots prints those that there are, as text or JSON.
func ListSnapshots(streams Streams, asJSON bool) error {
	cfg, _, _ := config.Parse(os.Environ())
	all, err := disk.Snapshots(cfg.DataDir)
	if err != nil {
		return snapshotFailure(err)
	}
	pending, err := disk.PendingRestore(cfg.DataDir)
	if err != nil {
		return snapshotFailure(err)
	}
	if asJSON {
		restore := ""
		if pending != nil {
			restore = pending.Name
		}
		if all == nil {
			all = []disk.Snapshot{}
		}
		out := json.NewEncoder(streams.Out)
		out.SetIndent("", "  ")
		return out.Encode(map[string]any{"snapshots": all, "restore": restore})
	}
	w := tabwriter.NewWriter(streams.Out, 0, 0, 2, ' ', 0)
	if len(all) > 0 {
		fmt.Fprintln(w, "NAME\tMADE\tGUEST\tTAKES\t")
	}
	for _, s := range all {
		note := ""
		if pending != nil && pending.Name == s.Name {
			note = "restored at the next start"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", s.Name, s.Created.UTC().Format("2006-01-02 15:04:05Z"), s.State, config.Bytes(s.Bytes), note)
	}
	return w.Flush()
}

// ExportOptions say how a disk is exported.
type ExportOptions struct {
	Freeze   Freeze
	Replace  bool // a file that is there
	Compress bool
}

// Export writes all that the guest sees of its disk to a qcow2 file that stands alone, or for "-" to standard output.
func Export(ctx context.Context, streams Streams, file string, o ExportOptions) error {
	request := SnapshotRequest{Freeze: o.Freeze, Replace: o.Replace, Compress: o.Compress}
	if file == "-" {
		return exportToStdout(ctx, streams, request)
	}
	var err error
	if request.File, err = filepath.Abs(file); err != nil {
		return fail(supervise.IOError, "%w", err)
	}
	result, err := keep(ctx, streams, doExport, request)
	if err == nil {
		fmt.Fprintf(streams.Out, "exported to %s (%s)\n", file, result)
	}
	return err
}

// exportToStdout exports to the data directory first: a qcow2 file is not written from front to back.
func exportToStdout(ctx context.Context, streams Streams, request SnapshotRequest) error {
	if term.IsTerminal(int(streams.Out.Fd())) {
		return fail(supervise.Usage, "a disk is nothing for a terminal; write > FILE after it, or name a file")
	}
	cfg, _, _ := config.Parse(os.Environ())
	f, err := disk.TemporaryExport(cfg.DataDir)
	if err != nil {
		return snapshotFailure(err)
	}
	defer os.Remove(f)
	request.File, request.Replace = f, true
	result, err := keep(ctx, streams, doExport, request)
	if err != nil {
		return err
	}
	in, err := os.Open(f)
	if err == nil {
		defer in.Close()
		defer context.AfterFunc(ctx, func() { streams.Out.Close() })()
		_, err = io.Copy(streams.Out, in)
	}
	if err != nil {
		return stopped(ctx, fail(supervise.IOError, "the export cannot be written to standard output: %w", err))
	}
	fmt.Fprintf(streams.Err, "exported (%s)\n", result)
	return nil
}

// keep does something about snapshots: by the supervisor where the VM runs, else itself, with the data directory locked.
func keep(ctx context.Context, streams Streams, do string, s SnapshotRequest) (SnapshotResult, error) {
	cfg, _, _ := config.Parse(os.Environ())
	if s.Name != "" {
		if err := disk.CheckSnapshotName(s.Name); err != nil {
			return SnapshotResult{}, snapshotFailure(err)
		}
	}
	shown := newProgressLine(streams.Err)
	defer shown.end()
	var result SnapshotResult
	err := control.Ask(ctx, filepath.Join(cfg.RunDir, controlSocket), do, s, &result, shown.show)
	if errors.Is(err, control.ErrNobody) {
		result, err = keepOff(ctx, cfg, do, s, shown.show)
		// The lock says whether a VM runs. What is in the run directory does not: a vmentry that was killed has left it there.
		if _, none := status.ReadFacts(cfg.RunDir); none == nil && errors.Is(err, disk.ErrInUse) {
			return result, fail(supervise.Unavailable, "%s: the VM runs without supervision (VM_SUPERVISE=false), or is just being started; it can be done when it is off", do)
		}
	}
	var f *control.Failure
	if errors.As(err, &f) {
		return result, fail(f.Code, "%s", f.Text)
	}
	shown.end()
	for _, w := range result.Warnings {
		fmt.Fprintln(streams.Err, "vmentry: warning:", w)
	}
	return result, stopped(ctx, snapshotFailure(err))
}

// keepOff does it where no VM runs.
func keepOff(ctx context.Context, cfg config.Config, do string, s SnapshotRequest, progress func(control.Progress)) (result SnapshotResult, err error) {
	if _, err := os.Stat(cfg.DataDir); err != nil {
		return result, fail(supervise.IOError, "VM_DATA_DIR=%s: %w", cfg.DataDir, errors.Unwrap(err))
	}
	lock, err := disk.TakeLock(ctx, cfg.DataDir, lockHolder(), disk.LockWait)
	if err != nil {
		return result, err
	}
	defer lock.Close()
	count := func(done, total int64) { progress(control.Progress{Done: done, Total: total}) }
	result.State = disk.StateOff
	switch do {
	case doCreate:
		n, err := disk.BeginSnapshot(lock, s.Name)
		if err != nil {
			return result, err
		}
		defer n.Discard()
		if err := n.Copy(ctx, count); err != nil {
			return result, err
		}
		return result, n.Commit(disk.StateOff)
	case doExport:
		e, err := beginExport(s, cfg.Volumes)
		if err != nil {
			return result, err
		}
		defer e.Discard()
		if err := e.Convert(ctx, lock, s.Compress, aroundQEMUImg(), count); err != nil {
			return result, err
		}
		return result, e.Commit()
	}
	return atRest(lock, do, s)
}

// progressLine shows how far something has come: on a terminal in one line, else now and then in one of its own.
type progressLine struct {
	out   *os.File
	often time.Duration
	over  string // what brings the next text over the last
	last  time.Time
	shown bool
}

func newProgressLine(out *os.File) *progressLine {
	if term.IsTerminal(int(out.Fd())) {
		return &progressLine{out: out, over: "\r"}
	}
	return &progressLine{out: out, often: 5 * time.Second, last: time.Now()}
}

func (p *progressLine) show(done control.Progress) {
	if done.Total <= 0 || time.Since(p.last) < p.often {
		return
	}
	p.last, p.shown = time.Now(), true
	text := fmt.Sprintf("%3d%%  %s of %s", done.Done*100/done.Total, config.Bytes(done.Done), config.Bytes(done.Total))
	if p.over == "" {
		text += "\n"
	}
	fmt.Fprintf(p.out, "%s%-40s", p.over, text)
}

func (p *progressLine) end() {
	if p.shown && p.over != "" {
		fmt.Fprintln(p.out)
	}
	p.shown = false
}
