package test

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/transcript"
)

// When a round of the soak ends its VM.
const (
	atOnce     = "while it is prepared"
	inFirmware = "in the firmware"
	inKernel   = "while the kernel boots"
	idle       = "idle"
	underLoad  = "under load"
)

// How it does.
const (
	term        = "SIGTERM"
	interrupt   = "SIGINT"
	hangup      = "SIGHUP"
	impatient   = "two SIGINT"
	killQEMU    = "QEMU killed"
	endQEMU     = "QEMU told to end"
	killVMEntry = "vmentry killed"
)

// stop is how one round of the soak ends.
type stop struct {
	when, how string
	ignored   bool // by a guest that sees its power button and does nothing about it
}

// stops are all that make sense, in a random order.
func stops(random *rand.Rand) []stop {
	var all []stop
	for _, when := range []string{atOnce, inFirmware, inKernel, idle, underLoad} {
		for _, how := range []string{term, interrupt, hangup, impatient, killQEMU, endQEMU, killVMEntry} {
			if when == atOnce && (how == killQEMU || how == endQEMU) {
				continue // there may be none yet
			}
			all = append(all, stop{when: when, how: how, ignored: random.IntN(5) == 0})
		}
	}
	random.Shuffle(len(all), func(i, j int) { all[i], all[j] = all[j], all[i] })
	return all
}

// settings are what the VM of a round is started with besides the rest.
func (s stop) settings() []string {
	if s.ignored {
		return []string{"VM_SHUTDOWN_TIMEOUT=1s"}
	}
	return []string{"VM_SHUTDOWN_TIMEOUT=" + transcript.Patience.String()}
}

// codes are the exit codes that are right, by what the log says of how far the VM was.
func (s stop) codes(log string) []int {
	switch {
	case s.how == killVMEntry, s.how == killQEMU:
		return []int{137}
	case s.how == endQEMU:
		return []int{70}
	case log == "":
		return []int{143, 130, 129} // before this program's first instruction
	case !strings.Contains(log, "QEMU started"):
		return []int{143}
	case s.how == impatient && !s.ignored:
		return []int{75, 0} // two signals may be one
	case s.ignored || s.how == impatient:
		return []int{75}
	case s.when == atOnce:
		return []int{0, 143}
	}
	return []int{0}
}

// TestSoak starts a VM and ends it, at random moments and in random ways, again and again with the same data. Each end has the exit code
// that it should, leaves no process and no file behind, and loses nothing of what the guest was told to be on its disk, whose file
// system is whole after every end, and at rest after a shutdown. VMENTRY_SOAK_ROUNDS says how often, VMENTRY_SOAK_SEED repeats a run.
func TestSoak(t *testing.T) {
	t.Parallel()
	rounds := int(number(t, "VMENTRY_SOAK_ROUNDS", 10))
	seed := number(t, "VMENTRY_SOAK_SEED", uint64(time.Now().UnixNano()))
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	data, run := dirs(t)
	settings := []string{"VM_IMAGE=" + ext4Image(t), "VM_DISK_SIZE=64M"}
	counts := map[string]int{}
	var written []string // what the guests were told to be on the disk
	var next []stop
	for round := range rounds {
		if len(next) == 0 {
			next = stops(random)
		}
		s := next[0]
		next = next[1:]
		words := "vmtest.mount vmtest.commands"
		if s.ignored {
			words += " vmtest.ignore-button"
		}
		before := exists(run) && len(contents(t, run)) > 0 // of one that was killed; a start that ends before it has the directory leaves it alone
		m := startTyping(t, data, run, tiny(t, words, append(s.settings(), settings...)...))
		if reach(m, s.when, random) {
			line := fmt.Sprintf("round %d", round)
			m.tell("echo " + line + " >>/mnt/rounds && sync")
			written = append(written, line)
		}
		if s.when == underLoad {
			m.tell(writing)
			time.Sleep(time.Duration(random.IntN(300)) * time.Millisecond)
		}
		m.end(s)
		code := m.exit()
		log := m.stderr.String()
		what := fmt.Sprintf("%s, %s, exit code %d", s.when, s.how, code)
		if s.ignored {
			what += ", the button ignored"
		}
		counts[what]++
		if !slices.Contains(s.codes(log), code) {
			t.Fatalf("round %d: %s, want one of %v", round, what, s.codes(log))
		}
		m.nothingRuns()
		if left := contents(t, run); len(left) > 0 && s.how != killVMEntry && (!before || strings.Contains(log, "disk ready")) {
			t.Errorf("round %d: %s: left in the run directory: %v", round, what, left)
		}
		disk := filepath.Join(data, "disk", "overlay.qcow2")
		if !exists(disk) {
			continue // it ended before it had made one
		}
		atRest := code == 0 && s.when == idle // a guest that boots may mount it while it shuts down, and one that writes cannot unmount it
		have := file(t, disk, "/rounds", atRest)
		for _, line := range written {
			if !slices.Contains(strings.Split(have, "\n"), line) {
				t.Fatalf("round %d: %s: of what the guest was told to be on its disk %q is not there:\n%s", round, what, line, have)
			}
		}
	}
	for _, what := range slices.Sorted(maps.Keys(counts)) {
		t.Logf("%3d  %s", counts[what], what)
	}
	t.Logf("%d starts and ends, %d times the guest wrote something, lost 0", rounds, len(written))
}

