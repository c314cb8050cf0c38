package image

import (
	"bytes"
	"io"
	"os"
)

const (
	// copyBlock is how much is read and written at once.
	copyBlock = 1 << 20
	// hole is the grain in which zeros are left out of a file: the block size of most file systems.
	hole = 4 << 10
)

var zeros [hole]byte

// sparseWriter writes a file from its beginning, or from offset on, and leaves zeros out, so that they become holes. What the file
// has from offset on must be a hole or not be there. Its end is written by finish alone.
type sparseWriter struct {
	file   *os.File
	offset int64
}

// Write implements io.Writer.
func (w *sparseWriter) Write(p []byte) (int, error) {
	for written := 0; written < len(p); {
		n, empty := run(p[written:], w.offset)
		if !empty {
			if _, err := w.file.WriteAt(p[written:written+n], w.offset); err != nil {
				return written, err
			}
		}
		written += n
		w.offset += int64(n)
	}
	return len(p), nil
}

// run is how many bytes p begins with, at offset in a file, that are all to be left out, or all to be written.
func run(p []byte, offset int64) (n int, empty bool) {
	for n < len(p) {
		block := min(len(p)-n, hole-int((offset+int64(n))%hole))
		isEmpty := block == hole && bytes.Equal(p[n:n+block], zeros[:])
		if n > 0 && isEmpty != empty {
			break
		}
		empty = isEmpty
		n += block
	}
	return n, empty
}

// finish gives the file its length.
func (w *sparseWriter) finish() error { return w.file.Truncate(w.offset) }

// copySparse copies r to w in whole blocks, and calls every after each.
func copySparse(w *sparseWriter, r io.Reader, every func() error) error {
	buf := make([]byte, copyBlock)
	for {
		n, err := io.ReadFull(r, buf)
		if n > 0 {
			if _, err := w.Write(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return w.finish()
		}
		if err != nil {
			return err
		}
		if err := every(); err != nil {
			return err
		}
	}
}
