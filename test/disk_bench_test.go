package test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/vmentry/vmentry/test/process"
)

// measuredDisks are the disks that are compared. size is what makes them large enough.
var measuredDisks = []struct {
	name     string
	settings func(b *testing.B) []string
	serial   string // of the disk that is measured; "": the main one
}{
	{"overlay", func(b *testing.B) []string { return []string{"VM_IMAGE=" + image(b, "raw"), "VM_DISK_SIZE=1G"} }, ""},
	{"copy", func(b *testing.B) []string {
		return []string{"VM_IMAGE=" + image(b, "qcow2"), "VM_DISK_SIZE=1G", "VM_DISK_MODE=copy"}
	}, ""},
	{"direct, raw", func(b *testing.B) []string {
		return []string{"VM_IMAGE=" + rawDisk(b), "VM_DISK_SIZE=1G", "VM_DISK_MODE=direct"}
	}, ""},
	{"VM_DISKS, made", func(*testing.B) []string { return []string{"VM_DISKS=bench=1G"} }, "bench"},
	{"VM_DISKS, raw", func(b *testing.B) []string { return []string{"VM_DISKS=bench=" + rawDisk(b)} }, "bench"},
}

// rawDisk is a sparse file of 1 GiB with a partition table's signature.
func rawDisk(b *testing.B) string {
	b.Helper()
	path := image(b, "raw")
	if err := os.Truncate(path, 1<<30); err != nil {
		b.Fatal(err)
	}
	return path
}

// diskColumns are what is measured of a disk: fio's words, and the field of its terse output (version 3; fio's manual) that tells the result.
// All is done on the same 256 MiB, so that after a first round nothing is written for the first time.
var diskColumns = []struct {
	title, metric string
	words         string
	field         int
	format        func(float64) string
}{
	{"write 4 KiB here and there", "write4k/bare", "--rw=randwrite --bs=4k --iodepth=16", terseWrite + terseIOPS, perSecond},
	{"read 4 KiB here and there", "read4k/bare", "--rw=randread --bs=4k --iodepth=16", terseRead + terseIOPS, perSecond},
	{"write 1 MiB in a row", "write1m/bare", "--rw=write --bs=1m --iodepth=4", terseWrite + terseBandwidth, megabytes},
	{"read 1 MiB in a row", "read1m/bare", "--rw=read --bs=1m --iodepth=4", terseRead + terseBandwidth, megabytes},
	{"write 4 KiB and fsync", "fsync/bare", "--rw=randwrite --bs=4k --iodepth=1 --fsync=1", terseWrite + terseIOPS, perSecond},
}

// Fields of fio's terse output: the figures of reading and of writing, and two among them.
const (
	terseRead, terseWrite     = 5, 46
	terseBandwidth, terseIOPS = 1, 2 // KiB/s, 1/s
)

func perSecond(f float64) string { return fmt.Sprintf("%.0f/s", f) }
func megabytes(f float64) string { return fmt.Sprintf("%.0f MB/s", f*1024/1e6) }

// BenchmarkDisk measures each kind of disk with fio in a guest, as a ratio to the same guest in a bare QEMU with a raw file. A round measures the
// one and then the other, so that what else the machine does slows both. What this release has not is left out.
func BenchmarkDisk(b *testing.B) {
	bare, machine := newBareDisk(b)
	report := diskReport{machine: machine}
	for _, d := range measuredDisks {
		b.Run(strings.NewReplacer(" ", "", ",", "-").Replace(d.name), func(b *testing.B) {
			settings := diskGuest(b, d.settings(b)...)
			data, run := dirs(b)
			through := benchDisk{startTyping(b, data, run, settings), d.serial}
			var ratios, figures, bares [][]float64
			bare.measure(b)
			through.measure(b)
			for b.Loop() {
				left, right := bare.measure(b), through.measure(b)
				bares, figures = append(bares, left), append(figures, right)
				ratio := make([]float64, len(left))
				for i := range left {
					ratio[i] = right[i] / left[i]
				}
				ratios = append(ratios, ratio)
			}
			report.add(d.name, columnMedians(ratios), columnMedians(figures), bares)
			for i, ratio := range columnMedians(ratios) {
				b.ReportMetric(ratio, diskColumns[i].metric)
			}
			b.ReportMetric(0, "ns/op")
			through.signal(15)
			through.exit()
		})
	}
	fmt.Print(report.markdown())
}

