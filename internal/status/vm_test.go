package status

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
)

func newVM(t *testing.T, ready Condition) *VM {
	t.Helper()
	vm := NewVM(ready, t.TempDir(), NewMilestones(time.Now(), slog.New(slog.DiscardHandler)))
	vm.Is(About{Name: "tiny", Version: "1.2.3", QEMU: "10.0.3", Accelerator: "tcg", CPUs: 1, Memory: 256 << 20, Network: Network{Mode: "user"}})
	return vm
}

// TestLife asks the three probes at every point of a VM's life.
func TestLife(t *testing.T) {
	vm := newVM(t, Condition{Boot: true})
	guest := &fakeGuest{state: "running"}
	wants := func(when string, startup, ready, live bool, state, says string) {
		t.Helper()
		r := vm.Report(t.Context())
		if r.Startup.OK != startup || r.Ready.OK != ready || r.Live.OK != live || r.State != state {
			t.Errorf("%s: startup %v, ready %v, live %v, state %q", when, r.Startup, r.Ready, r.Live, r.State)
		}
		if all := r.Startup.Reason + "; " + r.Ready.Reason + "; " + r.Live.Reason; !strings.Contains(all, says) {
			t.Errorf("%s: %q is not said: %s", when, says, all)
		}
	}
	wants("while it is prepared", false, false, true, Starting, "being prepared")
	vm.Runs(guest)
	wants("while it boots", false, false, true, "running", "has not booted")
	vm.Boots()
	wants("when it has booted", true, true, true, "running", "has booted")
	guest.state = "paused"
	wants("while it is paused", true, false, true, "paused", "paused")
	guest.state = "running"
	vm.Resets()
	wants("after a reset", true, false, true, "running", "has not booted")
	vm.Stuck("nothing to boot")
	wants("with a firmware that has found nothing", true, false, true, "running", "nothing to boot")
	vm.Stuck("")
	wants("with one that somebody has helped", true, false, true, "running", "has not booted")
	vm.Stuck("nothing to boot")
	vm.Resets()
	wants("after another reset", true, false, true, "running", "has not booted")
	vm.Boots()
	for state, says := range map[string]string{"io-error": "a disk's error", "guest-panicked": "panicked", "internal-error": "QEMU has failed", "watchdog": "watchdog"} {
		guest.state = state
		wants("in the state "+state, true, false, false, state, says)
	}
	guest.state, guest.stateErr = "", errors.New("no answer")
	wants("with a QEMU that hangs", true, false, false, Unknown, "does not answer")
	full := Full{Disk: "disk", Path: "/data/overlay", Since: time.Now()}
	guest.state, guest.stateErr = "io-error", nil
	if err := full.Write(vm.runDir); err != nil {
		t.Fatal(err)
	}
	wants("without space", true, false, false, "io-error", "no space left")
	if r := vm.Report(t.Context()); r.Full == nil || r.Full.Path != full.Path {
		t.Errorf("the report says of the full disk: %v", r.Full)
	}
	vm.Ends()
	wants("at the end", true, false, false, Ended, "has ended")
}

// TestReadyIsSharedAmongThoseWhoWait: many who ask at once do not make a connection each.
func TestReadyIsSharedAmongThoseWhoWait(t *testing.T) {
	vm := newVM(t, Condition{})
	asked := make(chan struct{}, 100)
	release := make(chan struct{})
	vm.Runs(&waitingGuest{asked: asked, release: release})
	answers := make(chan Answer, 20)
	go func() { answers <- vm.Ready(context.Background()) }()
	<-asked // the first one's question is under way
	for range 19 {
		go func() { answers <- vm.Ready(context.Background()) }()
	}
	time.Sleep(50 * time.Millisecond) // so that they have come
	close(release)
	for range 20 {
		if a := <-answers; !a.OK {
			t.Error(a)
		}
	}
	if n := 1 + len(asked); n > 3 {
		t.Errorf("the guest was asked %d times", n)
	}
}

