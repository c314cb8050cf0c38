package qemu

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestMemoryWithin(t *testing.T) {
	for _, accel := range []Accel{KVM, TCG} {
		for _, cpus := range []int{1, 2, 64} {
			for limit := int64(1 * mib); limit < 1<<42; limit = limit*3/2 + 7 {
				m := MemoryWithin(accel, limit, cpus)
				if m < 0 || m%mib != 0 {
					t.Fatalf("%s, %d CPUs, limit %d: %d is not whole MiB", accel, cpus, limit, m)
				}
				if m > 0 && m+Overhead(accel, m, cpus) > limit {
					t.Fatalf("%s, %d CPUs: %d and its overhead do not fit into %d", accel, cpus, m, limit)
				}
				if more := m + mib; more+Overhead(accel, more, cpus) <= limit {
					t.Fatalf("%s, %d CPUs, limit %d: %d would fit too, got %d", accel, cpus, limit, more, m)
				}
			}
		}
	}
}

func TestTranslationCache(t *testing.T) {
	for memory, want := range map[int64]int64{64 * mib: 32 * mib, 512 * mib: 128 * mib, 1 << 30: 256 * mib, 4 << 30: 512 * mib, 64 << 30: 512 * mib} {
		if got := TranslationCache(memory); got != want {
			t.Errorf("for %d MiB: got %d MiB, want %d", memory/mib, got/mib, want/mib)
		}
	}
}

func TestProbeKVM(t *testing.T) {
	root := t.TempDir()
	if err := os.MkdirAll(filepath.Join(root, "dev"), 0o755); err != nil {
		t.Fatal(err)
	}
	if s := ProbeKVM(root); s.Usable || s.Real || !strings.Contains(s.Reason, "--device /dev/kvm") {
		t.Errorf("no device: %+v", s)
	}
	// a file that opens but is not KVM
	if err := os.WriteFile(filepath.Join(root, "dev/kvm"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	if s := ProbeKVM(root); s.Usable || s.Real || !strings.Contains(s.Reason, "API version") {
		t.Errorf("not a device: %+v", s)
	}
}

func TestVirtualizationFlag(t *testing.T) {
	tests := []struct{ name, cpuinfo, want string }{
		{"OK intel", "processor\t: 0\nflags\t\t: fpu vme vmx smx\n", "vmx"},
		{"OK amd", "processor\t: 0\nflags\t\t: fpu svm\n", "svm"},
		{"OK none", "processor\t: 0\nflags\t\t: fpu vme hypervisor\nvmx flags\t: vnmi\n", ""},
		{"OK no flags at all", "processor\t: 0\n", ""},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			root := t.TempDir()
			os.MkdirAll(filepath.Join(root, "proc"), 0o755)
			if err := os.WriteFile(filepath.Join(root, "proc/cpuinfo"), []byte(tt.cpuinfo), 0o644); err != nil {
				t.Fatal(err)
			}
			got, err := virtualizationFlag(root)
			if got != tt.want || err != nil {
				t.Errorf("got %q, %v; want %q", got, err, tt.want)
			}
		})
	}
}
