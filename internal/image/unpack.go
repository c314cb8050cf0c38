package image

import (
	"bufio"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/therootcompany/xz"
)

// What a packed file may cost. Its author chooses the memory that unpacking takes and the length of what comes out, so both are
// bounded.
const (
	// maxWindow is the most memory, in bytes, that a stream may want for what it refers back to: what xz -9 wants twice over, and
	// what zstd --long wants.
	maxWindow = 128 << 20
	// bombFloor and bombRatio bound what comes out: any file may become bombFloor bytes long, and beyond that bombRatio times its
	// own length. A disk of which one part in five hundred is used, and that part packs four to one, is within that.
	bombFloor = 16 << 30
	bombRatio = 2000
)

// errBomb says that something unpacks to more than any image does.
var errBomb = errors.New("it unpacks to far more than it has")

// unpack unpacks r, which is in one of the packed formats.
func unpack(format Format, r io.Reader) (io.ReadCloser, error) {
	switch format {
	case Gzip:
		return gzip.NewReader(r)
	case Bzip2:
		return io.NopCloser(bzip2.NewReader(r)), nil
	case XZ:
		d, err := xz.NewReader(r, maxWindow)
		if err != nil {
			return nil, unpackError(err)
		}
		return io.NopCloser(d), nil
	case Zstd:
		d, err := zstd.NewReader(r, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderLowmem(true), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	}
	return nil, fmt.Errorf("%q is no packed format", format)
}

// unpackError explains an error of a packed stream.
func unpackError(err error) error {
	switch {
	case errors.Is(err, xz.ErrMemlimit), errors.Is(err, zstd.ErrWindowSizeExceeded):
		return fmt.Errorf("unpacking it takes more than %s of memory; pack it again with a usual level (xz -6, zstd -19)", sizeText(maxWindow))
	case errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, xz.ErrBuf):
		return errors.New("it is cut short: the packed data have no end")
	}
	return err
}

// counter counts the bytes that are read through it.
type counter struct {
	io.Reader
	n int64
}

// Read implements io.Reader.
func (c *counter) Read(p []byte) (int, error) {
	n, err := c.Reader.Read(p)
	c.n += int64(n)
	return n, err
}

// bounded passes on what is unpacked, unless it becomes a bomb.
type bounded struct {
	unpacked io.Reader
	packed   *counter
	floor    int64
	n        int64
}

// Read implements io.Reader.
func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.unpacked.Read(p)
	b.n += int64(n)
	if b.n > b.floor+bombRatio*b.packed.n {
		return n, fmt.Errorf("%w: %s came out of the first %s", errBomb, sizeText(b.n), sizeText(b.packed.n))
	}
	if err != nil && err != io.EOF {
		err = unpackError(err)
	}
	return n, err
}

// unpackedSize is what the beginning of a packed file says about what comes out of it, in bytes; -1 where it says nothing.
func unpackedSize(format Format, head *bufio.Reader) int64 {
	if format != Zstd {
		return -1 // gzip says it at its end, modulo 4 GiB; xz at its end; bzip2 never
	}
	b, _ := head.Peek(zstd.HeaderMaxSize)
	var h zstd.Header
	if h.Decode(b) != nil || !h.HasFCS || h.FrameContentSize > 1<<62 {
		return -1
	}
	return int64(h.FrameContentSize)
}
