package status

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"time"
)

// Condition is what ready means.
type Condition struct {
	// Port is the guest's TCP port that must accept; 0: it is enough that the guest runs.
	Port uint16
	// Guest are the addresses at which the guest itself is reached, of which one is enough; none: only through QEMU.
	Guest []netip.Addr
	// Through is a port that is forwarded to the guest's by somebody who may accept before the guest does; the zero value: the
	// way is up to [Guest.Open].
	Through netip.AddrPort
	// Agent says that the guest's agent must answer, and not a port.
	Agent bool
	// Command must succeed in the guest besides, if there is one.
	Command []string
	// Boot says that the guest's system must have come up, which [VM] knows.
	Boot bool
}

// Guest is what readiness asks of the VM.
type Guest interface {
	// RunState is QEMU's word for what the guest does; "running" is the good one.
	RunState(context.Context) (string, error)
	// Open opens a way to the guest's TCP port that nobody else uses.
	Open(ctx context.Context, port uint16) (Way, error)
	// Agent asks the guest's agent: with a command, whether that succeeds in the guest.
	Agent(ctx context.Context, command []string) error
	// Interfaces are the guest's network interfaces, as its agent tells them; none where it does not.
	Interfaces(context.Context) []Interface
}

// Way leads one connection to a port of the guest.
type Way interface {
	Addr() netip.AddrPort
	// Accepted says whether the guest itself has accepted the connection made to Addr.
	Accepted(context.Context) (bool, error)
	Close()
}

// pause is the time between two looks at a connection that the guest has not accepted yet.
const pause = 10 * time.Millisecond

// Check says whether the guest is ready; if not, reason says why. It takes as long as ctx lets it where the guest
// does not answer at all.
func (c Condition) Check(ctx context.Context, g Guest) (ready bool, reason string) {
	state, err := g.RunState(ctx)
	if err != nil {
		return false, fmt.Sprintf("QEMU does not answer: %v", err)
	}
	if state != "running" {
		return false, fmt.Sprintf("the guest is %s", state)
	}
	if c.Agent {
		return c.checkAgent(ctx, g)
	}
	if c.Port == 0 {
		return true, "the guest is running"
	}
	if len(c.Guest) > 0 {
		return connects(ctx, c.Guest, c.Port)
	}
	way, err := g.Open(ctx, c.Port)
	if err != nil {
		return false, fmt.Sprintf("no way to the guest's port %d: %v", c.Port, err)
	}
	defer way.Close()
	return accepts(ctx, way, c.Port)
}

func (c Condition) checkAgent(ctx context.Context, g Guest) (bool, string) {
	err := g.Agent(ctx, c.Command)
	switch {
	case err == nil && len(c.Command) > 0:
		return true, fmt.Sprintf("%s succeeds in the guest", c.Command[0])
	case err == nil:
		return true, "the guest's agent answers"
	case len(c.Command) > 0:
		return false, fmt.Sprintf("%s does not succeed in the guest: %v", c.Command[0], err)
	}
	return false, err.Error()
}

// connects makes a connection that nobody but the guest can accept, at whichever of its addresses.
func connects(ctx context.Context, guest []netip.Addr, port uint16) (bool, string) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	answers := make(chan error, len(guest))
	for _, a := range guest {
		go func() {
			var d net.Dialer
			conn, err := d.DialContext(ctx, "tcp", netip.AddrPortFrom(a, port).String())
			if err == nil {
				conn.Close()
			}
			answers <- err
		}()
	}
	reason := fmt.Sprintf("the guest does not answer on port %d", port)
	for range guest {
		err := <-answers
		if err == nil {
			return true, fmt.Sprintf("the guest accepts on port %d", port)
		}
		if errors.Is(err, syscall.ECONNREFUSED) {
			reason = fmt.Sprintf("nothing listens on the guest's port %d", port)
		}
	}
	return false, reason
}

// accepts connects and waits for the guest. A connection alone proves nothing: QEMU's user network accepts before
// the guest does, even for one that is paused. A byte from the guest, or QEMU's word that the guest has answered, does.
func accepts(ctx context.Context, way Way, port uint16) (bool, string) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", way.Addr().String())
	if err != nil {
		return false, fmt.Sprintf("the guest's port %d refuses: %v", port, err)
	}
	defer conn.Close()
	spoken := make(chan error, 1)
	go func() {
		_, err := conn.Read(make([]byte, 1))
		spoken <- err
	}()
	for {
		ok, err := way.Accepted(ctx)
		if err != nil && ctx.Err() == nil {
			return false, fmt.Sprintf("QEMU does not say whether the guest answers on port %d: %v", port, err)
		}
		if ok {
			return true, fmt.Sprintf("the guest accepts on port %d", port)
		}
		select {
		case err := <-spoken:
			if err == nil {
				return true, fmt.Sprintf("the guest speaks on port %d", port)
			}
			return false, fmt.Sprintf("nothing listens on the guest's port %d", port)
		case <-ctx.Done():
			return false, fmt.Sprintf("the guest does not answer on port %d", port)
		case <-time.After(pause):
		}
	}
}