// TestReadyIsInTime: a guest that does not answer somebody else does not keep who asks from their answer.
func TestReadyIsInTime(t *testing.T) {
	vm := newVM(t, Condition{})
	asked, release := make(chan struct{}, 100), make(chan struct{})
	vm.Runs(&waitingGuest{asked: asked, release: release})
	first := make(chan Answer)
	go func() { first <- vm.Ready(context.Background()) }()
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if a := vm.Ready(ctx); a.OK || a.Reason != "the guest has not answered yet" {
		t.Errorf("before there was an answer: %v", a)
	}
	close(release)
	if a := <-first; !a.OK {
		t.Error(a)
	}
	release = make(chan struct{})
	vm.Runs(&waitingGuest{asked: asked, release: release})
	go func() { first <- vm.Ready(context.Background()) }()
	<-asked
	vm.set(func() { vm.last = Answer{true, "as it was"} })
	if a := vm.Ready(ctx); a.OK || !strings.Contains(a.Reason, "has not answered for longer") {
		t.Errorf("of a guest that was ready: %v", a)
	}
	close(release)
	<-first
}

// TestReadyHasTheBetterReason: a question that came to its turn when its time was nearly up does not blame QEMU for that.
func TestReadyHasTheBetterReason(t *testing.T) {
	vm := newVM(t, Condition{})
	asked, release := make(chan struct{}, 100), make(chan struct{})
	vm.Runs(&waitingGuest{fakeGuest: fakeGuest{state: "paused"}, asked: asked, release: release})
	go vm.Ready(context.Background())
	<-asked
	ctx, cancel := context.WithCancel(t.Context())
	second := make(chan Answer)
	go func() { second <- vm.Ready(ctx) }()
	time.Sleep(50 * time.Millisecond) // most of the second's time
	release <- struct{}{}             // the first is answered
	<-asked
	vm.set(func() { vm.guest.(*waitingGuest).stateErr = context.Canceled })
	cancel()
	release <- struct{}{}
	if a := <-second; a.OK || !strings.Contains(a.Reason, "paused") {
		t.Errorf("the reason is %v", a)
	}
}

type waitingGuest struct {
	fakeGuest
	asked, release chan struct{}
}

func (g *waitingGuest) RunState(context.Context) (string, error) {
	g.asked <- struct{}{}
	<-g.release
	if g.state != "" {
		return g.state, g.stateErr
	}
	return "running", nil
}

// TestReportAsJSON holds the names that are documented, and may not change.
func TestReportAsJSON(t *testing.T) {
	vm := newVM(t, Condition{})
	vm.Runs(&fakeGuest{state: "running", interfaces: []Interface{{"eth0", []netip.Prefix{netip.MustParsePrefix("10.0.2.15/24")}}}})
	full := Full{Disk: "disk", Path: "/d", FileSystem: "ext4 on /", Free: 1, Since: time.Now()}
	if err := full.Write(vm.runDir); err != nil {
		t.Fatal(err)
	}
	vm.Report(t.Context())
	text, err := json.Marshal(vm.Report(t.Context()))
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"name", "vmentry", "qemu", "accelerator", "firmware", "cpus", "memory_bytes", "network", "state", "stopping",
		"startup", "ready", "live", "started", "uptime_seconds", "milestones"} {
		if _, ok := fields[name]; !ok {
			t.Errorf("there is no %s in %s", name, text)
		}
	}
	for parent, names := range map[string][]string{
		"network": {"mode", "addresses", "forwards"}, "ready": {"ok", "reason"}, "disk_full": {"disk", "path", "file_system", "free_bytes", "since"},
	} {
		for _, name := range names {
			if _, ok := fields[parent].(map[string]any)[name]; !ok {
				t.Errorf("there is no %s.%s in %s", parent, name, text)
			}
		}
	}
	interfaces := fields["interfaces"].([]any)
	if i := interfaces[0].(map[string]any); i["name"] != "eth0" || i["addresses"].([]any)[0] != "10.0.2.15/24" {
		t.Errorf("an interface is %v", i)
	}
	milestones := fields["milestones"].([]any)
	if m := milestones[0].(map[string]any); m["name"] != "ready" || m["after_seconds"] == nil || m["at"] == nil {
		t.Errorf("a milestone is %v", m)
	}
	var report Report
	if err := json.Unmarshal(text, &report); err != nil || !strings.Contains(report.Text(), "tiny") || !strings.Contains(report.Text(), "256 MiB") || !strings.Contains(report.Text(), "10.0.2.15/24") {
		t.Errorf("%v\n%s", err, report.Text())
	}
}

