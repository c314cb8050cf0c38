package status

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Facts is what a running VM leaves in its run directory for those who come from outside.
type Facts struct {
	Name    string    `json:"name"`
	PID     int       `json:"pid"` // of vmentry, in its own PID namespace
	Started time.Time `json:"started"`
	Mode    string    `json:"network"`
	Ready   Condition `json:"ready"`
}

const factsFile = "vm.json"

// Files are the names of what this package writes into a run directory. While it is being written a file's name is that with a dot before, and a dash
// and digits behind it.
var Files = []string{factsFile, fullFile, heldFile}

// ErrNoVM means that no VM runs with this run directory.
var ErrNoVM = errors.New("no VM runs here")

// Write puts the facts into dir, whole or not at all.
func (f Facts) Write(dir string) error { return writeJSON(dir, factsFile, f) }

func writeJSON(dir, name string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return write(dir, name, append(data, '\n'))
}

// write makes the file called name in dir, or replaces it, whole or not at all. It follows no link that somebody else has put there.
func write(dir, name string, data []byte) error {
	f, err := os.CreateTemp(dir, "."+name+"-*")
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err = errors.Join(err, f.Close()); err == nil {
		err = os.Rename(f.Name(), filepath.Join(dir, name))
	}
	if err != nil {
		os.Remove(f.Name())
	}
	return err
}

// ReadFacts reads what [Facts.Write] wrote. It is [ErrNoVM] where there is nothing.
func ReadFacts(dir string) (Facts, error) {
	var f Facts
	data, err := os.ReadFile(filepath.Join(dir, factsFile))
	if errors.Is(err, fs.ErrNotExist) {
		return f, fmt.Errorf("%w: there is no %s in %s", ErrNoVM, factsFile, dir)
	}
	if err != nil {
		return f, err
	}
	if err := json.Unmarshal(data, &f); err != nil {
		return f, fmt.Errorf("%s: %w", filepath.Join(dir, factsFile), err)
	}
	return f, nil
}
