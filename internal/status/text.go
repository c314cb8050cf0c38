package status

import (
	"fmt"
	"net/netip"
	"strings"
	"text/tabwriter"
	"time"
)

// Text is the report for people.
func (r Report) Text() string {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	row := func(name, format string, args ...any) { fmt.Fprintf(w, "%s\t%s\n", name, fmt.Sprintf(format, args...)) }
	state := r.State
	if r.Stopping {
		state += ", being stopped"
	}
	row("name", "%s", r.Name)
	row("state", "%s, started %s ago", state, (time.Duration(float64(r.Uptime) * float64(time.Second))).Round(time.Second))
	row("ready", "%s", r.Ready)
	row("live", "%s", r.Live)
	if r.CPUs > 0 {
		row("machine", "%d CPUs, %d MiB of memory, accelerator %s, firmware %s", r.CPUs, r.Memory>>20, r.Accelerator, r.Firmware)
	}
	row("network", "%s", r.Network)
	for _, i := range r.Interfaces {
		row("guest's "+i.Name, "%s", join(i.Addresses, netip.Prefix.String))
	}
	row("versions", "vmentry %s, QEMU %s", r.Version, r.QEMU)
	for i, p := range r.Milestones {
		name := ""
		if i == 0 {
			name = "milestones"
		}
		row(name, "%8.3f s  %s", p.After, p.Milestone)
	}
	w.Flush()
	return b.String()
}

// String is the answer in words.
func (a Answer) String() string {
	if a.OK {
		return "yes: " + a.Reason
	}
	return "no: " + a.Reason
}

// String is the network in words.
func (n Network) String() string {
	text := n.Mode
	if len(n.Addresses) > 0 {
		text += ", at " + join(n.Addresses, netip.Addr.String)
	}
	if len(n.Forwards) > 0 {
		text += ", ports " + strings.Join(n.Forwards, ", ")
	}
	return text
}

func join[T any](list []T, text func(T) string) string {
	words := make([]string, len(list))
	for i, v := range list {
		words[i] = text(v)
	}
	return strings.Join(words, ", ")
}
