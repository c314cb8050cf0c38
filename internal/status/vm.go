package status

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"
)

// About is what does not change about a VM.
type About struct {
	Name        string  `json:"name"`
	Version     string  `json:"vmentry"` // of vmentry
	QEMU        string  `json:"qemu"`    // its version
	Accelerator string  `json:"accelerator"`
	Firmware    string  `json:"firmware"`
	CPUs        int     `json:"cpus"`
	Memory      int64   `json:"memory_bytes"`
	Network     Network `json:"network"`
}

// Network is how the guest is connected.
type Network struct {
	Mode      string       `json:"mode"`
	Addresses []netip.Addr `json:"addresses"` // at which the guest is reached, as far as vmentry gives them; else there are the forwards
	Forwards  []string     `json:"forwards"`  // ports of the container that lead into the guest, as HOSTFWD has them
}

// Interface is a network interface of the guest, as the guest says.
type Interface struct {
	Name      string         `json:"name"`
	Addresses []netip.Prefix `json:"addresses"`
}

// Answer is what a probe says.
type Answer struct {
	OK     bool   `json:"ok"`
	Reason string `json:"reason"`
}

// Report is the state of a VM. Its JSON form is documented in docs/operations.md: fields are added, but neither renamed nor taken away.
type Report struct {
	About
	State      string    `json:"state"` // "starting", "unknown", "ended", or QEMU's word
	Stopping   bool      `json:"stopping"`
	Startup    Answer    `json:"startup"`
	Ready      Answer    `json:"ready"`
	Live       Answer    `json:"live"`
	Started    time.Time `json:"started"`
	Uptime     Seconds   `json:"uptime_seconds"`
	Milestones []Passed  `json:"milestones"`
	// Interfaces are the guest's own, but for its loopback; none where no agent tells them.
	Interfaces []Interface `json:"interfaces,omitempty"`
	Full       *Full       `json:"disk_full,omitempty"` // why the guest is paused, if it is for want of space
}

// States that QEMU has no word for.
const (
	Starting = "starting" // QEMU does not run yet
	Unknown  = "unknown"  // QEMU does not answer
	Ended    = "ended"
)

// VM answers for a VM, from the beginning of its start to its end.
type VM struct {
	ready      Condition
	runDir     string
	milestones *Milestones

	check chan struct{} // held by the one check that is under way: those who wait for it share the next one's answer

	mu       sync.Mutex // guards what follows
	about    About
	guest    Guest // nil before it is there, and after
	ended    bool
	stopping bool
	booted   bool
	stuck    string    // why the firmware boots nothing; empty if it does, or is not known to have failed
	last     Answer    // of a check
	lastAt   time.Time // when it began
	told     []Interface
	toldAt   time.Time
}

// NewVM is a VM whose start has begun. ready is what its guest is to be before it counts as ready.
func NewVM(ready Condition, runDir string, milestones *Milestones) *VM {
	return &VM{ready: ready, runDir: runDir, milestones: milestones, check: make(chan struct{}, 1), last: Answer{Reason: "the VM is being prepared"}}
}

// Is tells what is known about the VM, which may become more while it is prepared.
func (v *VM) Is(about About) { v.set(func() { v.about = about }) }

// Runs tells that QEMU runs, and how the guest is asked.
func (v *VM) Runs(guest Guest) {
	v.set(func() { v.guest, v.last = guest, Answer{Reason: "the guest has not answered yet"} })
}

// Stops tells that the VM is being brought down.
func (v *VM) Stops() { v.set(func() { v.stopping = true }) }

// Ends tells that QEMU does not run any more.
func (v *VM) Ends() { v.set(func() { v.guest, v.ended, v.told = nil, true, nil }) }

// Boots tells that the guest's system has come up.
func (v *VM) Boots() {
	v.set(func() { v.booted = true })
	v.milestones.Reach(Booted)
}

// Resets tells that the guest begins anew.
func (v *VM) Resets() { v.set(func() { v.booted, v.stuck, v.told = false, "", nil }) }

// Stuck tells that the firmware boots nothing, and why; an empty why, that it has come to boot something.
func (v *VM) Stuck(why string) { v.set(func() { v.stuck = why }) }

func (v *VM) set(change func()) {
	v.mu.Lock()
	defer v.mu.Unlock()
	change()
}

// asked is the guest to ask, or why there is none.
func (v *VM) asked() (g Guest, booted bool, why string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	switch {
	case v.ended:
		why = "the VM has ended"
	case v.guest == nil:
		why = "the VM is being prepared"
	}
	return v.guest, v.booted, why
}

