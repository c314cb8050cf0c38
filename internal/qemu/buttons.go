package qemu

import (
	"context"
	"fmt"
	"net/netip"
	"strconv"
	"strings"
)

// Powerdown presses the power button. The guest decides what that means, and a guest that is still booting misses it.
func (m *Monitor) Powerdown(ctx context.Context) error {
	return m.Execute(ctx, "system_powerdown", nil, nil)
}

// Quit ends QEMU, which flushes its disks first. The guest is not asked.
func (m *Monitor) Quit(ctx context.Context) error { return m.Execute(ctx, "quit", nil, nil) }

// Resume lets a paused guest go on, or one that was started paused begin.
func (m *Monitor) Resume(ctx context.Context) error { return m.Execute(ctx, "cont", nil, nil) }

// Pause stops the guest's processors.
func (m *Monitor) Pause(ctx context.Context) error { return m.Execute(ctx, "stop", nil, nil) }

// Reset presses the reset button.
func (m *Monitor) Reset(ctx context.Context) error { return m.Execute(ctx, "system_reset", nil, nil) }

// RunState is QEMU's word for what the guest is doing: "running", "paused", "io-error", "guest-panicked", …
// (RunState in QEMU's qapi/run-state.json).
func (m *Monitor) RunState(ctx context.Context) (string, error) {
	var status struct{ Status string }
	err := m.Execute(ctx, "query-status", nil, &status)
	return status.Status, err
}

// human runs a command of the human monitor, for the few things that QMP has no command for.
func (m *Monitor) human(ctx context.Context, line string) (string, error) {
	var text string
	err := m.Execute(ctx, "human-monitor-command", map[string]any{"command-line": line}, &text)
	return strings.TrimSpace(text), err
}

// AddForward adds a port forward to the running user network called netdev.
func (m *Monitor) AddForward(ctx context.Context, netdev string, f Forward) error {
	text, err := m.human(ctx, fmt.Sprintf("hostfwd_add %s %s", netdev, f))
	if err == nil && text != "" {
		return fmt.Errorf("hostfwd_add %s: %s", f, text)
	}
	return err
}

// RemoveForward takes away what [Monitor.AddForward] added.
func (m *Monitor) RemoveForward(ctx context.Context, netdev string, f Forward) error {
	name, _, _ := strings.Cut(f.String(), "-")
	_, err := m.human(ctx, fmt.Sprintf("hostfwd_remove %s %s", netdev, name))
	return err
}

// Connection is one line of the user network's table.
type Connection struct {
	Proto       string // "TCP", "UDP", "ICMP"
	State       string // "ESTABLISHED", "SYN_SENT", "HOST_FORWARD", …
	Source      netip.AddrPort
	Destination netip.AddrPort
}

// UserNet lists what the user-mode network is connecting at this moment.
func (m *Monitor) UserNet(ctx context.Context) ([]Connection, error) {
	// x-query-usernet says the same, but QEMU 7.2 does not have it
	text, err := m.human(ctx, "info usernet")
	return parseUserNet(text), err
}

// parseUserNet reads lines such as
//
//	TCP[ESTABLISHED]  26       127.0.0.1 33770       10.0.2.15    22     0     0
//
// after a heading for each network. Lines of another shape are passed over.
func parseUserNet(text string) []Connection {
	var list []Connection
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 6 {
			continue
		}
		proto, state, ok := strings.Cut(strings.TrimSuffix(f[0], "]"), "[")
		if !ok {
			continue
		}
		source, ok1 := addrPort(f[2], f[3])
		destination, ok2 := addrPort(f[4], f[5])
		if ok1 && ok2 {
			list = append(list, Connection{proto, state, source, destination})
		}
	}
	return list
}

func addrPort(host, port string) (netip.AddrPort, bool) {
	if host == "*" {
		host = "0.0.0.0"
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.AddrPort{}, false
	}
	n, err := strconv.ParseUint(port, 10, 16)
	return netip.AddrPortFrom(ip, uint16(n)), err == nil
}