// reach waits for the moment, and says whether the guest takes commands then.
func reach(m *typing, when string, random *rand.Rand) bool {
	m.t.Helper()
	sometime := func(most time.Duration) { time.Sleep(time.Duration(random.Int64N(int64(most)))) }
	switch when {
	case atOnce:
		sometime(500 * time.Millisecond)
	case inFirmware:
		m.stderr.Await(m.t, "QEMU started")
		sometime(200 * time.Millisecond)
	case inKernel:
		m.stderr.Await(m.t, "first console byte")
		sometime(2 * time.Second)
	default:
		m.stdout.Await(m.t, tinyReady)
		return true
	}
	return false
}

// end ends the VM, one way or another.
func (m *typing) end(s stop) {
	m.t.Helper()
	switch s.how {
	case term:
		m.signal(syscall.SIGTERM)
	case interrupt:
		m.signal(syscall.SIGINT)
	case hangup:
		m.signal(syscall.SIGHUP)
	case impatient:
		m.signal(syscall.SIGINT)
		time.Sleep(50 * time.Millisecond)
		m.cmd.Process.Signal(syscall.SIGINT) // the first may have been enough
	case killQEMU:
		syscall.Kill(qemuOf(m.t, m.machine), syscall.SIGKILL)
	case endQEMU:
		syscall.Kill(qemuOf(m.t, m.machine), syscall.SIGTERM)
	case killVMEntry:
		m.signal(syscall.SIGKILL)
	}
}

// nothingRuns waits until no process is left that was given the run directory: what a killed vmentry leaves ends by itself.
func (m *machine) nothingRuns() {
	m.t.Helper()
	for give := time.Now().Add(transcript.Patience); ; time.Sleep(10 * time.Millisecond) {
		left := processesOf(m.run)
		if len(left) == 0 {
			return
		}
		if time.Now().After(give) {
			m.t.Fatalf("still running: %q", left)
		}
	}
}

// processesOf are the command lines that mention a directory.
func processesOf(dir string) (lines []string) {
	all, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, p := range all {
		if line, err := os.ReadFile(p); err == nil && strings.Contains(string(line), dir) {
			lines = append(lines, strings.ReplaceAll(string(line), "\x00", " "))
		}
	}
	return lines
}

// number is a number that an environment variable holds.
func number(t *testing.T, variable string, otherwise uint64) uint64 {
	t.Helper()
	s := os.Getenv(variable)
	if s == "" {
		return otherwise
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		t.Fatalf("%s: %v", variable, err)
	}
	return n
}
