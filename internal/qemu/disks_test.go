package qemu

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// with adds n more disks on a bus.
func with(m *Machine, bus Bus, n int) {
	for i := range n {
		name := fmt.Sprintf("%s%d", bus, i)
		m.Disks = append(m.Disks, Disk{ID: "data-" + name, Path: "/data/" + name, Format: "raw", Bus: bus, Serial: name})
	}
}

// TestMoreDisksMoveNothing: whatever disks are added behind the others, all that was there stays as it was.
func TestMoreDisksMoveNothing(t *testing.T) {
	for _, machine := range []string{"q35", "pc-q35-7.2", "pc", "virt"} {
		for _, first := range []Bus{VirtIO, SCSI, SATA, IDE, NVMe} {
			m := demo()
			m.Type, m.Disks[0].Bus = machine, first
			m.Disks = m.Disks[:1]
			for _, more := range []Bus{VirtIO, NVMe, SCSI, SATA, IDE, VirtIO, SATA, SATA, SATA, SATA, SATA, SATA, NVMe} {
				before := m.Args()
				with(&m, more, 1)
				m.Disks[len(m.Disks)-1].ID += fmt.Sprint(len(m.Disks))
				after := m.Args()
				for _, a := range before {
					if !slices.Contains(after, a) {
						t.Errorf("%s with its first disk on %s: one more on %s changes %s", machine, first, more, a)
					}
				}
			}
		}
	}
}

func TestTooManyDisks(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*Machine)
		want   string
	}{
		{"OK", func(m *Machine) { with(m, VirtIO, 63); with(m, SCSI, 255); with(m, SATA, 54) }, ""},
		{"OK pc", func(m *Machine) { m.Type = "pc"; with(m, SATA, 48); with(m, IDE, 4) }, ""},
		{"bad virtio", func(m *Machine) { with(m, VirtIO, 30); with(m, NVMe, 34) }, "65 disks on virtio and nvme together, and 66 are wanted"},
		{"bad scsi", func(m *Machine) { with(m, SCSI, 256) }, "255 disks on scsi"},
		{"bad sata", func(m *Machine) { with(m, SATA, 50); with(m, IDE, 5) }, "54 disks on sata, and 55"},
		{"bad sata of pc", func(m *Machine) { m.Type = "pc"; with(m, SATA, 49) }, "48 disks on sata"},
		{"bad ide", func(m *Machine) { m.Type = "pc-i440fx-7.2"; m.Disks[0].Bus, m.Disks[1].Bus = IDE, IDE; with(m, IDE, 3) }, "4 disks on ide, and 5"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := demo()
			tt.change(&m)
			got := strings.Join(m.TooManyDisks(), "\n")
			if (tt.want == "") != (got == "") || !strings.Contains(got, tt.want) {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}

// TestRealQEMUTakesManyDisks: as many as TooManyDisks lets pass, each with a name of the greatest length.
func TestRealQEMUTakesManyDisks(t *testing.T) {
	path, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatalf("%v: `make test` installs it", err)
	}
	for machine, fill := range map[string]func(*Machine){
		"q35": func(m *Machine) {
			with(m, VirtIO, 40)
			with(m, NVMe, 24)
			with(m, SCSI, 30)
			with(m, SATA, 50)
			with(m, IDE, 4)
		},
		"pc": func(m *Machine) { with(m, VirtIO, 40); with(m, NVMe, 24); with(m, SATA, 48); with(m, IDE, 4) },
	} {
		t.Run(machine, func(t *testing.T) {
			dir := t.TempDir()
			disk := filepath.Join(dir, "disk")
			if err := os.WriteFile(disk, make([]byte, 1<<20), 0o600); err != nil {
				t.Fatal(err)
			}
			m := demo()
			m.Type, m.Memory, m.FWCfg, m.Ports, m.Console.Kind = machine, 256*mib, nil, nil, ConsoleNone
			m.NICs[0].User.Forwards = nil
			m.Monitors[0].Path = filepath.Join(dir, "qmp")
			m.Disks = []Disk{{ID: "disk", Path: disk, Format: "raw", Bus: VirtIO}}
			fill(&m)
			for i := range m.Disks {
				d := &m.Disks[i]
				d.Path, d.ReadOnly = disk, d.Bus != SATA && d.Bus != IDE // no such hard disk can be read-only
				if !d.ReadOnly {
					d.Path = fmt.Sprintf("%s.%d", disk, i)
					if err := os.WriteFile(d.Path, make([]byte, 1<<20), 0o600); err != nil {
						t.Fatal(err)
					}
				}
				if i > 0 {
					d.Serial = fmt.Sprintf("%-20d", i)
					d.Serial = strings.ReplaceAll(d.Serial, " ", "_")
					d.ID = "data-" + d.Serial
				}
			}
			if problems := m.TooManyDisks(); len(problems) > 0 {
				t.Fatal(problems)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, path, m.Args()...)
			var words strings.Builder
			cmd.Stderr = &words
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			gone := make(chan struct{})
			go func() { cmd.Wait(); close(gone) }()
			mon, err := DialWait(ctx, m.Monitors[0].Path, gone, nil)
			if err != nil {
				<-gone
				t.Fatalf("%v\n%s", err, words.String())
			}
			var blocks []struct{ Qdev string }
			if err := mon.Execute(ctx, "query-block", nil, &blocks); err != nil || len(blocks) != len(m.Disks) {
				t.Errorf("%d disks, want %d; %v", len(blocks), len(m.Disks), err)
			}
			mon.Quit(ctx)
			<-gone
		})
	}
}

// TestBootOrder: without a word the first disk is booted from; else each in its place, and none beside a kernel.
func TestBootOrder(t *testing.T) {
	order := func(m Machine) string {
		var found []string
		for _, a := range m.Args() {
			for _, o := range strings.Split(a, ",") {
				if index, ok := strings.CutPrefix(o, "bootindex="); ok {
					found = append(found, strings.Split(a, ",")[0]+" "+index)
				}
			}
		}
		return strings.Join(found, "; ")
	}
	m := demo()
	m.Disks = m.Disks[:1]
	if got := order(m); got != "virtio-blk-pci 1" {
		t.Errorf("one disk: %s", got)
	}
	m.Disks = append(m.Disks, Disk{ID: "cd", Path: "/image/cd.iso", Format: "raw", Bus: IDE, ReadOnly: true, CDROM: true, BootIndex: 1})
	m.Disks[0].BootIndex = 2
	if got := order(m); got != "virtio-blk-pci 2; ide-cd 1" {
		t.Errorf("the CD before the disk: %s", got)
	}
	m.Kernel = &Kernel{Image: "/vmlinuz"}
	if got := order(m); got != "" {
		t.Errorf("beside a kernel: %s", got)
	}
}
