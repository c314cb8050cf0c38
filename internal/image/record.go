package image

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"
)

// recordVersion is raised when an older vmentry could not read the file rightly.
const recordVersion = 1

// Record is what is remembered of a URL or path: which digest it had, and what was made of it. Losing one costs a second fetch and
// nothing else.
type Record struct {
	Version int `json:"version"`
	// Source is the URL or path as it may be shown.
	Source string `json:"source"`
	// SHA256 is the digest of the file as it was fetched or found, in hex.
	SHA256 string `json:"sha256"`
	// Size is the length of that file in bytes.
	Size int64 `json:"size"`
	// ETag and LastModified are what the server said of it.
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"lastModified,omitempty"`
	// Stamp is what the file system said of it.
	Stamp Stamp `json:"stamp,omitzero"`
	// File is the name of what was made of it in the directory of images; empty where it is used as it is.
	File string `json:"file,omitempty"`
	// Bytes is the length of File.
	Bytes  int64     `json:"bytes,omitempty"`
	Format Format    `json:"format"`
	Made   time.Time `json:"made"`
}

// sourceKey names the record of a URL or path. Who fetches a URL, and the part of it that is never sent, make no difference to
// what is fetched.
func sourceKey(in Input, file *File) string {
	text := ""
	if in.URL != nil {
		u := *in.URL
		u.User, u.Fragment, u.RawFragment = nil, "", ""
		text = "url " + u.String()
	} else if file != nil {
		text = "path " + file.Path
	}
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:16])
}

// readRecord gives nil where nothing is remembered, also where what is there cannot be read: it is made anew then.
func readRecord(path string) *Record {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	var r Record
	if json.Unmarshal(b, &r) != nil || r.Version != recordVersion || r.File != filepath.Base(r.File) && r.File != "" {
		return nil
	}
	return &r
}

// write puts the record in the old one's place, whole or not at all.
func (r Record) write(path string) error {
	r.Version = recordVersion
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	return writeFileAtomic(path, append(b, '\n'))
}

// kept finds an image in the data directory by the digest that it was made of; nil where there is none.
func (p paths) kept(digest string) (*Local, error) {
	if digest == "" {
		return nil, nil
	}
	for _, format := range []Format{QCOW2, Raw, ISO} {
		local, err := p.local(digest+"."+string(format), format)
		if local != nil || err != nil {
			return local, err
		}
	}
	return nil, nil
}

// local is the kept image of that name; nil where it is not there.
func (p paths) local(name string, format Format) (*Local, error) {
	path := p.file(name)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && (!info.Mode().IsRegular() || info.Size() == 0) {
		return nil, nil
	}
	if err != nil {
		return nil, ioError("look at "+path, err)
	}
	local := &Local{Path: path, Format: format, Kept: true}
	return local, local.lookInside()
}

// made is what the record says was made, if it is there and whole.
func (p paths) made(r *Record) (*Local, error) {
	if r == nil || r.File == "" {
		return nil, nil
	}
	if info, err := os.Stat(p.file(r.File)); err == nil && info.Size() != r.Bytes {
		return nil, nil // somebody else's doing: it is made again
	}
	return p.local(r.File, r.Format)
}

// baseName is the name of the file that a URL names; empty where it names none.
func baseName(u *url.URL) string {
	name := filepath.Base(u.Path)
	if name == "." || name == "/" {
		return ""
	}
	return name
}