// TestMetricsOfAGuestThatDoesNotAnswer: what QEMU counts is there all the same.
func TestMetricsOfAGuestThatDoesNotAnswer(t *testing.T) {
	vm := newVM(t, Condition{Port: 22})
	vm.Runs(&fakeGuest{state: "running", addr: listen(t, func(net.Conn) {}), accepted: func() (bool, error) { return false, nil }})
	h := MetricsHandler(vm, func(ctx context.Context) Sample {
		if ctx.Err() != nil {
			return Sample{}
		}
		return Sample{CPUSeconds: map[int]float64{0: 1.5}}
	})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	for _, want := range []string{"vmentry_guest_ready 0", `vmentry_guest_cpu_seconds_total{cpu="0"} 1.5`} {
		if !strings.Contains(w.Body.String(), want) {
			t.Errorf("%q is not in the metrics:\n%s", want, w.Body)
		}
	}
}

// TestMetrics: what Prometheus reads is right by its own rules, and has the VM's numbers.
func TestMetrics(t *testing.T) {
	vm := newVM(t, Condition{})
	vm.Runs(&fakeGuest{state: "running"})
	vm.milestones.Reach(Configured)
	free := 1e8
	h := MetricsHandler(vm, func(context.Context) Sample {
		return Sample{
			Commit: "abc", CPUSeconds: map[int]float64{0: 1.5}, Memory: GuestMemory{Free: &free, SwapIn: &free},
			Disks: map[string]DiskCounters{"disk": {ReadBytes: 4096, Flushes: 3}}, Cards: map[string]CardCounters{"net0": {SentBytes: 60}},
			DHCPAnswers: map[string]uint64{"DHCPACK": 2}, ConsoleBytes: 77, QEMUResident: 1 << 20, GuestResets: 1,
		}
	})
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	text := w.Body.String()
	for _, want := range []string{
		`vmentry_build_info{commit="abc",qemu="10.0.3",version="1.2.3"} 1`, `vmentry_guest_state{state="running"} 1`, `vmentry_guest_ready 1`, `vmentry_guest_live 1`,
		`vmentry_boot_milestone_seconds{milestone="configured"} `, `vmentry_guest_cpu_seconds_total{cpu="0"} 1.5`, `vmentry_guest_memory_free_bytes 1e+08`,
		`vmentry_disk_bytes_total{disk="disk",operation="read"} 4096`, `vmentry_disk_operations_total{disk="disk",operation="flush"} 3`,
		`vmentry_network_bytes_total{card="net0",direction="transmit"} 60`, `vmentry_dhcp_answers_total{message="DHCPACK"} 2`, `vmentry_console_bytes_total 77`,
		`vmentry_guest_resets_total 1`, `process_resident_memory_bytes`, `go_goroutines`,
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is not in the metrics", want)
		}
	}
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	problems = slices.DeleteFunc(problems, func(p promlint.Problem) bool { return !strings.HasPrefix(p.Metric, "vmentry_") })
	if err != nil || len(problems) > 0 {
		t.Errorf("%v %v", err, problems)
	}
	if t.Failed() {
		t.Log(text)
	}
}
