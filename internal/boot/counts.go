package boot

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/vmentry/vmentry/internal/network"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/status"
)

// counts are what can be counted about a QEMU that runs.
type counts struct {
	mu     sync.Mutex
	qemu   *qemu.Monitor // nil while there is none to ask
	pid    int
	resets int
	dhcp   []func() map[string]uint64
}

// begin tells that QEMU runs.
func (c *counts) begin(m *qemu.Monitor, pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.qemu, c.pid = m, pid
}

// end tells that it does not any more.
func (c *counts) end() { c.begin(nil, 0) }

// reset counts a reset of the guest.
func (c *counts) reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.resets++
}

// answers adds a DHCP server.
func (c *counts) answers(stats func() map[string]uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dhcp = append(c.dhcp, stats)
}

// running is the QEMU to ask, or nil.
func (c *counts) running() (m *qemu.Monitor, pid int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.qemu, c.pid
}

// sample counts everything. What cannot be had is left out: metrics are no reason to fail.
func (f *front) sample(ctx context.Context) status.Sample {
	s := status.Sample{Commit: f.build.Commit, ConsoleBytes: f.hub.Bytes(), DHCPAnswers: map[string]uint64{}, Cards: f.plan.cards()}
	f.counts.mu.Lock()
	s.GuestResets = f.counts.resets
	for _, stats := range f.counts.dhcp {
		for message, n := range stats() {
			s.DHCPAnswers[message] += n
		}
	}
	f.counts.mu.Unlock()
	m, pid := f.counts.running()
	if m == nil {
		return s
	}
	s.QEMUResident = residentMemory(pid)
	s.CPUSeconds = cpuSeconds(ctx, m, pid)
	s.Disks = diskCounters(ctx, m)
	s.Memory = guestMemory(ctx, m)
	return s
}

// cards are the counters of the guest's cards that end in a tap. What a tap has received the guest has sent.
func (p Plan) cards() map[string]status.CardCounters {
	cards := map[string]status.CardCounters{}
	for i, b := range p.Network.Bridges {
		if n, err := network.Count(b.Tap.Name); err == nil {
			cards[fmt.Sprint("net", i)] = status.CardCounters{
				ReceivedBytes: float64(n.TxBytes), SentBytes: float64(n.RxBytes),
				ReceivedPackets: float64(n.TxPackets), SentPackets: float64(n.RxPackets),
				ReceiveDropped: float64(n.TxDropped), SendDropped: float64(n.RxDropped),
			}
		}
	}
	return cards
}

func diskCounters(ctx context.Context, m *qemu.Monitor) map[string]status.DiskCounters {
	stats, _ := m.DiskStats(ctx)
	disks := map[string]status.DiskCounters{}
	for id, d := range stats {
		disks[id] = status.DiskCounters{
			ReadBytes: float64(d.ReadBytes), WrittenBytes: float64(d.WrittenBytes),
			Reads: float64(d.Reads), Writes: float64(d.Writes), Flushes: float64(d.Flushes),
			ReadSeconds: float64(d.ReadTime) / 1e9, WriteSeconds: float64(d.WriteTime) / 1e9,
			FailedReads: float64(d.FailedReads), FailedWrites: float64(d.FailedWrites),
		}
	}
	return disks
}

func guestMemory(ctx context.Context, m *qemu.Monitor) status.GuestMemory {
	stats, _ := m.MemoryStats(ctx)
	get := func(name string) *float64 {
		if v, ok := stats[name]; ok {
			return &v
		}
		return nil
	}
	return status.GuestMemory{
		Total: get("stat-total-memory"), Free: get("stat-free-memory"), Available: get("stat-available-memory"),
		Caches: get("stat-disk-caches"), SwapIn: get("stat-swap-in"), SwapOut: get("stat-swap-out"),
	}
}

// clockTicks is how many of them make a second in /proc (USER_HZ), on every architecture that vmentry knows.
const clockTicks = 100

// cpuSeconds is how long the threads of the guest's CPUs have run. CPUs that are emulated in turns, by one thread, share its time.
func cpuSeconds(ctx context.Context, m *qemu.Monitor, pid int) map[int]float64 {
	threads, _ := m.CPUThreads(ctx)
	seconds := map[int]float64{}
	sharing := map[int]float64{}
	for _, tid := range threads {
		sharing[tid]++
	}
	for cpu, tid := range threads {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/stat", pid, tid))
		// the name in the second field may hold anything, so the fields are counted from its end: utime is the 14th (proc(5))
		_, rest, ok := bytes.Cut(stat[bytes.LastIndexByte(stat, ')')+1:], []byte(" "))
		fields := strings.Fields(string(rest))
		if err != nil || !ok || len(fields) < 13 {
			continue
		}
		user, _ := strconv.ParseFloat(fields[11], 64)
		system, _ := strconv.ParseFloat(fields[12], 64)
		seconds[cpu] = (user + system) / clockTicks / sharing[tid]
	}
	return seconds
}

// residentMemory is how much of a process is in RAM, in bytes; 0: it is not known.
func residentMemory(pid int) int64 {
	text, _ := os.ReadFile(fmt.Sprintf("/proc/%d/statm", pid))
	fields := strings.Fields(string(text))
	if len(fields) < 2 {
		return 0
	}
	pages, _ := strconv.ParseInt(fields[1], 10, 64)
	return pages * int64(os.Getpagesize())
}
