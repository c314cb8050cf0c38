package image

import (
	"encoding/json"
	"os"
	"path/filepath"
)

// part is what is remembered of a file that is not wholly fetched: how much of it is on disk, and how the server can tell that it still
// is the same file.
type part struct {
	Offset       int64  `json:"offset"` // bytes that are on disk
	Size         int64  `json:"size"`   // bytes of the whole; -1 where it is not known
	ETag         string `json:"etag,omitempty"`
	LastModified string `json:"lastModified,omitempty"`
}

// checkpoint is after how many bytes it is remembered how far a download has come.
const checkpoint = 64 << 20

func (p paths) part(key string) string { return filepath.Join(p.dir(), "."+key+partSuffix) }

// readPart gives the zero value where there is nothing to go on with.
func (p paths) readPart(key string) part {
	b, err := os.ReadFile(p.part(key) + ".json")
	if err != nil {
		return part{}
	}
	var found part
	info, err := os.Stat(p.part(key))
	if err != nil || json.Unmarshal(b, &found) != nil || found.Offset <= 0 || info.Size() < found.Offset || found.ETag+found.LastModified == "" {
		return part{}
	}
	return found
}

// savePart makes the file durable as far as it is written, and remembers it.
func (p paths) savePart(key string, w *sparseWriter, state part) error {
	if err := w.finish(); err != nil { // a hole at its end is part of it
		return err
	}
	if err := w.file.Sync(); err != nil {
		return err
	}
	state.Offset = w.offset
	b, err := json.Marshal(state)
	if err != nil {
		return err
	}
	return writeFileAtomic(p.part(key)+".json", append(b, '\n'))
}

// removePart forgets what was fetched.
func (p paths) removePart(key string) {
	_ = os.Remove(p.part(key) + ".json")
	_ = os.Remove(p.part(key))
}
