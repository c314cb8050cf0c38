package test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/transcript"
)

// bootChoices are machines that boot the same guest in another way than vmentry's, each by one thing.
var bootChoices = []struct {
	name     string
	settings []string                     // vmentry's own
	change   func(args []string) []string // of QEMU's arguments; nil: none
}{
	{"as it is", nil, nil},
	{"the card has its option ROM", nil, replacing(",romfile=,", ",")},
	{"the firmware shows its boot menu", nil, replacing("menu=off", "menu=on")},
	{"a VGA card, and nobody looks", nil, adding("-device", "VGA")},
	{"`VM_DISPLAY=vnc`: VGA, USB, a tablet", []string{"VM_DISPLAY=vnc"}, nil},
	{"QEMU's default devices", nil, without("-nodefaults")},
	{"no entropy, balloon, and pvpanic", nil, withoutSmall},
	{"`VM_MACHINE=pc`", []string{"VM_MACHINE=pc"}, nil},
	{"`VM_WATCHDOG=reset`", []string{"VM_WATCHDOG=reset"}, nil},
	{"`VM_CPUS=2`", []string{"VM_CPUS=2"}, nil},
}

func replacing(old, new string) func([]string) []string {
	return func(args []string) []string {
		for i, a := range args {
			args[i] = strings.Replace(a, old, new, 1)
		}
		return args
	}
}

func adding(more ...string) func([]string) []string {
	return func(args []string) []string { return append(args, more...) }
}

func without(word string) func([]string) []string {
	return func(args []string) []string {
		return slices.DeleteFunc(args, func(a string) bool { return a == word })
	}
}

// withoutSmall takes away the devices that every guest gets.
func withoutSmall(args []string) []string {
	for i := len(args) - 2; i >= 0; i-- {
		kind, _, _ := strings.Cut(args[i+1], ",")
		if args[i] == "-device" && slices.Contains([]string{"virtio-rng-pci", "virtio-balloon-pci", "pvpanic"}, kind) {
			args = slices.Delete(args, i, i+2)
		}
	}
	return args
}

// BenchmarkBoot measures how long a guest takes from QEMU's start until all of it has begun, as a ratio to the same guest in the machine that vmentry
// gives it. A round boots the one and then the other.
func BenchmarkBoot(b *testing.B) {
	var rows []string
	var usual []float64
	rounds := 0
	for _, c := range bootChoices {
		b.Run(strings.ReplaceAll(c.name, " ", ""), func(b *testing.B) {
			start, other := newBoot(b, nil), newBoot(b, c.settings)
			if c.change != nil {
				before := strings.Join(other.args, " ")
				if other.args = c.change(other.args); strings.Join(other.args, " ") == before {
					b.Fatalf("nothing is otherwise: %s", before)
				}
			}
			start.seconds(b) // files are in memory from now on
			var ratios, figures []float64
			for b.Loop() {
				one, two := start.seconds(b), other.seconds(b)
				usual, figures, ratios = append(usual, one), append(figures, two), append(ratios, two/one)
			}
			rounds = len(ratios)
			b.ReportMetric(median(ratios), "boot/usual")
			b.ReportMetric(0, "ns/op")
			rows = append(rows, fmt.Sprintf("| %s | **%.2f** (%.2f s) |", c.name, median(ratios), median(figures)))
		})
	}
	if len(rows) == 0 {
		return
	}
	fmt.Printf("\n| machine | boot |\n|---|---|\n| vmentry's default | 1 (%.2f s) |\n%s\n\n%s, medians of %d rounds\n", median(usual), strings.Join(rows, "\n"), hostText(b), rounds)
}

func median(figures []float64) float64 {
	sorted := slices.Sorted(slices.Values(figures))
	middle := len(sorted) / 2
	if len(sorted)%2 == 1 {
		return sorted[middle]
	}
	return (sorted[middle-1] + sorted[middle]) / 2
}

// boot is a QEMU that can be started again and again.
type boot struct {
	path string
	args []string
}

// newBoot is what vmentry would start, with the guest's console on standard output.
func newBoot(b *testing.B, settings []string) boot {
	b.Helper()
	data, run := dirs(b)
	plan := planned(b, data, run, append(tiny(b, "vmtest.dhcp=none", "VM_NETWORK=user", "VM_ACCEL=auto"), settings...)...)
	plan.QEMU.Arguments = without("-S")(plan.QEMU.Arguments) // nobody is there to tell it that the guest may run
	for i, a := range plan.QEMU.Arguments {
		if strings.HasPrefix(a, "socket,id=console,") {
			plan.QEMU.Arguments[i] = "stdio,id=console"
		}
		if _, path, found := strings.Cut(a, "path="+run+"/"); found { // a socket's folder
			path, _, _ = strings.Cut(path, ",")
			if err := os.MkdirAll(filepath.Dir(filepath.Join(run, path)), 0o700); err != nil {
				b.Fatal(err)
			}
		}
	}
	for _, name := range []string{"seed.iso", "ignition.fw_cfg"} { // this guest has no use for them
		if err := os.WriteFile(filepath.Join(run, name), make([]byte, 1<<20), 0o600); err != nil {
			b.Fatal(err)
		}
	}
	return boot{plan.QEMU.Path, plan.QEMU.Arguments}
}

// seconds is how long the guest took until it was ready.
func (v boot) seconds(b *testing.B) float64 {
	b.Helper()
	cmd := exec.Command(v.path, v.args...)
	var words strings.Builder
	cmd.Stderr = &words
	console, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	began := time.Now()
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	giveUp := time.AfterFunc(transcript.Patience, func() { cmd.Process.Kill() })
	defer giveUp.Stop()
	var took time.Duration
	lines := bufio.NewScanner(console)
	for took == 0 && lines.Scan() {
		if strings.Contains(lines.Text(), tinyReady) {
			took = time.Since(began)
		}
	}
	cmd.Process.Kill()
	cmd.Wait()
	if took == 0 {
		b.Fatalf("the guest was never ready: %s", words.String())
	}
	return took.Seconds()
}