// Ready says whether the guest is ready now. Whoever asks while somebody else's question is under way shares the answer: not more
// than one connection at a time is made to the guest. It answers when ctx ends at the latest, with what was found last if others' questions
// have taken all the time.
func (v *VM) Ready(ctx context.Context) Answer {
	came := time.Now()
	select {
	case v.check <- struct{}{}:
		defer func() { <-v.check }()
	case <-ctx.Done():
		last, _ := v.found()
		if last.OK {
			return Answer{false, "the guest has not answered for longer than this question may take"}
		}
		return last
	}
	last, at := v.found()
	if at.After(came) {
		return last
	}
	began := time.Now()
	answer := v.askReady(ctx)
	if others := began.Sub(came); others > time.Since(began) && ctx.Err() != nil && !answer.OK && !last.OK {
		return last // theirs took most of the time, and theirs is the better reason
	}
	if answer.OK {
		v.milestones.Reach(Ready, "because", answer.Reason)
	}
	v.set(func() { v.last, v.lastAt = answer, began })
	return answer
}

// found is the answer of the last check, and when that began.
func (v *VM) found() (Answer, time.Time) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.last, v.lastAt
}

func (v *VM) askReady(ctx context.Context) Answer {
	g, booted, why := v.asked()
	if why != "" {
		return Answer{false, why}
	}
	ok, reason := v.ready.Check(ctx, g)
	if full := v.full(); full != nil && !ok {
		return Answer{false, full.String()}
	}
	if ok && v.ready.Boot && !booted {
		ok, reason = false, "the guest has not booted: its console shows neither a login prompt nor systemd's last target"
	}
	if stuck := v.whyStuck(); stuck != "" && !ok {
		return Answer{false, stuck}
	}
	if ok && v.ready.Boot {
		reason = "the guest has booted"
	}
	return Answer{ok, reason}
}

func (v *VM) whyStuck() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.stuck
}

// Startup says whether the guest was ever ready.
func (v *VM) Startup() Answer {
	if p, ok := v.milestones.Find(Ready); ok {
		return Answer{true, fmt.Sprintf("the guest was ready after %.1f s", p.After)}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	return Answer{false, "the guest was not ready yet: " + cmp.Or(v.stuck, v.last.Reason)}
}

// Live says whether the VM lives. One that is being prepared does.
func (v *VM) Live(ctx context.Context) Answer {
	answer, _ := v.live(ctx)
	return answer
}

func (v *VM) live(ctx context.Context) (a Answer, state string) {
	g, _, why := v.asked()
	if g != nil {
		s := &stated{runner: g, state: Unknown}
		a.OK, a.Reason = Live(ctx, s)
		if full := v.full(); full != nil && !a.OK {
			a.Reason = full.String()
		}
		return a, s.state
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.ended {
		return Answer{false, why}, Ended
	}
	return Answer{true, why}, Starting
}

// full is why the guest is paused for want of space; nil if it is not.
func (v *VM) full() *Full {
	full, ok, err := ReadFull(v.runDir)
	if err != nil || !ok {
		return nil
	}
	return &full
}

// stated remembers the state that was told.
type stated struct {
	runner
	state string
}

func (s *stated) RunState(ctx context.Context) (string, error) {
	state, err := s.runner.RunState(ctx)
	if err == nil {
		s.state = state
	}
	return state, err
}

// Report tells all. It takes as long as ctx lets it where the guest, or QEMU, does not answer.
func (v *VM) Report(ctx context.Context) Report {
	r := Report{Started: v.milestones.Start.UTC(), Uptime: Seconds(time.Since(v.milestones.Start).Round(time.Millisecond).Seconds())}
	r.Live, r.State = v.live(ctx)
	r.Ready = v.Ready(ctx)
	r.Startup = v.Startup()
	r.Interfaces = v.interfaces(ctx)
	r.Milestones, r.Full = v.milestones.Passed(), v.full()
	v.mu.Lock()
	r.About, r.Stopping = v.about, v.stopping
	v.mu.Unlock()
	return r
}

// How long the guest's agent may take to tell of its interfaces, and for how long that is believed.
const (
	tellTime = time.Second
	tellOnce = 10 * time.Second
)

// interfaces are the guest's, of now or of a moment ago.
func (v *VM) interfaces(ctx context.Context) []Interface {
	v.mu.Lock()
	g, told, at := v.guest, v.told, v.toldAt
	v.mu.Unlock()
	if g == nil || len(told) > 0 && time.Since(at) < tellOnce {
		return told
	}
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	told = g.Interfaces(ctx)
	v.set(func() { v.told, v.toldAt = told, time.Now() })
	return told
}
