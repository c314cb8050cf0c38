package metrics

import (
	"slices"
	"testing"
)

func TestSpread(t *testing.T) {
	for name, want := range map[string][]string{
		"a_total":            {"a_total"},
		"a_state{state}":     {"a_state"},
		"a_{b,c}_total{x,y}": {"a_b_total", "a_c_total"},
	} {
		if got := spread(name); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}

func TestParse(t *testing.T) {
	s := Parse(t, "# HELP vmentry_a_total What there is.\n# TYPE vmentry_a_total counter\nvmentry_a_total{b=\"c\",d=\"e\"} 5\n# HELP go_x X.\n# TYPE go_x gauge\ngo_x 1\n")
	if v := s[`vmentry_a_total{b="c", d="e"}`]; v != 5 {
		t.Errorf("%v", s)
	}
	if names := s.Names(); !slices.Equal(names, []string{"vmentry_a_total"}) {
		t.Errorf("%v", names)
	}
}

func TestDocumented(t *testing.T) {
	names := Documented(t)
	for _, name := range []string{"vmentry_build_info", "vmentry_disk_seconds_total", "vmentry_guest_memory_free_bytes", "vmentry_qemu_resident_memory_bytes"} {
		if !slices.Contains(names, name) {
			t.Errorf("%s is not in %v", name, names)
		}
	}
}
