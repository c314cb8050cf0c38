package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Apply does the steps and gives the image; nil where there is none. It needs the lock of the plan's data directory, which is inherited by
// the programs that it runs, so that the directory stays locked while one of them works, even when vmentry was killed. It looks again
// under the lock, and does not do again what is done. When ctx ends, what goes on is ended, and the error wraps the context's cause;
// every other error is an *Error.
func (p Plan) Apply(ctx context.Context, lock *os.File, out Output) (*Local, error) {
	a := applier{plan: p, held: lock, out: out, step: func(string) {}, bomb: bombFloor}
	a.client = func(verified bool) *client {
		c := newClient(p.input.name(), out.Log, verified)
		if p.input.CDAlone { // a VM that can do without is not to wait long for a server that is gone
			c.attempts = cdAttempts
		}
		return c
	}
	return a.apply(ctx)
}

// applier does the steps of a plan.
type applier struct {
	plan   Plan
	held   *os.File // the lock
	out    Output
	client func(verified bool) *client
	step   func(done string) // called after every change to the disk, by name; tests end the process in it
	bomb   int64             // see bombFloor
}

func (a *applier) apply(ctx context.Context) (*Local, error) {
	in := a.plan.input
	facts, err := Inspect(in)
	if err != nil {
		return nil, err
	}
	if a.plan, err = MakePlan(in, facts); err != nil {
		return nil, err
	}
	local := a.plan.Local
	for _, s := range a.plan.Steps {
		if ctx.Err() != nil {
			return nil, stoppedOr(ctx, "prepare the base image", nil)
		}
		made, err := a.do(ctx, s)
		if err != nil {
			return nil, err
		}
		if made != nil {
			local = made
		}
	}
	if local != nil && local.Format == ISO && !in.CDAlone {
		local.Blank = a.places().blank()
		err = a.blank()
	}
	return local, err
}

// do does one step, and gives the image where the step makes one.
func (a *applier) do(ctx context.Context, s Step) (*Local, error) {
	switch s.Action {
	case ActionClean:
		for _, path := range a.plan.facts.Leftovers {
			if err := os.RemoveAll(path); err != nil {
				return nil, ioError("remove "+path, err)
			}
			a.step("leftover removed")
		}
		return nil, nil
	case ActionFetch:
		return a.fetch(ctx)
	case ActionUnpack:
		return a.unpack(ctx)
	case ActionVerify:
		return nil, a.verify(ctx)
	case ActionBlank:
		return a.plan.inPlace(), nil
	}
	return nil, ioError("prepare the base image", fmt.Errorf("step %q is not known", s.Action))
}

func (a *applier) places() paths { return paths{a.plan.input.DataDir} }

func (a *applier) key() string { return sourceKey(a.plan.input, a.plan.facts.File) }

// makeDir makes the directory of images.
func (a *applier) makeDir() error {
	if err := os.MkdirAll(a.places().dir(), 0o755); err != nil {
		return ioError("make "+a.places().dir(), err)
	}
	return nil
}

// maxChanges is how often a file that changes on the server is fetched from its beginning.
const maxChanges = 3

// fetch brings the image from its URL.
func (a *applier) fetch(ctx context.Context) (*Local, error) {
	in, want := a.plan.input, a.plan.facts.Want
	op := "fetch " + in.name()
	c := a.client(in.Digest != "")
	if in.Digest == DigestAuto {
		var err error
		if want, err = c.published(ctx, in.URL); err != nil {
			return nil, err
		}
		if local, err := a.places().kept(want); local != nil || err != nil {
			return a.known(local, want, err)
		}
	}
	if err := a.makeDir(); err != nil {
		return nil, err
	}
	for try := 1; ; try++ {
		local, err := a.fetchOnce(ctx, c, op, want)
		if !errors.Is(err, errChanged) {
			return local, err
		}
		a.places().removePart(a.key())
		if try == maxChanges {
			return nil, refusal(op, "wait until it is not written any more", "it changes on the server while it is fetched (tried %d times)", try)
		}
		a.out.Log.Warn("image: what comes does not belong to what has come before; fetching it from the beginning", "from", in.name())
	}
}

