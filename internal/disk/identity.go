package disk

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"syscall"
	"time"
)

// Identity is what a base image is known by again. An overlay holds only what differs from its base: with another base under
// it the guest's file systems are destroyed, so an image has to prove that it is the one of last time.
//
// The proof is taken in steps, the cheap ones first:
//
//  1. Bytes, Format, VirtualSize and Sampled must be equal; else it is another image.
//  2. Where both full digests are known they decide.
//  3. Inode and ChangeTime are equal: it is the very same file, untouched (see sameFile). The usual restart ends here.
//  4. The file is another one, or was touched: the container image was pulled to another node, or built again. With SHA256
//     recorded, the whole file is read and compared. This is needed even where the modification time is equal, because
//     reproducible builds give every file the same one.
//  5. Without SHA256 (the first start ended before it was recorded) an equal ModTime is taken as proof, and another one is
//     refused: a refusal can be mended, an overwritten file system cannot.
type Identity struct {
	Format Format `json:"format"`
	// Bytes is the size of the file.
	Bytes int64 `json:"bytes"`
	// VirtualSize is the size of the disk in it, in bytes.
	VirtualSize int64 `json:"virtualSize"`
	// ModTime is the file's modification time in seconds since 1970.
	ModTime int64 `json:"mtime"`
	// Inode and ChangeTime (nanoseconds since 1970) are those of the file. They change when an image is copied or unpacked.
	Inode      uint64 `json:"inode"`
	ChangeTime int64  `json:"ctime"`
	// Sampled is the SHA-256, in hex, of the file's size, its first and last MiB and 64 blocks of 64 KiB between them.
	Sampled string `json:"sampled"`
	// SHA256 is the digest of the whole file, in hex; empty until RecordDigest has run.
	SHA256 string `json:"sha256,omitempty"`
}

const (
	sampleEnd    = 1 << 20  // bytes at the start and at the end
	sampleBlock  = 64 << 10 // bytes
	sampleBlocks = 64
)

// String is one line for a message: what tells two images apart.
func (i Identity) String() string {
	digest := "sample " + shortDigest(i.Sampled)
	if i.SHA256 != "" {
		digest = "sha256 " + shortDigest(i.SHA256)
	}
	return fmt.Sprintf("%s, %d bytes, disk of %s, of %s, %s",
		i.Format, i.Bytes, sizeText(i.VirtualSize), time.Unix(i.ModTime, 0).UTC().Format(time.RFC3339), digest)
}

func shortDigest(s string) string { return s[:min(len(s), 16)] }

// verdict is what comparing two identities says.
type verdict int

const (
	verdictSame      verdict = iota
	verdictCompare           // the whole file has to be read
	verdictUnproven          // looks the same, was touched, and there is no digest to prove it by
	verdictDifferent         // another image
)

// compare says whether now, just inspected, is the image that was recorded.
func (recorded Identity) compare(now Identity) verdict {
	switch {
	case recorded.Bytes != now.Bytes, recorded.Format != now.Format,
		recorded.VirtualSize != now.VirtualSize, recorded.Sampled != now.Sampled:
		return verdictDifferent
	case recorded.SHA256 != "" && now.SHA256 != "":
		if recorded.SHA256 != now.SHA256 {
			return verdictDifferent
		}
		return verdictSame
	case recorded.sameFile(now):
		return verdictSame
	case recorded.SHA256 != "":
		return verdictCompare
	case recorded.ModTime == now.ModTime:
		return verdictSame
	}
	return verdictUnproven
}

// sameFile says that it is the same file of the same file system, and untouched. A change time of whole seconds proves
// nothing: read-only file systems that are built (squashfs, erofs, ISO 9660) have no change time and show the modification
// time, which reproducible builds set to a constant, and their inode numbers are counted from one.
func (recorded Identity) sameFile(now Identity) bool {
	wholeSeconds := now.ChangeTime%int64(time.Second) == 0
	return !wholeSeconds && recorded.Inode == now.Inode && recorded.ChangeTime == now.ChangeTime
}

// untouched says that it is the file that was known, and as long.
func (now Identity) untouched(known Identity) bool {
	return known.Sampled != "" && known.Bytes == now.Bytes && known.Format == now.Format && known.sameFile(now)
}

// fileStamp is what the file system knows of a file.
func fileStamp(info fs.FileInfo) (modTime int64, inode uint64, changeTime int64) {
	modTime = info.ModTime().Unix()
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = st.Ino
		changeTime = st.Ctim.Nano()
	}
	return modTime, inode, changeTime
}

// sampleDigest reads a few MiB of the file, spread evenly, so that it takes milliseconds for any size.
func sampleDigest(r io.ReaderAt, size int64) (string, error) {
	h := sha256.New()
	_ = binary.Write(h, binary.LittleEndian, size) // a hash never fails
	add := func(off, n int64) error {
		b, err := readUpTo(r, off, n)
		h.Write(b)
		return err
	}
	if size <= 2*sampleEnd+sampleBlocks*sampleBlock {
		err := add(0, size)
		return hex.EncodeToString(h.Sum(nil)), err
	}
	if err := add(0, sampleEnd); err != nil {
		return "", err
	}
	stride := (size - 2*sampleEnd) / sampleBlocks
	for i := range int64(sampleBlocks) {
		if err := add(sampleEnd+i*stride, sampleBlock); err != nil {
			return "", err
		}
	}
	if err := add(size-sampleEnd, sampleEnd); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// fullDigest is the SHA-256 of the whole file in hex. It ends early with the cause of ctx.
func fullDigest(ctx context.Context, path string, progress func(float64)) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err == nil {
		_, err = f.Seek(0, io.SeekStart)
	}
	if err != nil {
		return "", err
	}
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for done := int64(0); ; {
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		n, err := f.Read(buf)
		h.Write(buf[:n])
		if done += int64(n); size > 0 {
			progress(min(1, float64(done)/float64(size)))
		}
		if err == io.EOF {
			return hex.EncodeToString(h.Sum(nil)), nil
		}
		if err != nil {
			return "", err
		}
	}
}
