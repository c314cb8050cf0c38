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

// ErrNoVM means that no VM runs with this run directory.
var ErrNoVM = errors.New("no VM runs here")

// Write puts the facts into dir, whole or not at all.
func (f Facts) Write(dir string) error { return writeJSON(dir, factsFile, f) }

// writeJSON makes the file called name in dir, or replaces it, whole or not at all.
func writeJSON(dir, name string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	temporary := filepath.Join(dir, "."+name)
	if err := os.WriteFile(temporary, append(data, '\n'), 0o644); err != nil {
		return err
	}
	return os.Rename(temporary, filepath.Join(dir, name))
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

// RemoveFacts takes away what [Facts.Write] wrote, so that nobody takes a VM for running that is not.
func RemoveFacts(dir string) { os.Remove(filepath.Join(dir, factsFile)) }
