package boot

import "testing"

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
