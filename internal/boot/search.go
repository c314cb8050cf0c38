package boot

import (
	"log/slog"

	"github.com/vmentry/vmentry/internal/console"
	"github.com/vmentry/vmentry/internal/status"
)

// search follows the firmware's search for something to boot. A firmware that has found nothing waits, for ever, as that of any computer does: the guest is then not ready, and the log says why. It is one reader's, and not to be shared.
type search struct {
	vm      *status.VM
	log     *slog.Logger
	refused bool // something, by Secure Boot
}

// line takes a line of the console.
func (s *search) line(text string) {
	switch console.FirmwareSays(text) {
	case console.FirmwareBegins:
		s.vm.Stuck("")
	case console.FirmwareRefuses:
		s.refused = true
	case console.FirmwareGivesUp:
		why := "the firmware has found nothing to boot"
		what := "is the disk empty, or made for a BIOS (VM_FIRMWARE=bios)?"
		if s.refused {
			why = "the firmware has found nothing that it may boot: Secure Boot refuses what is not signed by a key that it knows"
			what = "boot what is signed by Microsoft, as the shim of the distributions is, or set VM_FIRMWARE=uefi"
		}
		s.refused = false
		s.stuck(why, what)
	case console.BIOSGivesUp:
		s.stuck("the BIOS has found nothing to boot", "is the disk empty, or made for UEFI (VM_FIRMWARE=uefi)?")
	}
}

func (s *search) stuck(why, what string) {
	s.vm.Stuck(why)
	s.log.Error(why + "; " + what)
}
