package disk

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// recordVersion is raised when an older vmentry could not read the file rightly.
const recordVersion = 1

// Record is base.json: what is remembered of the base image beside the disk that was made from it.
type Record struct {
	Version int `json:"version"`
	// Mode is what kind of disk it is; empty is ModeOverlay.
	Mode Mode `json:"mode,omitempty"`
	// Path is where the image was when it was last used. It may move.
	Path string   `json:"path"`
	Base Identity `json:"base"`
	// Boot is what the base image told about its firmware, for a copy, which is used without looking at the image again.
	Boot *BootHints `json:"boot,omitempty"`
}

// mode is what kind of disk the record is of.
func (r Record) mode() Mode { return cmp.Or(r.Mode, ModeOverlay) }

// file is the name of the disk that the record is of.
func (r Record) file() string {
	return map[Mode]string{ModeOverlay: overlayName, ModeCopy: copyName}[r.mode()]
}

// readRecord reads base.json. fs.ErrNotExist where there is none.
func readRecord(path string) (Record, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return Record{}, err
	}
	var r Record
	if err := json.Unmarshal(b, &r); err != nil {
		return Record{}, fmt.Errorf("%s is damaged: %w", path, err)
	}
	if r.Version != recordVersion {
		return Record{}, fmt.Errorf("%s has version %d and this vmentry knows %d", path, r.Version, recordVersion)
	}
	if r.mode() != ModeOverlay && r.mode() != ModeCopy {
		return Record{}, fmt.Errorf("%s is of a disk in mode %q, which this vmentry does not know", path, r.Mode)
	}
	return r, nil
}

// encode gives the bytes of base.json.
func (r Record) encode() ([]byte, error) {
	b, err := json.MarshalIndent(r, "", "  ")
	return append(b, '\n'), err
}

// replaceRecord puts a new base.json in the old one's place, whole or not at all.
func replaceRecord(dir string, r Record) error {
	b, err := r.encode()
	if err != nil {
		return err
	}
	return writeFileAtomic(filepath.Join(dir, recordName), 0o600, func(f *os.File) error {
		_, err := f.Write(b)
		return err
	})
}

// RecordDigest reads the whole base image and adds its digest to base.json, so that a later start can tell the same image
// with another date from another image. It reads as many bytes as the image has (about a second for a GiB), so the caller runs it
// in the background once the guest runs, with the lock of the data directory held. It does nothing where the digest is
// already known or there is no overlay. It may be ended at any time; it then has changed nothing.
func (p Plan) RecordDigest(ctx context.Context) error {
	if p.Mode != ModeOverlay || p.Base == nil {
		return nil
	}
	op := "record the digest of " + p.Base.Path
	places := paths{p.Input.DataDir}
	before, err := readRecord(places.record())
	if err != nil {
		return ioError(op, err)
	}
	if before.Base.SHA256 != "" {
		return nil
	}
	digest, err := fullDigest(ctx, p.Base.Path, func(float64) {})
	if err != nil {
		return stoppedOr(ctx, op, err)
	}
	// Only a file that was not touched since it was inspected may be recorded as the one that the overlay is made from.
	info, err := os.Stat(p.Base.Path)
	if err != nil {
		return ioError(op, err)
	}
	now := p.Base.Identity
	now.ModTime, now.Inode, now.ChangeTime = fileStamp(info)
	if info.Mode().IsRegular() && info.Size() != now.Bytes || now != p.Base.Identity || before.Base.compare(now) != verdictSame {
		return ioError(op, errors.New("the image was changed while a guest ran on it"))
	}
	now.SHA256 = digest
	if err := replaceRecord(places.disk(), Record{Version: recordVersion, Path: p.Base.Path, Base: now}); err != nil {
		return ioError(op, err)
	}
	return nil
}

// stoppedOr is the error of something that failed: that of the context if it ended, else err as an I/O error.
func stoppedOr(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("cannot %s: %w", op, context.Cause(ctx))
	}
	var ours *Error
	if errors.As(err, &ours) {
		return err
	}
	return ioError(op, err)
}
