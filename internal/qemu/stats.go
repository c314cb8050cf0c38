package qemu

import (
	"context"
	"math"
	"path"
	"strings"
)

// DiskStats count what the guest has done with a disk (BlockDeviceStats in QEMU's qapi/block-core.json).
type DiskStats struct {
	ReadBytes    int64 `json:"rd_bytes"`
	WrittenBytes int64 `json:"wr_bytes"`
	Reads        int64 `json:"rd_operations"`
	Writes       int64 `json:"wr_operations"`
	Flushes      int64 `json:"flush_operations"`
	ReadTime     int64 `json:"rd_total_time_ns"` // nanoseconds, of all requests together
	WriteTime    int64 `json:"wr_total_time_ns"`
	FailedReads  int64 `json:"failed_rd_operations"`
	FailedWrites int64 `json:"failed_wr_operations"`
}

// DiskStats are the counters of the guest's disks, by their ids.
func (m *Monitor) DiskStats(ctx context.Context) (map[string]DiskStats, error) {
	var devices []struct {
		QDev  string // "/machine/peripheral/disk-dev/virtio-backend"
		Stats DiskStats
	}
	err := m.Execute(ctx, "query-blockstats", nil, &devices)
	disks := map[string]DiskStats{}
	for _, d := range devices {
		if id := deviceID(d.QDev); id != "" {
			disks[id] = d.Stats
		}
	}
	return disks, err
}

// deviceID is the id of the disk whose device is at a path of QEMU's object tree, "" where it is none of ours.
func deviceID(qdev string) string {
	rest, ok := strings.CutPrefix(path.Clean(qdev), "/machine/peripheral/")
	if !ok {
		rest = qdev // QEMU names a device by its id alone where that is enough
	}
	name, _, _ := strings.Cut(rest, "/")
	id, ok := strings.CutSuffix(name, "-dev")
	if !ok {
		return ""
	}
	return id
}

// CPUThreads are the numbers of the threads that run the guest's CPUs. Several may be run by the same.
func (m *Monitor) CPUThreads(ctx context.Context) (map[int]int, error) {
	var cpus []struct {
		Index  int `json:"cpu-index"`
		Thread int `json:"thread-id"`
	}
	err := m.Execute(ctx, "query-cpus-fast", nil, &cpus)
	threads := map[int]int{}
	for _, c := range cpus {
		threads[c.Index] = c.Thread
	}
	return threads, err
}

// balloon is the balloon's place in QEMU's object tree (see [Machine.Args]).
const balloon = "/machine/peripheral/balloon"

// PollMemory makes QEMU ask the guest for its memory statistics every so many seconds; 0: not any more.
func (m *Monitor) PollMemory(ctx context.Context, seconds int) error {
	return m.Execute(ctx, "qom-set", map[string]any{"path": balloon, "property": "guest-stats-polling-interval", "value": seconds}, nil)
}

// MemoryStats are what the guest has last said of its memory, in bytes, by the names of QEMU's manual ("stat-free-memory"). What the
// guest does not tell is not there.
func (m *Monitor) MemoryStats(ctx context.Context) (map[string]float64, error) {
	var answer struct {
		Stats  map[string]float64
		Update int64 `json:"last-update"` // 0: never
	}
	err := m.Execute(ctx, "qom-get", map[string]any{"path": balloon, "property": "guest-stats"}, &answer)
	stats := map[string]float64{}
	if answer.Update == 0 {
		return stats, err
	}
	for name, v := range answer.Stats {
		if v < math.MaxUint64 { // which is QEMU's word for not known
			stats[name] = v
		}
	}
	return stats, err
}
