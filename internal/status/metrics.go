package status

import (
	"context"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Sample is what is counted about a VM at one moment. What is not known is not there.
type Sample struct {
	CPUSeconds   map[int]float64 // by vCPU
	Memory       GuestMemory
	Disks        map[string]DiskCounters
	Cards        map[string]CardCounters
	DHCPAnswers  map[string]uint64 // by message
	ConsoleBytes int64
	QEMUResident int64 // bytes; 0: QEMU does not run
	GuestResets  int
	Commit       string // of vmentry
}

// GuestMemory is what the guest says of its memory, in bytes; a nil is not known.
type GuestMemory struct{ Total, Free, Available, Caches, SwapIn, SwapOut *float64 }

// DiskCounters count what the guest has done with a disk since QEMU began.
type DiskCounters struct {
	ReadBytes, WrittenBytes   float64
	Reads, Writes, Flushes    float64
	ReadSeconds, WriteSeconds float64
	FailedReads, FailedWrites float64
}

// CardCounters count what has gone through a network card, as the guest sees it.
type CardCounters struct {
	ReceivedBytes, SentBytes, ReceivedPackets, SentPackets, ReceiveDropped, SendDropped float64
}

// metric describes one metric of ours; all are named vmentry_….
func metric(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("vmentry_"+name, help, labels, nil)
}

var (
	buildInfo  = metric("build_info", "Constant 1; the versions are the labels.", "version", "commit", "qemu")
	vmInfo     = metric("vm_info", "Constant 1; how the VM was made is in the labels.", "name", "accelerator", "firmware", "network")
	startTime  = metric("start_time_seconds", "When vmentry was started, in seconds since 1970.")
	guestState = metric("guest_state", "1 for the state that the guest is in: starting, unknown, ended, or QEMU's word for it.", "state")
	guestReady = metric("guest_ready", "1 if the guest is ready (VM_READY).")
	guestLive  = metric("guest_live", "1 if QEMU answers and the guest runs or was paused.")
	milestone  = metric("boot_milestone_seconds", "How long after vmentry's start a milestone was reached.", "milestone")
	resets     = metric("guest_resets_total", "How often the guest was reset, by itself or by the button.")
	vcpus      = metric("guest_vcpus", "How many virtual CPUs the guest has.")
	cpuSeconds = metric("guest_cpu_seconds_total", "Time that a virtual CPU's thread has run on the host's CPUs.", "cpu")
	memorySize = metric("guest_memory_size_bytes", "The guest's RAM.")
	memory     = map[string]*prometheus.Desc{
		"total":     metric("guest_memory_total_bytes", "The guest's own account of its memory (balloon statistics)."),
		"free":      metric("guest_memory_free_bytes", "Memory that the guest does not use at all (balloon statistics)."),
		"available": metric("guest_memory_available_bytes", "Memory that the guest could give to a new program without swapping (balloon statistics)."),
		"caches":    metric("guest_memory_caches_bytes", "Memory in which the guest keeps what it can read again (balloon statistics)."),
	}
	swap        = metric("guest_swap_bytes_total", "What the guest has swapped (balloon statistics).", "direction")
	diskBytes   = metric("disk_bytes_total", "What the guest has read from and written to a disk.", "disk", "operation")
	diskOps     = metric("disk_operations_total", "The guest's requests to a disk that were carried out.", "disk", "operation")
	diskSeconds = metric("disk_seconds_total", "How long the guest's requests to a disk took, all together.", "disk", "operation")
	diskErrors  = metric("disk_errors_total", "The guest's requests to a disk that failed.", "disk", "operation")
	netBytes    = metric("network_bytes_total", "What has gone through a network card, as the guest sees it.", "card", "direction")
	netPackets  = metric("network_packets_total", "Packets that have gone through a network card, as the guest sees it.", "card", "direction")
	netDropped  = metric("network_dropped_packets_total", "Packets that were dropped before a network card, as the guest sees it.", "card", "direction")
	dhcp        = metric("dhcp_answers_total", "What vmentry has told the guest of its addresses, by message.", "message")
	consoleOut  = metric("console_bytes_total", "What the guest has written to its serial console.")
	resident    = metric("qemu_resident_memory_bytes", "Memory of QEMU's that is in RAM, with the guest's.")
)

// collector makes metrics of a VM when it is asked.
type collector struct {
	vm     *VM
	sample func(context.Context) Sample
}

// scrape is how long the guest may take to answer a scrape, and then QEMU. Prometheus waits ten seconds by default.
const scrape = 3 * time.Second

func within[T any](d time.Duration, ask func(context.Context) T) T {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	defer cancel()
	return ask(ctx)
}

// MetricsHandler serves vm's metrics, and those of vmentry's own process, for Prometheus.
func MetricsHandler(vm *VM, sample func(context.Context) Sample) http.Handler {
	handler := sync.OnceValue(func() http.Handler { // when somebody asks: most VMs are never asked
		registry := prometheus.NewPedanticRegistry()
		registry.MustRegister(collector{vm, sample}, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
		return promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4, Timeout: 3 * scrape})
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { handler().ServeHTTP(w, r) })
}

// Describe lists what there can be.
func (c collector) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{buildInfo, vmInfo, startTime, guestState, guestReady, guestLive, milestone, resets, vcpus, cpuSeconds, memorySize,
		swap, diskBytes, diskOps, diskSeconds, diskErrors, netBytes, netPackets, netDropped, dhcp, consoleOut, resident} {
		to <- d
	}
	for _, d := range memory {
		to <- d
	}
}

