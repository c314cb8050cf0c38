package boot

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
)

func TestExitPort(t *testing.T) {
	const o, c, r = "open", "close", "reset"
	tests := []struct {
		name   string
		uefi   bool
		events []string
		job    bool
	}{
		{"nothing", false, nil, false},
		{"BIOS, the guest opens it", false, []string{o}, true},
		{"BIOS, the guest opens and closes it", false, []string{o, c}, true},
		{"UEFI opens it and the guest does not", true, []string{o, c}, false},
		{"UEFI opens it, then the guest", true, []string{o, c, o}, true},
		{"UEFI opens it, then the guest does and closes it", true, []string{o, c, o, c}, true},
		{"UEFI leaves it alone and the guest keeps it open", true, []string{o}, true},
		{"UEFI, twice", true, []string{o, c, r, o, c}, false},
		{"UEFI, reset while it has it open", true, []string{o, r, c, o, c}, false},
		{"UEFI, the guest opened it before it rebooted", true, []string{o, c, o, c, r, o, c}, true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p, told := exitPort{uefi: tt.uefi}, 0
			for _, e := range tt.events {
				switch {
				case e == r:
					p.reset()
				case p.change(e == o):
					told++
				}
			}
			if p.isJob() != tt.job {
				t.Errorf("job: %v", p.isJob())
			}
			if told > 1 {
				t.Errorf("it was news %d times", told)
			}
		})
	}
}

// TestExitPortIsQuiet: the last of many codes counts, and the log does not grow with them.
func TestExitPortIsQuiet(t *testing.T) {
	var log bytes.Buffer
	v := &vm{log: slog.New(slog.NewTextHandler(&log, nil))}
	guest, ours := net.Pipe()
	done := make(chan struct{})
	go func() {
		defer close(done)
		v.exitPort(ours)
	}()
	for i := range 1000 {
		fmt.Fprintf(guest, "%d\nnonsense\n%s\n", i%64, strings.Repeat("9", 1000))
	}
	fmt.Fprint(guest, "7\n")
	guest.Close()
	<-done
	if v.end.Chosen == nil || *v.end.Chosen != 7 {
		t.Errorf("the code is %v", v.end.Chosen)
	}
	if n := strings.Count(log.String(), "\n"); n > 10 {
		t.Errorf("%d lines are logged", n)
	}
}
