package boot

import (
	"os"
	"testing"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/probe"
)

// TestProbeAsksWhereVMentryAnswers: a probe does not read the configuration, and yet looks in the directory that it names.
func TestProbeAsksWhereVMentryAnswers(t *testing.T) {
	for _, value := range []string{"", "/run/x", " /run/x "} {
		t.Setenv("VM_RUN_DIR", value)
		cfg, _, _ := config.Parse(os.Environ())
		if got := probe.Dir(value); got != cfg.RunDir {
			t.Errorf("%q: the probe looks in %s, and vmentry answers in %s", value, got, cfg.RunDir)
		}
	}
}
