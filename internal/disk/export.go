package disk

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// exportName is that of an export in the data directory that is passed on at once. It never has that name itself, but temporary ones, so
// that one that is left over is removed.
const exportName = "export"

// Export is a copy of all that the guest sees of its disk, which stands alone, on its way to a file. It has another name until it is whole.
type Export struct {
	// File is what it is written to, open: its name may be somebody else's by then. Path is that name.
	File *os.File
	Path string

	final string
}

// BeginExport begins an export to a file. One that is there is only replaced if that is wanted, and when the new one is whole.
func BeginExport(file string, replace bool) (*Export, error) {
	op := "export to " + file
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return nil, ioError(op, err)
	case !info.Mode().IsRegular():
		return nil, configError(op, "name a file", "it is there, and no file")
	case !replace:
		return nil, configError(op, "take another name, or have it replaced (--force)", "it is there already")
	}
	dir, name := filepath.Split(file)
	left, err := os.ReadDir(filepath.Clean(dir))
	if err != nil {
		return nil, ioError(op, err)
	}
	for _, l := range left {
		if isTemporary(l.Name(), name) { // of one that was killed
			os.Remove(filepath.Join(dir, l.Name()))
		}
	}
	f, err := os.CreateTemp(dir, temporaryPattern(name))
	if err != nil {
		return nil, ioError(op, err)
	}
	return &Export{File: f, Path: f.Name(), final: file}, nil
}

// TemporaryExport makes the file for an export that is passed on at once. Who made it removes it; if that one is killed the next start
// does.
func TemporaryExport(dir string) (path string, err error) {
	f, err := os.CreateTemp(dir, temporaryPattern(exportName))
	if err != nil {
		return "", ioError("write to the data directory "+dir, err)
	}
	return f.Name(), f.Close()
}

// Convert writes it from a disk that no guest writes, whose data directory is locked by lock. confine may be nil, as in [Input].
func (e *Export) Convert(ctx context.Context, lock *Lock, compress bool, confine Confine, report func(done, total int64)) error {
	op := "export to " + e.final
	overlay, err := inspectDiskIn(paths{lock.dir}.disk())
	if err != nil {
		return err
	}
	if overlay == nil {
		return refusal(op, "start the VM once", "there is no disk in %s yet", lock.dir)
	}
	if overlay.Flaw != "" {
		return refusal(op, "", "the disk must not be used: %s", overlay.Flaw)
	}
	program := findProgram("")
	if program == "" {
		return &Error{Kind: KindMissing, Op: op, Err: errors.New(`there is no program "qemu-img"`), Advice: "install qemu-utils in the container image"}
	}
	args := []string{"convert", "-p", "-O", "qcow2"}
	if compress {
		args = append(args, "-c")
	}
	// the chain by name: what stands in a header is not what decides which file is read
	var below node
	const target = "/proc/self/fd/4"
	files := reach{[]string{overlay.Path}, []string{target}}
	if overlay.Backing != "" {
		info, err := os.Stat(overlay.Backing)
		below = layer(Format(overlay.BackingFormat), rawFile(overlay.Backing, err == nil && info.Mode()&fs.ModeDevice != 0), nil)
		files.read = append(files.read, overlay.Backing)
	}
	args = append(args, layer(FormatQCOW2, rawFile(overlay.Path, false), below).String(), target)
	watch := &progress{report: func(fraction float64) { report(int64(fraction*float64(overlay.VirtualSize)), overlay.VirtualSize) }}
	if err := (qemuImg{program, confine, []*os.File{e.File}}).run(ctx, lock, files, watch, args); err != nil {
		return stoppedOr(ctx, op, err)
	}
	return nil
}

// Commit gives it its name, when all of it is on disk.
func (e *Export) Commit() error {
	err := errors.Join(e.File.Chmod(0o600), e.File.Sync(), e.hasName())
	if err == nil {
		err = os.Rename(e.Path, e.final)
	}
	if err == nil {
		err = syncPath(filepath.Dir(e.final))
	}
	if err != nil {
		return ioError("export to "+e.final, err)
	}
	return nil
}

// hasName says that the name is still the file's.
func (e *Export) hasName() error {
	info, err := e.File.Stat()
	if err != nil {
		return err
	}
	if there, err := os.Lstat(e.Path); err != nil || !os.SameFile(there, info) {
		return fmt.Errorf("somebody else has taken %s away", e.Path)
	}
	return nil
}

// Discard removes what was made so far; after Commit it only closes the file.
func (e *Export) Discard() {
	e.File.Close()
	os.Remove(e.Path)
}