// diskGuest are the settings of a tiny guest with fio.
func diskGuest(b *testing.B, settings ...string) []string {
	b.Helper()
	all := tiny(b, "vmtest.disks vmtest.commands vmtest.dhcp=none", "VM_NETWORK=none", "VM_MEMORY=512M", "VM_ACCEL=auto")
	for i, s := range all {
		if path, ok := strings.CutPrefix(s, "VM_INITRD="); ok {
			all[i] = "VM_INITRD=" + withFio(b, path)
		}
	}
	return append(all, settings...)
}

// withFio puts fio behind an initial RAM disk. The kernel unpacks archives that follow each other, as long as each begins at a multiple of four.
func withFio(b *testing.B, initrd string) string {
	b.Helper()
	fio := filepath.Join(filepath.Dir(filepath.Dir(initrd)), "fio", "initrd")
	var all []byte
	for _, path := range []string{initrd, fio} {
		archive, err := os.ReadFile(path)
		if err != nil {
			b.Fatalf("%v: `make bench-disk` builds it", err)
		}
		all = append(all, archive...)
		all = append(all, make([]byte, -len(all)&3)...)
	}
	out := filepath.Join(b.TempDir(), "initrd")
	if err := os.WriteFile(out, all, 0o600); err != nil {
		b.Fatal(err)
	}
	return out
}

// benchDisk is a guest, and the serial of its disk that is measured.
type benchDisk struct {
	*typing
	serial string
}

// measure runs fio for each column.
func (d benchDisk) measure(b *testing.B) []float64 {
	b.Helper()
	device := d.disks()[d.serial].device
	var figures []float64
	for _, c := range diskColumns {
		line := d.tell(fmt.Sprintf("modprobe -q libaio; fio --name=x --filename=/dev/%s --ioengine=libaio --direct=1 --size=256m --time_based --ramp_time=1 --runtime=3 "+
			"--randrepeat=1 --output-format=terse --terse-version=3 %s", device, c.words))
		fields := strings.Split(line, ";")
		if len(fields) < 100 {
			b.Fatalf("fio says: %s", line)
		}
		figure, err := strconv.ParseFloat(fields[c.field], 64)
		if err != nil || figure == 0 {
			b.Fatalf("fio has measured nothing: %s", line)
		}
		figures = append(figures, figure)
	}
	return figures
}

// qemuPlan is what vmentry would start.
type qemuPlan struct {
	QEMU struct {
		Path, Version string
		Arguments     []string
	}
	MoreDisks struct{ Disks []struct{ Cache, AIO string } }
}

func planned(b *testing.B, data, run string, settings ...string) (plan qemuPlan) {
	b.Helper()
	cmd := exec.Command(binaries.VMEntry, "plan", "-o", "json")
	cmd.Env, cmd.Stderr = environment(data, run, settings...), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		b.Fatalf("vmentry plan: %v", err)
	}
	if err := json.Unmarshal(out, &plan); err != nil {
		b.Fatal(err)
	}
	return plan
}

