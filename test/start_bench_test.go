package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"
)

// BenchmarkStart measures the time until QEMU's first instruction, with a QEMU that only pretends, as a ratio to the least
// that could be done: a shell that runs qemu-img create and then that QEMU.
func BenchmarkStart(b *testing.B) {
	img := benchImage(b)
	for _, existing := range []bool{false, true} {
		name := map[bool]string{false: "new overlay", true: "existing overlay"}[existing]
		b.Run(name, func(b *testing.B) {
			var ours, bare time.Duration
			for range b.N {
				dir := b.TempDir()
				settings := append(pretend("poweroff=0s"), "VM_IMAGE="+img, "VM_READY=none")
				env := environment(filepath.Join(dir, "data"), filepath.Join(dir, "r"), settings...)
				if existing {
					untilQEMU(b, env, dir, binaries.VMEntry)
					bare += untilQEMU(b, env, dir, "sh", "-c", "exec qemu-system-x86_64")
				} else {
					bare += untilQEMU(b, env, dir, "sh", "-c", "qemu-img create -q -f qcow2 -b "+img+" -F qcow2 "+filepath.Join(dir, "bare.qcow2")+" 12G && exec qemu-system-x86_64")
				}
				ours += untilQEMU(b, env, dir, binaries.VMEntry)
			}
			b.ReportMetric(float64(ours.Microseconds())/1000/float64(b.N), "ms/vmentry")
			b.ReportMetric(float64(bare.Microseconds())/1000/float64(b.N), "ms/bare")
			b.ReportMetric(float64(ours)/float64(bare), "ratio")
			b.ReportMetric(0, "ns/op")
		})
	}
}

// untilQEMU runs a command and returns how long it took until its QEMU ran.
func untilQEMU(b *testing.B, env []string, dir string, command ...string) time.Duration {
	b.Helper()
	log := filepath.Join(dir, "log")
	os.Remove(log)
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(env, "FAKE_QEMU_LOG="+log)
	began := time.Now()
	if out, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %v\n%s", command, err, out)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		b.Fatal(err)
	}
	first, _, _ := strings.Cut(string(data), "\n")
	at, err := strconv.ParseInt(strings.TrimPrefix(first, "time "), 10, 64)
	if err != nil {
		b.Fatalf("%q is not when QEMU ran", first)
	}
	return time.Unix(0, at).Sub(began)
}

func benchImage(b *testing.B) string {
	b.Helper()
	img := filepath.Join(b.TempDir(), "disk.qcow2")
	if out, err := exec.Command("qemu-img", "create", "-q", "-f", "qcow2", img, "1G").CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	return img
}
