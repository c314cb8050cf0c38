package config

import (
	"fmt"
	"slices"
	"strings"
)

// maxShown is how much of a value a message repeats, in bytes.
const maxShown = 120

// Mistake is one thing that is wrong with one variable.
type Mistake struct {
	Variable string
	Value    string // as the user wrote it; empty if the variable is unset or its value is a secret
	Problem  string // what is wrong, and the legal range or what to write instead
}

// String is the mistake in one line: VM_MEMORY="4X": not a size; write 512M, 4G or 4Gi.
func (m Mistake) String() string {
	if m.Value == "" {
		return m.Variable + ": " + m.Problem
	}
	value := m.Value
	if len(value) > maxShown {
		value = strings.ToValidUTF8(value[:maxShown], "") + "…"
	}
	return fmt.Sprintf("%s=%q: %s", m.Variable, value, m.Problem)
}

// Mistakes are all of them at once: those of single variables in the order of the table, then those between several.
type Mistakes []Mistake

// Error is one line for each mistake.
func (m Mistakes) Error() string {
	lines := make([]string, len(m))
	for i, mistake := range m {
		lines[i] = mistake.String()
	}
	return strings.Join(lines, "\n")
}

// Err is m as an error, and nil if there are no mistakes: an empty list in an error variable would not be nil.
func (m Mistakes) Err() error {
	if len(m) == 0 {
		return nil
	}
	return m
}

// Has tells whether something is wrong with this variable, so that a later check does not judge a value that the user did
// not write.
func (m Mistakes) Has(variable string) bool {
	return slices.ContainsFunc(m, func(mistake Mistake) bool { return mistake.Variable == variable })
}

// Warning is something that does not stop the start, but is hardly what the user meant.
type Warning struct {
	Variable string
	Problem  string
}

// String is the warning in one line.
func (w Warning) String() string {
	return w.Variable + ": " + w.Problem
}
