package test

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"testing"
	"time"
)

// mostInit is how much memory vmentry's own packages may take when they are initialized, in bytes. Regular expressions that are compiled before
// anybody needs them took 500,000.
const mostInit = 50_000

// TestInit: vmentry's own packages make next to nothing before it is known what is to be done.
func TestInit(t *testing.T) {
	t.Parallel()
	out, _ := command(t, append(os.Environ(), "GODEBUG=inittrace=1"), "--version")
	var own int
	packages := regexp.MustCompile(`(?m)^init github\.com/vmentry/vmentry/\S+ .* (\d+) bytes, \d+ allocs$`).FindAllStringSubmatch(out, -1)
	for _, p := range packages {
		n, err := strconv.Atoi(p[1])
		if err != nil {
			t.Fatal(err)
		}
		own += n
	}
	if len(packages) == 0 || own > mostInit {
		t.Errorf("%d of vmentry's packages take %d bytes:\n%s", len(packages), own, out)
	}
}

// BenchmarkOwnStart measures vmentry's own start, before it has done anything, as a ratio to that of a Go program that says hello.
func BenchmarkOwnStart(b *testing.B) {
	dir := b.TempDir()
	source, hello := filepath.Join(dir, "hello.go"), filepath.Join(dir, "hello")
	if err := os.WriteFile(source, []byte("package main\n\nimport \"fmt\"\n\nfunc main() { fmt.Println(\"hello\") }\n"), 0o644); err != nil {
		b.Fatal(err)
	}
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", hello, source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		b.Fatalf("%v\n%s", err, out)
	}
	wall, user, cpu := map[string][]time.Duration{}, map[string][]time.Duration{}, map[string][]time.Duration{}
	for b.Loop() {
		for _, program := range []string{hello, binaries.VMEntry} {
			cmd := exec.Command(program, "version")
			cmd.Env = []string{"PATH=" + dir} // there is no QEMU to be asked
			began := time.Now()
			if out, err := cmd.CombinedOutput(); err != nil {
				b.Fatalf("%v\n%s", err, out)
			}
			wall[program] = append(wall[program], time.Since(began))
			user[program] = append(user[program], cmd.ProcessState.UserTime())
			cpu[program] = append(cpu[program], cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		}
	}
	for unit, took := range map[string]map[string][]time.Duration{"wall": wall, "user": user, "cpu": cpu} {
		for _, all := range took {
			slices.Sort(all)
		}
		ours, least := took[binaries.VMEntry][b.N/2], took[hello][b.N/2]
		b.ReportMetric(float64(ours.Microseconds())/1000, unit+"-ms")
		b.ReportMetric(float64(ours)/float64(least), unit+"-ratio")
	}
	b.ReportMetric(0, "ns/op")
}
