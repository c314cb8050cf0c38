package test

import (
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/metrics"
	"github.com/vmentry/vmentry/test/transcript"
)

// ofBridges begin the names of metrics that only a mode with cards of vmentry's has; test/network has them.
var ofBridges = []string{"vmentry_network_", "vmentry_dhcp_"}

// TestMetrics: what docs/operations.md lists is what Prometheus gets, and each number is what has happened.
func TestMetrics(t *testing.T) {
	t.Parallel()
	at := fmt.Sprintf("http://127.0.0.1:%d", port(t))
	m := start(t, tiny(t, "vmtest.write=hello vmtest.commands", "VM_IMAGE="+image(t, "raw"), "VM_HTTP="+strings.TrimPrefix(at, "http://"), "VM_READY=boot"))
	m.stderr.Await(t, "QEMU started")
	early := scrape(t, at)
	m.stdout.Await(t, tinyReady)
	m.press("reset")
	m.stdout.AwaitTimes(t, tinyReady, 2)

	var s metrics.Scrape
	for give := time.Now().Add(transcript.Patience); ; time.Sleep(time.Second) { // the guest tells of its memory when it is asked, every ten seconds
		if s = scrape(t, at); s["vmentry_guest_memory_available_bytes"] > 0 || time.Now().After(give) {
			break
		}
	}
	want := slices.DeleteFunc(metrics.Documented(t), func(name string) bool {
		return slices.ContainsFunc(ofBridges, func(p string) bool { return strings.HasPrefix(name, p) })
	})
	if got := s.Names(); !slices.Equal(got, want) {
		t.Errorf("served:\n%s\nand documented:\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	const mib = 1 << 20
	const disk, ram, console = `vmentry_disk_%s{disk="disk", operation="%s"}`, 256 * mib, len(tinyReady)
	ranges := map[string][2]float64{
		"vmentry_guest_vcpus":                            {1, 1},
		"vmentry_guest_live":                             {1, 1},
		`vmentry_guest_state{state="running"}`:           {1, 1},
		"vmentry_guest_resets_total":                     {1, 5}, // SeaBIOS resets once more by itself
		"vmentry_guest_memory_size_bytes":                {ram, ram},
		"vmentry_guest_memory_total_bytes":               {100 * mib, ram},
		"vmentry_guest_memory_available_bytes":           {10 * mib, ram},
		"vmentry_guest_memory_free_bytes":                {10 * mib, ram},
		"vmentry_guest_memory_caches_bytes":              {1, ram},
		`vmentry_guest_swap_bytes_total{direction="in"}`: {0, 0},
		fmt.Sprintf(disk, "bytes_total", "read"):         {512, 1024 * mib},
		fmt.Sprintf(disk, "bytes_total", "write"):        {2 * 4096, mib}, // once in each boot
		fmt.Sprintf(disk, "operations_total", "write"):   {2, 1000},
		fmt.Sprintf(disk, "operations_total", "flush"):   {2, 1000},
		fmt.Sprintf(disk, "errors_total", "write"):       {0, 0},
		"vmentry_console_bytes_total":                    {2 * float64(console), 10 * mib},
		"vmentry_qemu_resident_memory_bytes":             {64 * mib, 2048 * mib},
		"process_resident_memory_bytes":                  {5 * mib, 25 * mib}, // vmentry's own
		"go_goroutines":                                  {5, 200},
	}
	for sample, limits := range ranges {
		if v, is := s[sample]; !is || v < limits[0] || v > limits[1] {
			t.Errorf("%s is %v (there: %t), want %v to %v", sample, v, is, limits[0], limits[1])
		}
	}
	if before, after := early[`vmentry_guest_cpu_seconds_total{cpu="0"}`], s[`vmentry_guest_cpu_seconds_total{cpu="0"}`]; after <= before {
		t.Errorf("the guest's CPU has run for %v s, and then for %v s", before, after)
	}
	if began := time.Unix(int64(s["vmentry_start_time_seconds"]), 0); time.Since(began) > time.Hour || began.After(time.Now()) {
		t.Errorf("vmentry began at %s", began)
	}
	last := 0.0
	for _, milestone := range []string{"configured", "disk ready", "network ready", "QEMU started", "first console byte"} {
		v := s[fmt.Sprintf("vmentry_boot_milestone_seconds{milestone=%q}", milestone)]
		if v <= last {
			t.Errorf("%s was reached after %v s, and what comes before it after %v s", milestone, v, last)
		}
		last = v
	}
	m.signal(syscall.SIGTERM)
	m.wants(0)
}

// scrape asks as Prometheus does.
func scrape(t *testing.T, at string) metrics.Scrape {
	t.Helper()
	response, err := http.Get(at + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil || response.StatusCode != http.StatusOK {
		t.Fatalf("%s: %v", response.Status, err)
	}
	return metrics.Parse(t, string(text))
}
