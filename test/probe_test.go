package test

import (
	"slices"
	"strings"
	"syscall"
	"testing"
)

// TestProbeIsCheap: a probe is answered before the libraries have been initialized that a boot needs, and says what the whole program would.
func TestProbeIsCheap(t *testing.T) {
	t.Parallel()
	m := start(t, append(pretend(""), "VM_IMAGE="+image(t, "qcow2"), "VM_READY=none"))
	m.stderr.Await(t, "INF ready")
	for _, what := range []string{"startup", "ready", "live"} {
		quick, code := command(t, append(environment(m.data, m.run), "GODEBUG=inittrace=1"), "probe", what)
		var first []string
		var said strings.Builder
		for line := range strings.Lines(quick) {
			if name, ok := strings.CutPrefix(line, "init "); ok {
				first = append(first, strings.Fields(name)[0])
				continue
			}
			said.WriteString(line)
		}
		if len(first) == 0 || len(first) > 40 || slices.Contains(first, "fmt") || slices.Contains(first, "net") {
			t.Errorf("probe %s: %d packages come before it: %v", what, len(first), first)
		}
		// a word more, and it is the whole program's
		whole, wholeCode := command(t, environment(m.data, m.run), "probe", what, "--timeout=3s")
		if said.String() != whole || code != wholeCode || whole == "" {
			t.Errorf("probe %s: %d, %q; the whole program: %d, %q", what, code, said.String(), wholeCode, whole)
		}
	}
	m.signal(syscall.SIGTERM)
	m.exit()
}
