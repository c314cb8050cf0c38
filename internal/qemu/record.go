package qemu

import (
	"context"
	"debug/elf"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// Record is what a QEMU said that it can do, kept with the binary so that it has not to be asked at each start.
type Record struct {
	BuildID      string // the binary's GNU build ID (ld(1), --build-id), in hexadecimal
	Capabilities Capabilities
}

// NewRecord asks the QEMU at path.
func NewRecord(ctx context.Context, path string, environ []string) (Record, error) {
	id, err := buildID(path)
	if err != nil {
		return Record{}, err
	}
	can, err := Probe(ctx, path, environ)
	return Record{id, can}, err
}

// ReadRecord reads a file that holds the JSON of a [Record]. ok is false if there is none, or it is of another binary than the one at path. Modules of QEMU's that were
// added or removed since are not seen: what the record does not have, QEMU has to be asked for.
func ReadRecord(file, path string) (can Capabilities, ok bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Capabilities{}, false
	}
	var r Record
	if err := json.Unmarshal(text, &r); err != nil || r.BuildID == "" {
		return Capabilities{}, false
	}
	id, err := buildID(path)
	return r.Capabilities, err == nil && id == r.BuildID
}

// buildID reads the note that a linker leaves in its output: sizes of the name "GNU\0" and of the ID, the type, and these two (elf(5)).
func buildID(path string) (string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	note := f.Section(".note.gnu.build-id")
	if note == nil {
		return "", fmt.Errorf("%s has no build ID", path)
	}
	data, err := note.Data()
	if err != nil {
		return "", err
	}
	if len(data) <= 16 {
		return "", errors.New(path + " has an empty build ID")
	}
	return hex.EncodeToString(data[16:]), nil
}
