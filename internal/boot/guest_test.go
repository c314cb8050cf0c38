package boot

import (
	"bufio"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/vmentry/vmentry/internal/qemu"
)

// TestProbeOfAQEMUThatHangs: also when QEMU stops to answer in the middle of a question, the question ends.
func TestProbeOfAQEMUThatHangs(t *testing.T) {
	here, there := net.Pipe()
	go func() {
		there.Write([]byte(`{"QMP":{"version":{"qemu":{"major":9},"package":""}}}` + "\n"))
		for lines := bufio.NewScanner(there); lines.Scan(); {
			switch {
			case strings.Contains(lines.Text(), "qmp_capabilities"):
				there.Write([]byte(`{"return":{},"id":1}` + "\n"))
			case strings.Contains(lines.Text(), "hostfwd_add"):
				there.Write([]byte(`{"return":"","id":2}` + "\n"))
			}
		}
	}()
	m, err := qemu.NewMonitor(t.Context(), here, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	way, err := guest{Monitor: m}.Open(t.Context(), 22)
	if err != nil {
		t.Fatal(err)
	}
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		way.Close()
	}()
	select {
	case <-closed:
	case <-time.After(10 * time.Second):
		t.Error("the question does not end")
	}
}