// Collect asks the VM.
func (c collector) Collect(to chan<- prometheus.Metric) {
	m := metrics{to}
	report := within(scrape, c.vm.Report) // all of it where the guest does not answer
	sample := within(scrape, c.sample)
	m.report(report, sample.Commit)
	m.guest(sample)
	for name, d := range sample.Disks {
		m.disk(name, d)
	}
	for name, n := range sample.Cards {
		m.card(name, n)
	}
	for message, n := range sample.DHCPAnswers {
		m.counter(dhcp, float64(n), message)
	}
}

type metrics struct{ to chan<- prometheus.Metric }

func (m metrics) gauge(d *prometheus.Desc, v float64, labels ...string) {
	m.to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
}

func (m metrics) counter(d *prometheus.Desc, v float64, labels ...string) {
	m.to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, v, labels...)
}

func (m metrics) report(r Report, commit string) {
	m.gauge(buildInfo, 1, r.Version, commit, r.QEMU)
	m.gauge(vmInfo, 1, r.Name, r.Accelerator, r.Firmware, r.Network.Mode)
	m.gauge(startTime, float64(r.Started.UnixMilli())/1000)
	m.gauge(guestState, 1, r.State)
	m.gauge(guestReady, yes(r.Ready.OK))
	m.gauge(guestLive, yes(r.Live.OK))
	for _, p := range r.Milestones {
		m.gauge(milestone, float64(p.After), string(p.Milestone))
	}
	m.gauge(vcpus, float64(r.CPUs))
	m.gauge(memorySize, float64(r.Memory))
}

func yes(b bool) float64 {
	if b {
		return 1
	}
	return 0
}

func (m metrics) guest(s Sample) {
	m.counter(resets, float64(s.GuestResets))
	m.counter(consoleOut, float64(s.ConsoleBytes))
	for cpu, seconds := range s.CPUSeconds {
		m.counter(cpuSeconds, seconds, strconv.Itoa(cpu))
	}
	for name, v := range map[string]*float64{"total": s.Memory.Total, "free": s.Memory.Free, "available": s.Memory.Available, "caches": s.Memory.Caches} {
		if v != nil {
			m.gauge(memory[name], *v)
		}
	}
	for direction, v := range map[string]*float64{"in": s.Memory.SwapIn, "out": s.Memory.SwapOut} {
		if v != nil {
			m.counter(swap, *v, direction)
		}
	}
	if s.QEMUResident > 0 {
		m.gauge(resident, float64(s.QEMUResident))
	}
}

func (m metrics) disk(name string, d DiskCounters) {
	m.counter(diskBytes, d.ReadBytes, name, "read")
	m.counter(diskBytes, d.WrittenBytes, name, "write")
	m.counter(diskOps, d.Reads, name, "read")
	m.counter(diskOps, d.Writes, name, "write")
	m.counter(diskOps, d.Flushes, name, "flush")
	m.counter(diskSeconds, d.ReadSeconds, name, "read")
	m.counter(diskSeconds, d.WriteSeconds, name, "write")
	m.counter(diskErrors, d.FailedReads, name, "read")
	m.counter(diskErrors, d.FailedWrites, name, "write")
}

func (m metrics) card(name string, n CardCounters) {
	m.counter(netBytes, n.ReceivedBytes, name, "receive")
	m.counter(netBytes, n.SentBytes, name, "transmit")
	m.counter(netPackets, n.ReceivedPackets, name, "receive")
	m.counter(netPackets, n.SentPackets, name, "transmit")
	m.counter(netDropped, n.ReceiveDropped, name, "receive")
	m.counter(netDropped, n.SendDropped, name, "transmit")
}
