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

// record is what a QEMU said that it can do, kept with the binary so that it has not to be asked at each start.
type record struct {
	BuildID      string // the binary's GNU build ID (ld(1), --build-id), in hexadecimal
	Capabilities Capabilities
}

// WriteRecord asks the QEMU at path, and writes what it says to file, for [ReadRecord].
func WriteRecord(ctx context.Context, file, path string, environ []string) error {
	id, err := buildID(path)
	if err != nil {
		return err
	}
	can, err := Probe(ctx, path, environ)
	if err != nil {
		return err
	}
	text, err := json.Marshal(record{id, can})
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}

// ReadRecord reads what [WriteRecord] has written. ok is false if there is none, or it is of another binary than the one at path. Modules of QEMU's that were
// added or removed since are not seen: what the record does not have, QEMU has to be asked for.
func ReadRecord(file, path string) (can Capabilities, ok bool) {
	text, err := os.ReadFile(file)
	if err != nil {
		return Capabilities{}, false
	}
	var r record
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