// known remembers that the source has the digest of an image that is there.
func (a *applier) known(local *Local, digest string, err error) (*Local, error) {
	if err != nil || local == nil {
		return nil, err
	}
	info, err := os.Stat(local.Path)
	if err != nil {
		return nil, ioError("look at "+local.Path, err)
	}
	r := a.record(digest)
	r.File, r.Format, r.Bytes = info.Name(), local.Format, info.Size()
	return local, a.remember(r)
}

// record is a record of the source, as far as its digest tells.
func (a *applier) record(digest string) Record {
	r := Record{Source: a.plan.Source, SHA256: digest, Made: time.Now().UTC().Truncate(time.Second)}
	if f := a.plan.facts.File; f != nil {
		r.Stamp, r.Size, r.Format = f.Stamp, f.Stamp.Bytes, f.Format
	}
	return r
}

func (a *applier) remember(r Record) error {
	path := a.places().record(a.key())
	if err := r.write(path); err != nil {
		return ioError("write "+path, err)
	}
	a.step("record written")
	return nil
}

func (a *applier) fetchOnce(ctx context.Context, c *client, op, want string) (*Local, error) {
	begun := a.places().readPart(a.key())
	d, err := c.open(ctx, a.plan.input.URL, begun)
	if err != nil {
		return nil, fetchError(ctx, op, err)
	}
	defer d.Close()
	if d.unmarked && want == "" {
		a.out.Log.Warn("image: the server does not say how long the file is, so that a cut would not be noticed; VM_IMAGE_SHA256 would", "from", c.name)
	}
	shown := newProgress(a.out, "fetching", begun.Offset, d.size)
	defer shown.end()
	s := &stream{op: op, r: reading{d, shown}, size: d.size, digest: sha256.New(), want: want, begun: begun}
	if d.etag+d.lastModified != "" {
		s.state = func() part { return part{Size: d.size, ETag: d.etag, LastModified: d.lastModified} }
	}
	whole, err := a.receive(ctx, s)
	if err != nil {
		return nil, fetchError(ctx, op, err)
	}
	shown.end()
	a.out.Log.Info("image: fetched", "from", c.name, "bytes", d.offset, "sha256", whole.digest)
	r := a.record(whole.digest)
	r.Size, r.ETag, r.LastModified = d.offset, d.etag, d.lastModified
	local, err := a.land(ctx, op, whole, r)
	if err != nil && !errors.Is(err, context.Cause(ctx)) {
		a.places().removePart(a.key()) // it is whole, and no better the next time
	}
	return local, err
}

// fetchError gives an error on the way its words. One that says to begin again is left as it is.
func fetchError(ctx context.Context, op string, err error) error {
	var status *statusError
	switch {
	case errors.Is(err, errChanged):
		return err
	case errors.As(err, &status) && (status.code == 404 || status.code == 410):
		return &Error{Kind: KindIO, Op: op, Err: err, Advice: "check VM_IMAGE"}
	case errors.As(err, &status) && (status.code == 401 || status.code == 403):
		return &Error{Kind: KindIO, Op: op, Err: err, Advice: "write user and password into the URL (https://USER:PASSWORD@HOST/…), or check them"}
	}
	return stoppedOr(ctx, op, err)
}

