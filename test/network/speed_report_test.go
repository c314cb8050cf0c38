package network

import (
	"fmt"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// speedColumns are those of the report.
var speedColumns = [len(figures{})]struct {
	title  string
	metric string // of the ratio, in the benchmark's own output
	format func(float64) string
}{
	{"TCP to the guest", "to/bare", megabits},
	{"TCP from the guest", "from/bare", megabits},
	{"request, p50", "p50/bare", microseconds},
	{"request, p99", "p99/bare", microseconds},
}

func megabits(bitsPerSecond float64) string { return fmt.Sprintf("%.0f Mbit/s", bitsPerSecond/1e6) }

func microseconds(seconds float64) string { return fmt.Sprintf("%.0f µs", seconds*1e6) }

// rounds are the figures of the rounds in which a mode was measured.
type rounds struct {
	bare, through []figures
}

// ratios are the medians of each round's own ratio: what slowed the machine in one round slowed both guests.
func (r rounds) ratios() figures {
	var each []figures
	for i := range r.through {
		var f figures
		for j := range f {
			f[j] = r.through[i][j] / r.bare[i][j]
		}
		each = append(each, f)
	}
	return medians(each)
}

// medians are the medians of each column.
func medians(all []figures) figures {
	var f figures
	for j := range f {
		column := make([]float64, len(all))
		for i := range all {
			column[i] = all[i][j]
		}
		f[j] = median(column)
	}
	return f
}

func median(values []float64) float64 {
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 0 {
		return (values[middle-1] + values[middle]) / 2
	}
	return values[middle]
}

// report is the table of a run.
type report struct {
	machine string
	rows    []string
	notes   []string
	bare    []figures // of all rounds
	rounds  int       // of each mode
}

func (r *report) leaveOut(m mode, why string) {
	r.notes = append(r.notes, fmt.Sprintf("%s was left out: %s", m, why))
}

func (r *report) add(m mode, of rounds) {
	r.rounds = len(of.through)
	r.bare = append(r.bare, of.bare...)
	row, ratios, figures := "| "+string(m)+" |", of.ratios(), medians(of.through)
	for i, c := range speedColumns {
		row += fmt.Sprintf(" **%.2f** (%s) |", ratios[i], c.format(figures[i]))
	}
	r.rows = append(r.rows, row)
}

// markdown is the report as it stands in docs/networking.md.
func (r *report) markdown() string {
	var b strings.Builder
	if len(r.rows) > 0 {
		b.WriteString("\n| mode |")
		for _, c := range speedColumns {
			fmt.Fprintf(&b, " %s |", c.title)
		}
		b.WriteString("\n|---|" + strings.Repeat("---|", len(speedColumns)) + "\n| a tap by hand, without vmentry |")
		for i, figure := range medians(r.bare) {
			fmt.Fprintf(&b, " 1 (%s) |", speedColumns[i].format(figure))
		}
		fmt.Fprintf(&b, "\n%s\n", strings.Join(r.rows, "\n"))
	}
	fmt.Fprintf(&b, "\n%s, medians of %d rounds\n", r.machine, r.rounds)
	for _, n := range r.notes {
		fmt.Fprintln(&b, n)
	}
	return b.String()
}

// describe says in one line on what machine the benchmark runs.
func (p plan) describe(b *testing.B) string {
	b.Helper()
	accel, _, _ := strings.Cut(p.option(b, "-accel"), ",")
	return fmt.Sprintf("%s, %d CPUs, %s, QEMU %s with %s, vhost-net: %s", processor(), runtime.NumCPU(), kernel(b), p.QEMU.Version,
		strings.ToUpper(accel), map[bool]string{true: "yes", false: "no"}[vhost()])
}

var modelName = regexp.MustCompile(`(?m)^model name\s*: (.*)$`)

// processor is the processor's name, or its architecture where the kernel tells no name.
func processor() string {
	text, _ := os.ReadFile("/proc/cpuinfo")
	if m := modelName.FindSubmatch(text); m != nil {
		return string(m[1])
	}
	return runtime.GOARCH
}

func kernel(b *testing.B) string {
	b.Helper()
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		b.Fatalf("cannot uname: %v", err)
	}
	return "Linux " + unix.ByteSliceToString(name.Release[:])
}
