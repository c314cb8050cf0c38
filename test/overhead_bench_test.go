package test

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/cache"
)

// What is measured: how long a VM is left alone, how often it is asked, and what RAM its guest has, by which that is known from the rest.
const (
	leftAlone   = time.Minute
	asked       = 50
	overheadRAM = 256 << 10 // KiB
)

// component is what a VM's process costs. A process that it has started for its sandbox is a part of it.
type component struct {
	name   string
	memory int           // KiB, shared pages by their part (PSS), without the guest's RAM
	file   int           // of these, what is in files and can be dropped at any time
	cpu    time.Duration // while nothing happened
}

// BenchmarkOverhead measures what a VM costs beside its guest: the memory of everything but the guest's RAM, the CPU time while nothing
// happens, and that of a probe.
func BenchmarkOverhead(b *testing.B) {
	data, run := dirs(b)
	share := filepath.Join(filepath.Dir(run), "share")
	if err := os.Mkdir(share, 0o755); err != nil {
		b.Fatal(err)
	}
	at := fmt.Sprintf("127.0.0.1:%d", port(b))
	tools := cache.Dir(b, "passt", "passt") + ":" + cache.Dir(b, "virtiofsd", "virtiofsd")
	m := startIn(b, data, run, tiny(b, "vmtest.listen=22", "PATH="+tools+":"+os.Getenv("PATH"), "VM_IMAGE="+image(b, "qcow2"),
		"VM_VOLUMES=share="+share, "VM_NETWORK=passt", fmt.Sprintf("HOSTFWD=%d:22", port(b)), "VM_READY=tcp:22", "VM_HTTP="+at))
	m.stderr.Await(b, "INF ready")
	for range 10 { // what was never asked for has cost nothing yet
		for _, path := range []string{"/metrics", "/status", "/readyz", "/"} {
			response, err := http.Get("http://" + at + path)
			if err != nil {
				b.Fatal(err)
			}
			response.Body.Close()
		}
	}
	for b.Loop() {
		report := measure(b, m)
		fmt.Print(report)
	}
	b.ReportMetric(0, "ns/op")
	m.signal(syscall.SIGTERM)
	m.exit()
}

// measure looks at the VM's processes before and after a time in which nobody does anything.
func measure(b *testing.B, m *machine) string {
	b.Helper()
	time.Sleep(10 * time.Second) // the last of the boot
	pids := familyOf(b, m)
	before := map[int]time.Duration{}
	for _, pid := range pids {
		before[pid] = cpuTime(b, pid)
	}
	time.Sleep(leftAlone)
	var all []component
	for _, pid := range pids {
		c := component{name: componentName(b, pid), cpu: cpuTime(b, pid) - before[pid]}
		c.memory, c.file = ownMemory(b, pid)
		i := slices.IndexFunc(all, func(a component) bool { return a.name == c.name })
		if i < 0 {
			all = append(all, c)
			continue
		}
		all[i].memory, all[i].file, all[i].cpu = all[i].memory+c.memory, all[i].file+c.file, all[i].cpu+c.cpu
	}
	table := "\n| process | memory | of it in files | CPU time in a minute |\n|---|---|---|---|\n"
	var sum component
	for _, c := range all {
		table += c.row()
		sum.memory, sum.file, sum.cpu = sum.memory+c.memory, sum.file+c.file, sum.cpu+c.cpu
		b.ReportMetric(float64(c.memory)/1024, "MiB/"+c.name)
	}
	sum.name = "all"
	return table + sum.row() + probeRow(b, m) + "\n" + hostText(b) + "\n"
}

func (c component) row() string {
	return fmt.Sprintf("| %s | %.1f MiB | %.1f MiB | %.2f s |\n", c.name, float64(c.memory)/1024, float64(c.file)/1024, c.cpu.Seconds())
}

// probeRow is what a probe costs: the process that asks, and the one that answers.
func probeRow(b *testing.B, m *machine) string {
	b.Helper()
	before := cpuTime(b, m.cmd.Process.Pid)
	var asking time.Duration
	for range asked {
		cmd := exec.Command(binaries.VMEntry, "probe", "ready")
		cmd.Env = environment(m.data, m.run)
		if out, err := cmd.CombinedOutput(); err != nil {
			b.Fatalf("%v\n%s", err, out)
		}
		asking += cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	}
	answering := cpuTime(b, m.cmd.Process.Pid) - before
	each := func(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 / asked }
	b.ReportMetric(each(asking+answering), "ms/probe")
	return fmt.Sprintf("\nA probe: %.1f ms of CPU time, %.1f ms of it vmentry's that answers.\n", each(asking+answering), each(answering))
}

// familyOf are m's vmentry, and below it whatever it has started.
func familyOf(b *testing.B, m *machine) []int {
	b.Helper()
	parents := map[int][]int{}
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		b.Fatal(err)
	}
	for _, dir := range all {
		pid, _ := strconv.Atoi(filepath.Base(dir))
		if fields, ok := stat(pid); ok {
			parent, _ := strconv.Atoi(fields[1])
			parents[parent] = append(parents[parent], pid)
		}
	}
	pids := []int{m.cmd.Process.Pid}
	for i := 0; i < len(pids); i++ {
		pids = append(pids, parents[pids[i]]...)
	}
	return pids
}

// stat are the fields of /proc/PID/stat (proc_pid_stat(5)) from the third on.
func stat(pid int) (fields []string, ok bool) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return nil, false
	}
	return strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:])), true
}

// cpuTime is how long a process has run, in steps of 10 ms (USER_HZ).
func cpuTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	fields, ok := stat(pid)
	if !ok {
		b.Fatalf("process %d is gone", pid)
	}
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// componentName is a process's program: the first argument that is the path of one, or the program that was run itself.
func componentName(b *testing.B, pid int) string {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		b.Fatal(err)
	}
	words := strings.Split(string(text), "\x00")
	for _, w := range words {
		for _, name := range []string{"qemu-system", "passt", "virtiofsd"} {
			if strings.HasPrefix(filepath.Base(w), name) {
				return strings.Replace(name, "qemu-system", "QEMU", 1)
			}
		}
	}
	return filepath.Base(words[0])
}

// ownMemory is what a process has in memory without the guest's RAM, which QEMU and virtiofsd have in a mapping of that size, in KiB.
func ownMemory(b *testing.B, pid int) (pss, file int) {
	b.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		b.Fatal(err)
	}
	guest, ofFile := false, false
	for line := range strings.Lines(string(text)) {
		fields := strings.Fields(line)
		if !strings.HasSuffix(fields[0], ":") {
			ofFile = len(fields) > 5 && strings.HasPrefix(fields[5], "/") && !strings.HasPrefix(fields[5], "/memfd:")
			continue
		}
		value, _ := strconv.Atoi(fields[1])
		switch {
		case fields[0] == "Size:":
			guest = value == overheadRAM
		case fields[0] == "Pss:" && !guest:
			pss += value
			if ofFile {
				file += value
			}
		}
	}
	return pss, file
}