// unpack unpacks or converts a local file.
func (a *applier) unpack(ctx context.Context) (*Local, error) {
	file, want := a.plan.facts.File, a.plan.facts.Want
	op := "use " + file.Path + " as base image"
	if err := a.makeDir(); err != nil {
		return nil, err
	}
	if r := a.plan.facts.Record; r != nil && r.Size == file.Stamp.Bytes && r.SHA256 != "" {
		// the same file in another place, most often; and unpacking costs more than reading
		local, err := a.places().kept(r.SHA256)
		if local != nil && err == nil {
			digest, err := a.hash(ctx, op, file)
			if err != nil {
				return nil, err
			}
			if digest == r.SHA256 {
				return a.known(local, digest, nil)
			}
		}
	}
	if file.Format.foreign() {
		digest, err := a.hash(ctx, op, file)
		if err == nil {
			err = compareDigest(op, want, digest)
		}
		if err != nil {
			return nil, err
		}
		return a.land(ctx, op, received{path: file.Path, format: file.Format, digest: digest, notOurs: true}, a.record(digest))
	}
	f, err := os.Open(file.Path)
	if err != nil {
		return nil, ioError(op, err)
	}
	defer f.Close()
	shown := newProgress(a.out, "unpacking", 0, file.Stamp.Bytes)
	defer shown.end()
	whole, err := a.receive(ctx, &stream{op: op, r: reading{f, shown}, size: file.Stamp.Bytes, digest: sha256.New(), want: want})
	if err != nil {
		return nil, stoppedOr(ctx, op, err)
	}
	shown.end()
	return a.land(ctx, op, whole, a.record(whole.digest))
}

// verify reads a file that is used where it is, and compares its digest.
func (a *applier) verify(ctx context.Context) error {
	file := a.plan.facts.File
	op := "use " + file.Path + " as base image"
	digest, err := a.hash(ctx, op, file)
	if err == nil {
		err = compareDigest(op, a.plan.facts.Want, digest)
	}
	if err == nil {
		err = a.makeDir()
	}
	if err != nil {
		return err
	}
	return a.remember(a.record(digest))
}

// hash reads a local file.
func (a *applier) hash(ctx context.Context, op string, file *File) (string, error) {
	f, err := os.Open(file.Path)
	if err != nil {
		return "", ioError(op, err)
	}
	defer f.Close()
	shown := newProgress(a.out, "verifying", 0, file.Stamp.Bytes)
	defer shown.end()
	digest := sha256.New()
	buf := make([]byte, copyBlock)
	for ctx.Err() == nil {
		n, err := f.Read(buf)
		digest.Write(buf[:n])
		shown.set(shown.done + int64(n))
		if err == io.EOF {
			return hex.EncodeToString(digest.Sum(nil)), nil
		}
		if err != nil {
			return "", ioError(op, err)
		}
	}
	return "", stoppedOr(ctx, op, nil)
}

// compareDigest refuses what is not what it should be.
func compareDigest(op, want, got string) error {
	if want == "" || want == got {
		return nil
	}
	return refusal(op, "check VM_IMAGE and VM_IMAGE_SHA256, or take another copy of the image", "its SHA-256 is %s and should be %s", got, want)
}

// blank makes what an empty disk is based on: a disk without a byte in it.
func (a *applier) blank() (err error) {
	path := a.places().blank()
	op := "make " + path
	if _, err := os.Stat(path); err == nil {
		return nil
	}
	if err := a.makeDir(); err != nil {
		return err
	}
	f, err := os.CreateTemp(a.places().dir(), temporaryPattern("blank"))
	if err != nil {
		return ioError(op, err)
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	if err := errors.Join(f.Truncate(blankSize), f.Close()); err != nil {
		return ioError(op, err)
	}
	if err := a.name(f.Name(), path); err != nil {
		return ioError(op, err)
	}
	return nil
}

// blankSize is the length of the base of an empty disk in bytes. The disk itself has the size that was asked for.
const blankSize = 1 << 20

// name makes the file at path durable and gives it its name.
func (a *applier) name(path, final string) error {
	if err := errors.Join(os.Chmod(path, 0o444), syncPath(path)); err != nil {
		return err
	}
	a.step("image synced")
	if err := os.Rename(path, final); err != nil {
		return err
	}
	a.step("image renamed")
	return syncPath(a.places().dir())
}

// stoppedOr is the error of something that failed: that of the context if it ended, else err as an I/O error.
func stoppedOr(ctx context.Context, op string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("cannot %s: %w", op, context.Cause(ctx))
	}
	return ioError(op, err)
}

// full says that the volume is.
func full(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }
