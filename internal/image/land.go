package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// land makes an image of what was received, and gives it its name in the data directory.
func (a *applier) land(ctx context.Context, op string, got received, r Record) (local *Local, err error) {
	path, format := got.path, got.format
	temporary := ""
	defer func() {
		if err != nil && temporary != "" {
			_ = os.Remove(temporary)
		}
	}()
	if !got.notOurs && a.places().part(a.key()) != got.path {
		temporary = got.path // what can be gone on with stays where it is until all is done
	}
	format, err = a.formatOf(op, path, format)
	if err != nil {
		return nil, err
	}
	if format.foreign() {
		made, madeFormat, err := a.standardise(ctx, op, got, format)
		if made != path && temporary != "" {
			_ = os.Remove(temporary)
		}
		if made != path {
			temporary = made
		}
		if err != nil {
			return nil, err
		}
		path, format = made, madeFormat
	}
	if a.plan.input.Check != nil {
		if err := a.plan.input.Check(path, format); err != nil {
			return nil, refusal(op, "copy the image again, or "+standAlone, "%w", err)
		}
	}
	final := r.SHA256 + "." + string(format)
	info, err := os.Stat(path)
	if err != nil {
		return nil, ioError(op, err)
	}
	r.File, r.Format, r.Bytes = final, format, info.Size()
	// The record comes first: it counts only with the image, and without it a whole image would be fetched again.
	if err := a.remember(r); err != nil {
		return nil, err
	}
	if err := a.name(path, a.places().file(final)); err != nil {
		return nil, ioError(op, err)
	}
	a.places().removePart(a.key())
	a.step("image landed")
	return a.places().local(final, format)
}

// formatOf looks at the end of what looks raw.
func (a *applier) formatOf(op, path string, format Format) (Format, error) {
	if format != Raw {
		return format, nil
	}
	f, err := os.Open(path)
	if err != nil {
		return "", ioError(op, err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", ioError(op, err)
	}
	tail, err := readUpTo(f, max(0, info.Size()-tailBytes), tailBytes)
	if err != nil {
		return "", ioError(op, err)
	}
	format = recogniseTail(tail)
	return format, refuseFormat(op, format)
}

// standardise makes a qcow2 or raw image of one in a foreign format, in a file of another name unless it is only to be cut. The name is
// given with an error, too, if there is a file of that name.
func (a *applier) standardise(ctx context.Context, op string, got received, format Format) (path string, made Format, err error) {
	disk, err := a.inspect(got.path, format)
	switch {
	case errors.Is(err, errRefers):
		return got.path, "", refusal(op, standAlone, "%w", err)
	case errors.As(err, new(damage)):
		return got.path, "", refusal(op, "take another copy of it", "it is a damaged %s: %w", format, err)
	case err != nil:
		return got.path, "", ioError(op, err)
	}
	free, err := freeSpace(a.places().dir())
	if err != nil {
		return got.path, "", ioError(op, err)
	}
	if disk.flat && !got.notOurs {
		if err := os.Truncate(got.path, disk.size); err != nil {
			return got.path, "", ioError(op, err)
		}
		return got.path, Raw, nil
	}
	warning, _ := space(op, a.places().dir(), free, 0, disk.size)
	if warning != "" {
		a.out.Log.Warn("image: " + warning)
	}
	f, err := os.CreateTemp(a.places().dir(), temporaryPattern(a.key()))
	if err != nil {
		return got.path, "", ioError(op, err)
	}
	defer f.Close()
	a.step("temporary made")
	if disk.flat {
		err = a.copyFlat(ctx, f, got.path, disk.size)
		made = Raw
	} else {
		if err = a.needQEMUImg(op); err == nil {
			a.out.Log.Info("image: converting", "from", string(format), "to", "qcow2", "disk", sizeText(disk.size))
			err = a.convert(ctx, disk, got.path, f.Name())
		}
		made = QCOW2
	}
	if err != nil {
		return f.Name(), "", stoppedOr(ctx, op, err)
	}
	a.step("image converted")
	return f.Name(), made, nil
}

// inspect looks into the disk in a foreign format at path.
func (a *applier) inspect(path string, format Format) (foreignDisk, error) {
	f, err := os.Open(path)
	if err != nil {
		return foreignDisk{}, err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return foreignDisk{}, err
	}
	return inspectForeign(format, f, info.Size())
}

// copyFlat copies a disk that a file begins with.
func (a *applier) copyFlat(ctx context.Context, to *os.File, from string, size int64) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	_ = unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_SEQUENTIAL)
	w := &sparseWriter{file: to}
	if err := copySparse(w, contextReader{ctx, io.LimitReader(f, size)}, func() error { return nil }); err != nil {
		return err
	}
	if w.offset != size {
		return fmt.Errorf("only %d of %d bytes could be read", w.offset, size)
	}
	return nil
}
