package boot

import (
	"context"
	"net/netip"
	"slices"

	"github.com/vmentry/vmentry/internal/agent"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/status"
)

// guest lets status ask a QEMU whether its guest is ready.
type guest struct {
	*qemu.Monitor
	agent *agent.Agent
}

// Agent asks the guest's agent.
func (g guest) Agent(ctx context.Context, command []string) error {
	return askAgent(ctx, g.agent, command)
}

// Interfaces asks the guest's agent for them. Loopback is every guest's.
func (g guest) Interfaces(ctx context.Context) []status.Interface {
	all, _ := g.agent.Interfaces(ctx)
	var others []status.Interface
	for _, i := range all {
		if !slices.ContainsFunc(i.Addresses, func(p netip.Prefix) bool { return p.Addr().IsLoopback() }) {
			others = append(others, status.Interface{Name: i.Name, Addresses: i.Addresses})
		}
	}
	return others
}

// netdev is QEMU's name for the network that the readiness port is on.
const netdev = "net0"

var loopback = netip.AddrFrom4([4]byte{127, 0, 0, 1})

// Open adds a forward of its own to the user network. A forward of the user's would not do: its connections cannot be told
// from each other, and the readiness port need not have one.
func (g guest) Open(ctx context.Context, port uint16) (status.Way, error) {
	free, err := freePort("tcp")
	if err != nil {
		return nil, err
	}
	f := qemu.Forward{Proto: "tcp", HostIP: loopback, HostPort: free, GuestPort: port}
	if err := g.AddForward(ctx, netdev, f); err != nil {
		return nil, err
	}
	return &way{guest: g, forward: f}, nil
}

// way is a forward that is there for one connection.
type way struct {
	guest
	forward qemu.Forward
	removed bool
}

func (w *way) Addr() netip.AddrPort { return netip.AddrPortFrom(w.forward.HostIP, w.forward.HostPort) }

// Accepted looks for the connection in QEMU's table, which names it by the address that QEMU listens on, and not by its
// peer. CLOSE_WAIT: the guest has accepted, spoken and closed. As soon as the connection is there the forward is taken away,
// which leaves the connection alone: a probe may be killed while it waits for the guest, and must not leave a port behind.
func (w *way) Accepted(ctx context.Context) (bool, error) {
	table, err := w.UserNet(ctx)
	for _, c := range table {
		if c.Source != w.Addr() || c.State == "HOST_FORWARD" {
			continue
		}
		w.Close()
		if c.State == "ESTABLISHED" || c.State == "CLOSE_WAIT" {
			return true, nil
		}
	}
	return false, err
}

// Close takes the forward away, unless it is gone.
func (w *way) Close() {
	if w.removed {
		return
	}
	w.removed = true
	ctx, cancel := context.WithTimeout(context.Background(), qmpAnswer)
	defer cancel()
	w.RemoveForward(ctx, netdev, w.forward)
}
