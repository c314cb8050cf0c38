package cgroup

import (
	"os"
	"path/filepath"
	"testing"
)

// tree writes a file system of small files.
func tree(t *testing.T, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

const (
	cgroup2 = "30 23 0:26 / /sys/fs/cgroup ro,nosuid - cgroup2 cgroup rw,nsdelegate\n"
	memory1 = "40 23 0:30 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
	cpu1    = "41 23 0:31 /docker/abc /sys/fs/cgroup/cpu,cpuacct ro - cgroup cgroup rw,cpu,cpuacct\n"
)

func TestRead(t *testing.T) {
	tests := []struct {
		name   string
		files  map[string]string
		memory int64
		cpu    float64
	}{
		{"nothing to read", nil, 0, 0},
		{"v2 namespaced", map[string]string{
			"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": cgroup2,
			"sys/fs/cgroup/memory.max": "536870912\n", "sys/fs/cgroup/cpu.max": "150000 100000\n",
		}, 512 << 20, 1.5},
		{"v2 max", map[string]string{
			"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": cgroup2,
			"sys/fs/cgroup/memory.max": "max\n", "sys/fs/cgroup/cpu.max": "max 100000\n",
		}, 0, 0},
		{"v2 nested, the limit is above", map[string]string{
			"proc/self/cgroup": "0::/kubepods/pod1/c1\n", "proc/self/mountinfo": cgroup2,
			"sys/fs/cgroup/kubepods/pod1/c1/memory.max": "max\n", "sys/fs/cgroup/kubepods/pod1/memory.max": "1073741824\n",
			"sys/fs/cgroup/kubepods/memory.max": "8589934592\n", "sys/fs/cgroup/kubepods/cpu.max": "400000 100000\n",
			"sys/fs/cgroup/kubepods/pod1/c1/cpu.max": "50000 100000\n",
		}, 1 << 30, 0.5},
		{"v1 in a container", map[string]string{
			"proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n", "proc/self/mountinfo": memory1 + cpu1,
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "268435456\n",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
		}, 256 << 20, 2},
		{"v1 without limits", map[string]string{
			"proc/self/cgroup": "4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n", "proc/self/mountinfo": memory1 + cpu1,
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
			"sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n", "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
		}, 0, 0},
		{"v1 nested below the mount", map[string]string{
			"proc/self/cgroup": "4:memory:/docker/abc/inner\n", "proc/self/mountinfo": memory1,
			"sys/fs/cgroup/memory/inner/memory.limit_in_bytes": "9223372036854771712\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes":       "268435456\n",
		}, 256 << 20, 0},
		{"v1 with 64 KiB pages, no limit", map[string]string{
			"proc/self/cgroup": "4:memory:/docker/abc\n", "proc/self/mountinfo": memory1,
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854710272\n",
		}, 0, 0},
		{"hybrid: v1 controllers beside an empty v2", map[string]string{
			"proc/self/cgroup": "4:memory:/docker/abc\n0::/docker/abc\n", "proc/self/mountinfo": memory1 + "50 23 0:40 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n",
			"sys/fs/cgroup/memory/memory.limit_in_bytes": "268435456\n",
		}, 256 << 20, 0},
		{"v2 of a parent namespace", map[string]string{
			"proc/self/cgroup": "0::/../other\n", "proc/self/mountinfo": cgroup2, "sys/fs/cgroup/memory.max": "268435456\n",
		}, 256 << 20, 0},
		{"mount point with a space", map[string]string{
			"proc/self/cgroup": "0::/\n", "proc/self/mountinfo": "30 23 0:26 / /sys/fs/c\\040g ro - cgroup2 cgroup rw\n", "sys/fs/c g/memory.max": "268435456\n",
		}, 256 << 20, 0},
		{"nonsense", map[string]string{
			"proc/self/cgroup": "x\n::\n0::/\n", "proc/self/mountinfo": "1 2\n - \n" + cgroup2, "sys/fs/cgroup/memory.max": "-5\n", "sys/fs/cgroup/cpu.max": "1\n",
		}, 0, 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got := Read(tree(t, tt.files))
			if got.Memory != tt.memory || got.CPU != tt.cpu || got.CPUs < 1 {
				t.Errorf("got %+v, want memory %d, cpu %g", got, tt.memory, tt.cpu)
			}
		})
	}
}
