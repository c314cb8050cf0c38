package boot

import (
	"os"
	"os/exec"
	"testing"

	"github.com/vmentry/vmentry/internal/qemu"
)

// TestRecordLacksSomething: what a record does not have, QEMU is asked for, as a module of it may have been added.
func TestRecordLacksSomething(t *testing.T) {
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatalf("%v: `make test` installs it", err)
	}
	p := Plan{QEMU: Program{Path: path}, Environ: os.Environ()}
	p.parts.settings = settings{arch: "amd64", machine: "q35", accel: qemu.TCG, cpuModel: "max", cpus: 1, memory: 1 << 30}
	p.parts.can.Version = qemu.Oldest
	if err := p.planMachine(t.Context()); err == nil {
		t.Error("without a record there is nothing more to ask, and all is there")
	}
	p.parts.recorded = true
	if err := p.planMachine(t.Context()); err != nil {
		t.Error(err)
	}
}