// newBareDisk starts the guest that the others are compared to, and tells on what machine. There is no vmentry in it: QEMU has a raw
// file, which it opens as vmentry has it open its own disks on this file system.
func newBareDisk(b *testing.B) (benchDisk, string) {
	b.Helper()
	data, run := dirs(b)
	disk := rawDisk(b)
	plan := planned(b, data, run, diskGuest(b, "VM_DISKS=bench="+disk)...)
	how := plan.MoreDisks.Disks[0]
	args := append(bareMachine(plan.QEMU.Arguments), "-nodefaults", "-no-user-config", "-display", "none", "-serial", "stdio",
		"-drive", fmt.Sprintf("file=%s,format=raw,if=none,id=bench,cache=%s,aio=%s,discard=unmap", disk, how.Cache, how.AIO),
		"-device", "virtio-blk-pci,drive=bench,serial=bench")
	p := process.StartTyping(b, exec.Command(plan.QEMU.Path, args...))
	bare := benchDisk{&typing{machine: &machine{t: b, process: p, stdout: p.Stdout, stderr: p.Stderr}}, "bench"}
	bare.stdout.Await(b, tinyReady)
	accel := args[slices.Index(args, "-accel")+1]
	return bare, fmt.Sprintf("%s, QEMU %s with %s, files on %s with cache=%s and aio=%s", hostText(b), plan.QEMU.Version, strings.ToUpper(strings.Split(accel, ",")[0]), fileSystem(b, disk), how.Cache, how.AIO)
}

// bareMachine are QEMU's arguments that say what machine the guest has, without vmentry's sockets, disks and network.
func bareMachine(arguments []string) []string {
	hardware := []string{"-machine", "-accel", "-cpu", "-smp", "-m", "-kernel", "-initrd", "-append", "-object", "-device"}
	var args []string
	for i, name := range arguments {
		if !slices.Contains(hardware, name) {
			continue
		}
		value := arguments[i+1]
		if name == "-device" && (strings.Contains(value, ",chardev=") || strings.Contains(value, ",drive=") || strings.Contains(value, ",netdev=")) {
			continue
		}
		args = append(args, name, value)
	}
	return args
}

// diskReport is the table of a run.
type diskReport struct {
	machine string
	rows    []string
	bares   [][]float64
	rounds  int
}

func (r *diskReport) add(name string, ratios, figures []float64, bares [][]float64) {
	r.rounds = len(bares)
	r.bares = append(r.bares, bares...)
	row := "| " + name + " |"
	for i, c := range diskColumns {
		row += fmt.Sprintf(" **%.2f** (%s) |", ratios[i], c.format(figures[i]))
	}
	r.rows = append(r.rows, row)
}

// markdown is the report as it stands in docs/storage.md.
func (r *diskReport) markdown() string {
	var b strings.Builder
	if len(r.rows) > 0 {
		b.WriteString("\n| disk |")
		for _, c := range diskColumns {
			fmt.Fprintf(&b, " %s |", c.title)
		}
		b.WriteString("\n|---|" + strings.Repeat("---|", len(diskColumns)) + "\n| a raw file, without vmentry |")
		for i, figure := range columnMedians(r.bares) {
			fmt.Fprintf(&b, " 1 (%s) |", diskColumns[i].format(figure))
		}
		fmt.Fprintf(&b, "\n%s\n", strings.Join(r.rows, "\n"))
	}
	fmt.Fprintf(&b, "\n%s, medians of %d rounds\n", r.machine, r.rounds)
	return b.String()
}

// columnMedians are the medians of each column.
func columnMedians(rows [][]float64) []float64 {
	var medians []float64
	for j := range diskColumns {
		column := make([]float64, len(rows))
		for i := range rows {
			column[i] = rows[i][j]
		}
		medians = append(medians, median(column))
	}
	return medians
}

// hostText says in a few words what machine this is.
func hostText(b *testing.B) string {
	b.Helper()
	out, err := exec.Command("sh", "-c", `sed -n 's/^model name.*: //p' /proc/cpuinfo | head -n 1; nproc; uname -sr`).Output()
	if err != nil {
		b.Fatal(err)
	}
	f := strings.Split(strings.TrimSpace(string(out)), "\n")
	if len(f) < 3 {
		return strings.Join(f, ", ")
	}
	return fmt.Sprintf("%s, %s CPUs, %s", f[0], f[1], f[2])
}

// fileSystem is the type of the file system that path is on.
func fileSystem(b *testing.B, path string) string {
	b.Helper()
	out, err := exec.Command("stat", "--file-system", "--format=%T", path).Output()
	if err != nil {
		b.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
