// Package cgroup reads what the container may use: memory and processors, from cgroup version 1 or 2, wherever in
// the hierarchy the limit was set.
package cgroup

import (
	"bufio"
	"math"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits is what the container may use.
type Limits struct {
	Memory int64   // bytes; 0 is no limit
	CPU    float64 // processors' worth of time; 0 is no limit
	CPUs   int     // processors that threads may run on
}

// Read reads the limits of this process from the file systems below root, normally "/". What cannot be read is no limit.
func Read(root string) Limits {
	l := Limits{CPUs: 1}
	var set unix.CPUSet
	// the affinity is what the cpuset controller has left of the machine, and what taskset(1) has left of that
	if unix.SchedGetaffinity(0, &set) == nil {
		l.CPUs = set.Count()
	}
	for _, h := range hierarchies(root) {
		for _, dir := range h.upwards() {
			if h.version == 2 {
				l.lowerMemory(readLimit(filepath.Join(dir, "memory.max")))
				l.lowerCPU(cpuMax(filepath.Join(dir, "cpu.max")))
				continue
			}
			if h.controllers["memory"] {
				l.lowerMemory(readLimit(filepath.Join(dir, "memory.limit_in_bytes")))
			}
			if h.controllers["cpu"] {
				quota := readLimit(filepath.Join(dir, "cpu.cfs_quota_us"))
				period := readLimit(filepath.Join(dir, "cpu.cfs_period_us"))
				l.lowerCPU(ratio(quota, period))
			}
		}
	}
	return l
}

// unlimited is the value from which on version 1 means no limit: it prints the largest int64 rounded down to a page,
// and pages are at most 64 KiB.
const unlimited = math.MaxInt64 - 64<<10

func (l *Limits) lowerMemory(n int64) {
	if n > 0 && n < unlimited && (l.Memory == 0 || n < l.Memory) {
		l.Memory = n
	}
}

func (l *Limits) lowerCPU(n float64) {
	if n > 0 && (l.CPU == 0 || n < l.CPU) {
		l.CPU = n
	}
}

// hierarchy is one mounted cgroup file system and this process's place in it.
type hierarchy struct {
	version     int
	controllers map[string]bool // version 1 only
	mount       string          // directory below root, with root
	below       string          // this process's group, relative to mount; "." if it is the mount itself
}

// upwards lists the directories from this process's group up to the top of what is mounted: a limit binds
// whichever of them it was set on.
func (h hierarchy) upwards() []string {
	var dirs []string
	for p := path.Clean("/" + h.below); ; p = path.Dir(p) {
		dirs = append(dirs, filepath.Join(h.mount, p))
		if p == "/" {
			return dirs
		}
	}
}

// hierarchies joins /proc/self/cgroup (where this process is) with /proc/self/mountinfo (what of it can be seen),
// as cgroups(7) and proc(5) describe them.
func hierarchies(root string) []hierarchy {
	places := places(filepath.Join(root, "proc/self/cgroup"))
	var list []hierarchy
	forLines(filepath.Join(root, "proc/self/mountinfo"), func(line string) {
		before, after, ok := strings.Cut(line, " - ")
		if !ok || !strings.HasPrefix(after, "cgroup") {
			return // before anything is taken apart: there may be hundreds
		}
		f, g := strings.Fields(before), strings.Fields(after)
		if len(f) < 5 || len(g) < 3 {
			return
		}
		mountRoot, mountPoint, kind, options := escapes.Replace(f[3]), escapes.Replace(f[4]), g[0], g[2]
		h := hierarchy{mount: filepath.Join(root, mountPoint)}
		var place string
		switch kind {
		case "cgroup2":
			h.version = 2
			place, ok = places[""]
		case "cgroup":
			h.version, h.controllers = 1, map[string]bool{}
			for _, o := range strings.Split(options, ",") {
				h.controllers[o] = true
				if p, found := places[o]; found {
					place, ok = p, true
				}
			}
			ok = h.controllers["memory"] || h.controllers["cpu"]
		default:
			return
		}
		if !ok {
			return
		}
		// a container often sees only its own part of the tree, mounted at the top; then the group's path is that of
		// the mount's root, or is not below it at all
		h.below = "."
		if rest, found := strings.CutPrefix(place, strings.TrimSuffix(mountRoot, "/")); found && (rest == "" || rest[0] == '/') {
			h.below = "./" + rest
		}
		list = append(list, h)
	})
	return list
}

// places maps each version 1 controller, and "" for version 2, to this process's group.
func places(file string) map[string]string {
	m := map[string]string{}
	forLines(file, func(line string) {
		f := strings.SplitN(line, ":", 3)
		if len(f) != 3 {
			return
		}
		for _, controller := range strings.Split(f[1], ",") {
			m[controller] = f[2]
		}
	})
	return m
}

func forLines(file string, do func(string)) {
	f, err := os.Open(file)
	if err != nil {
		return
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		do(s.Text())
	}
}

// escapes undoes mountinfo's octal escapes of space, tab, newline and backslash.
var escapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`)

// readLimit reads one number; "max", -1 and a file that is not there are 0.
func readLimit(file string) int64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(data)), 10, 64)
	if err != nil || n < 0 {
		return 0
	}
	return n
}

// cpuMax reads version 2's "QUOTA PERIOD" or "max PERIOD", in microseconds.
func cpuMax(file string) float64 {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0
	}
	f := strings.Fields(string(data))
	if len(f) != 2 {
		return 0
	}
	quota, err1 := strconv.ParseInt(f[0], 10, 64)
	period, err2 := strconv.ParseInt(f[1], 10, 64)
	if err1 != nil || err2 != nil {
		return 0
	}
	return ratio(quota, period)
}

func ratio(quota, period int64) float64 {
	if quota <= 0 || period <= 0 {
		return 0
	}
	return float64(quota) / float64(period)
}
