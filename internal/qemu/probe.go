package qemu

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
)

// Version is QEMU's own.
type Version struct {
	Major, Minor, Micro int
	Package             string // the distribution's
}

func (v Version) String() string { return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Micro) }

// Before says whether v is older than major.minor.
func (v Version) Before(major, minor int) bool {
	return v.Major < major || v.Major == major && v.Minor < minor
}

// Capabilities is what one QEMU binary can do.
type Capabilities struct {
	Version  Version
	Machines []string // with their aliases
	Devices  []string
	Objects  []string // backends for -object
	Netdevs  []string // "user" is missing where QEMU was built without slirp; empty if QEMU does not say

	NoSandbox bool // it was built without a filter of system calls. A record that does not say so is of a QEMU that has one
}

// Oldest is the oldest QEMU that has all that [Machine.Args] uses.
var Oldest = Version{Major: 6} // -action panic; free-page-reporting and rng-builtin are older

// Probe asks the QEMU at path what it can do. It starts it without a machine, so nothing of the host is touched.
func Probe(ctx context.Context, path string, environ []string) (Capabilities, error) {
	cmd := exec.CommandContext(ctx, path, "-machine", "none", "-nodefaults", "-no-user-config", "-display", "none", "-qmp", "stdio")
	cmd.Env = environ
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return Capabilities{}, err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return Capabilities{}, err
	}
	if err := cmd.Start(); err != nil {
		return Capabilities{}, err
	}
	caps, err := interview(ctx, pipe{stdout, stdin})
	waitErr := cmd.Wait()
	if err != nil {
		if words := strings.TrimSpace(stderr.String()); words != "" {
			return Capabilities{}, fmt.Errorf("%s does not answer QMP: %s", path, words)
		}
		if waitErr != nil {
			return Capabilities{}, fmt.Errorf("%s does not answer QMP: %w", path, waitErr)
		}
		return Capabilities{}, fmt.Errorf("%s does not answer QMP: %w", path, err)
	}
	return caps, nil
}

// pipe makes one stream of a process's two.
type pipe struct {
	io.ReadCloser
	w io.WriteCloser
}

func (p pipe) Write(b []byte) (int, error) { return p.w.Write(b) }
func (p pipe) Close() error {
	p.w.Close()
	return p.ReadCloser.Close()
}

func interview(ctx context.Context, conn io.ReadWriteCloser) (Capabilities, error) {
	m, err := NewMonitor(ctx, conn, nil)
	if err != nil {
		return Capabilities{}, err
	}
	defer m.Close()
	caps := Capabilities{Version: m.Version}
	var machines []struct{ Name, Alias string }
	if err := m.Execute(ctx, "query-machines", nil, &machines); err != nil {
		return Capabilities{}, err
	}
	for _, t := range machines {
		caps.Machines = append(caps.Machines, t.Name)
		if t.Alias != "" {
			caps.Machines = append(caps.Machines, t.Alias)
		}
	}
	if caps.Devices, err = m.types(ctx, "device"); err != nil {
		return Capabilities{}, err
	}
	if caps.Objects, err = m.types(ctx, "user-creatable"); err != nil {
		return Capabilities{}, err
	}
	if caps.Netdevs, err = m.netdevs(ctx); err != nil {
		return Capabilities{}, err
	}
	// an option that this QEMU was built without is an error
	caps.NoSandbox = m.Execute(ctx, "query-command-line-options", map[string]any{"option": "sandbox"}, nil) != nil
	slices.Sort(caps.Machines)
	return caps, m.Execute(ctx, "quit", nil, nil)
}

func (m *Monitor) types(ctx context.Context, implements string) ([]string, error) {
	var list []struct{ Name string }
	err := m.Execute(ctx, "qom-list-types", map[string]any{"implements": implements, "abstract": false}, &list)
	names := make([]string, len(list))
	for i, t := range list {
		names[i] = t.Name
	}
	slices.Sort(names)
	return names, err
}

// netdevs reads the network back-ends from QEMU's schema: the enumeration that has "hubport", which only
// NetClientDriver has.
func (m *Monitor) netdevs(ctx context.Context) ([]string, error) {
	var schema []struct {
		MetaType string          `json:"meta-type"`
		Values   json.RawMessage `json:"values"`
	}
	if err := m.Execute(ctx, "query-qmp-schema", nil, &schema); err != nil {
		return nil, err
	}
	for _, e := range schema {
		var values []string
		if e.MetaType != "enum" || json.Unmarshal(e.Values, &values) != nil {
			continue
		}
		if slices.Contains(values, "hubport") {
			return values, nil
		}
	}
	return nil, nil
}

// HasMachine says whether there is such a machine type.
func (c Capabilities) HasMachine(kind string) bool { return slices.Contains(c.Machines, kind) }

// Check says what m needs and this QEMU does not have, in words for the user; nothing if all is there.
func (c Capabilities) Check(m Machine) []string {
	var missing []string
	if c.Version.Before(Oldest.Major, Oldest.Minor) {
		missing = append(missing, fmt.Sprintf("QEMU %s is too old: %d.%d or later is needed", c.Version, Oldest.Major, Oldest.Minor))
	}
	args := m.Args()
	args = args[:len(args)-len(m.ExtraArgs)]
	for i, arg := range args {
		if i == 0 {
			continue
		}
		kind, _, _ := strings.Cut(arg, ",")
		switch args[i-1] {
		case "-device":
			if !slices.Contains(c.Devices, kind) {
				missing = append(missing, fmt.Sprintf("QEMU %s has no device %q: its package or module is not installed", c.Version, kind))
			}
		case "-object":
			if !slices.Contains(c.Objects, kind) {
				missing = append(missing, fmt.Sprintf("QEMU %s has no object %q", c.Version, kind))
			}
		case "-netdev":
			if len(c.Netdevs) > 0 && !slices.Contains(c.Netdevs, kind) {
				missing = append(missing, fmt.Sprintf("QEMU %s has no network back-end %q", c.Version, kind))
			}
		}
	}
	return slices.Compact(missing)
}
