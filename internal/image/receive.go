package image

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"hash"
	"io"
	"os"
)

// stream is a file as it comes, from a server or from a disk.
type stream struct {
	op     string
	r      io.Reader // from begun.Offset on
	size   int64     // of the whole; -1 where it is not known
	digest hash.Hash // of all that came
	want   string    // what the digest must be; empty: anything
	begun  part      // what an earlier start has fetched of it
	// state is what is remembered so that another start can go on; nil: it cannot.
	state func() part
}

// received is a file that has come whole and is what it should be.
type received struct {
	path    string
	format  Format // as far as its beginning tells
	digest  string // of the file as it came
	notOurs bool   // the file is the user's, and stays as it is
}

// receive writes a stream to a file, and unpacks it on the way. What has come of one that need not be unpacked is kept when it
// ends early, so that the next start can go on.
func (a *applier) receive(ctx context.Context, s *stream) (got received, err error) {
	if s.begun.Offset > 0 {
		return a.goOn(ctx, s)
	}
	packed := &counter{Reader: io.TeeReader(s.r, s.digest)}
	in := bufio.NewReaderSize(packed, copyBlock)
	head, err := peek(in)
	if err != nil {
		return received{}, err
	}
	format := recognise(head)
	if !format.packed() {
		return a.receivePlain(ctx, s, in, head, format)
	}
	return a.receivePacked(ctx, s, in, packed, format)
}

// peek looks at the beginning of a stream, which may be short. That there is none is an error.
func peek(r *bufio.Reader) ([]byte, error) {
	head, err := r.Peek(headBytes)
	if err != nil && err != io.EOF {
		return nil, err
	}
	if len(head) == 0 {
		return nil, errors.New("it is empty")
	}
	return head, nil
}

// judge refuses an image by its beginning, and looks whether there is space for it. packed is the length of the file that it comes
// in, unpacked its own, in bytes; -1 where they are not known.
func (a *applier) judge(s *stream, head []byte, format Format, packed, unpacked int64) error {
	if err := refuseFormat(s.op, format); err != nil {
		return err
	}
	if format == QCOW2 {
		if err := refuseQCOW2(head); err != nil {
			return refusal(s.op, standAlone, "%w", err)
		}
	}
	free, err := freeSpace(a.places().dir())
	if err != nil {
		return err
	}
	need, most := packed, unpacked // what is packed has no holes; what it has been made of may have
	if packed < 0 {
		need = unpacked
		if format == Raw {
			need = 0
		}
	}
	warning, err := space(s.op, a.places().dir(), free, need, most)
	if warning != "" {
		a.out.Log.Warn("image: " + warning)
	}
	return err
}

// receivePlain writes what need not be unpacked to a file that the next start can go on with.
func (a *applier) receivePlain(ctx context.Context, s *stream, in io.Reader, head []byte, format Format) (received, error) {
	if err := a.judge(s, head, format, -1, s.size); err != nil {
		return received{}, err
	}
	path := a.places().part(a.key())
	a.places().removePart(a.key())
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return received{}, err
	}
	defer f.Close()
	a.step("part made")
	return a.fill(ctx, s, &sparseWriter{file: f}, in, format)
}

// goOn goes on with what an earlier start has fetched.
func (a *applier) goOn(ctx context.Context, s *stream) (received, error) {
	f, err := os.OpenFile(a.places().part(a.key()), os.O_RDWR, 0)
	if err != nil {
		return received{}, err
	}
	defer f.Close()
	a.out.Log.Info("image: going on with what an earlier start has fetched", "at", sizeText(s.begun.Offset))
	if err := f.Truncate(s.begun.Offset); err != nil { // behind it nothing is certain
		return received{}, err
	}
	there := io.NewSectionReader(f, 0, s.begun.Offset)
	if _, err := io.Copy(s.digest, contextReader{ctx, there}); err != nil {
		return received{}, err
	}
	head, err := readUpTo(f, 0, headBytes)
	if err != nil {
		return received{}, err
	}
	return a.fill(ctx, s, &sparseWriter{file: f, offset: s.begun.Offset}, io.TeeReader(s.r, s.digest), recognise(head))
}

// fill writes the rest of a plain stream.
func (a *applier) fill(ctx context.Context, s *stream, w *sparseWriter, in io.Reader, format Format) (got received, err error) {
	key, saved := a.key(), w.offset
	defer func() {
		switch {
		case err == nil:
		case s.state == nil || full(err) || errors.Is(err, errChanged):
			a.places().removePart(key)
		default:
			_ = a.places().savePart(key, w, s.state()) // without it the next start begins where the last checkpoint was
		}
	}()
	err = copySparse(w, contextReader{ctx, in}, func() error {
		if s.state == nil || w.offset-saved < checkpoint {
			return nil
		}
		saved = w.offset
		err := a.places().savePart(key, w, s.state())
		a.step("part saved")
		return err
	})
	if err != nil {
		return received{}, err
	}
	if s.state != nil {
		if err := a.places().savePart(key, w, s.state()); err != nil {
			return received{}, err
		}
		a.step("part whole")
	}
	digest := hex.EncodeToString(s.digest.Sum(nil))
	if err := compareDigest(s.op, s.want, digest); err != nil {
		a.places().removePart(key)
		s.state = nil
		return received{}, err
	}
	return received{path: w.file.Name(), format: format, digest: digest}, nil
}

// receivePacked unpacks a stream.
func (a *applier) receivePacked(ctx context.Context, s *stream, in *bufio.Reader, packed *counter, format Format) (got received, err error) {
	size := unpackedSize(format, in)
	unpacking, err := unpack(format, in)
	if err != nil {
		return received{}, err
	}
	defer unpacking.Close()
	out := bufio.NewReaderSize(&bounded{unpacked: unpacking, packed: packed, floor: a.bomb}, copyBlock)
	head, err := peek(out)
	if err != nil {
		return received{}, err
	}
	inside := recognise(head)
	if inside.packed() {
		return received{}, refusal(s.op, "unpack it once", "it is packed twice: there is %s inside of %s", inside, format)
	}
	if err := a.judge(s, head, inside, s.size, size); err != nil {
		return received{}, err
	}
	f, err := os.CreateTemp(a.places().dir(), temporaryPattern(a.key()))
	if err != nil {
		return received{}, err
	}
	defer func() {
		f.Close()
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	a.step("temporary made")
	err = copySparse(&sparseWriter{file: f}, contextReader{ctx, out}, func() error { a.step("block written"); return nil })
	if err != nil {
		return received{}, err
	}
	if _, err := io.Copy(io.Discard, in); err != nil { // the digest is that of the whole file
		return received{}, err
	}
	digest := hex.EncodeToString(s.digest.Sum(nil))
	if err := compareDigest(s.op, s.want, digest); err != nil {
		return received{}, err
	}
	return received{path: f.Name(), format: inside, digest: digest}, nil
}

// contextReader ends with its context.
type contextReader struct {
	ctx context.Context
	io.Reader
}

// Read implements io.Reader.
func (r contextReader) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.Reader.Read(p)
}
