package boot

import (
	"testing"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/disk"
	"github.com/vmentry/vmentry/internal/image"
)

// TestChosenFirmware: what is known of the disk decides, and where that is nothing, what it was started with before.
func TestChosenFirmware(t *testing.T) {
	base := func(hints disk.BootHints, nvram int64) disk.Facts {
		return disk.Facts{Base: &disk.Image{Boot: hints}, NVRAM: nvram}
	}
	efi, mbr := disk.BootHints{GPT: true, MBR: true, ESP: true}, disk.BootHints{MBR: true, MBRCode: true}
	cd := func(firmwares ...string) image.Plan {
		return image.Plan{Local: &image.Local{Format: image.ISO, Firmwares: firmwares}}
	}
	for _, tt := range []struct {
		name  string
		arch  string
		asked config.Firmware
		image image.Plan
		facts disk.Facts
		want  config.Firmware
	}{
		{"asked for", "amd64", config.FirmwareUEFI, image.Plan{}, base(mbr, -1), config.FirmwareUEFI},
		{"arm64", "arm64", config.FirmwareAuto, image.Plan{}, base(mbr, -1), config.FirmwareUEFI},
		{"EFI alone", "amd64", config.FirmwareAuto, image.Plan{}, base(efi, -1), config.FirmwareUEFI},
		{"MBR", "amd64", config.FirmwareAuto, image.Plan{}, base(mbr, -1), config.FirmwareBIOS},
		{"MBR, after another image with UEFI", "amd64", config.FirmwareAuto, image.Plan{}, base(mbr, 1), config.FirmwareBIOS},
		{"a CD for UEFI", "amd64", config.FirmwareAuto, cd("uefi"), base(disk.BootHints{}, -1), config.FirmwareUEFI},
		{"a CD for both", "amd64", config.FirmwareAuto, cd("bios", "uefi"), base(disk.BootHints{}, -1), config.FirmwareBIOS},
		{"another CD later", "amd64", config.FirmwareAuto, cd("bios"), base(disk.BootHints{}, 1), config.FirmwareUEFI},
		{"no CD any more", "amd64", config.FirmwareAuto, image.Plan{}, disk.Facts{Disk: &disk.GuestDisk{Record: disk.Record{Boot: &disk.BootHints{}}}, NVRAM: 1}, config.FirmwareUEFI},
		{"no disk", "amd64", config.FirmwareAuto, image.Plan{}, disk.Facts{NVRAM: -1}, config.FirmwareBIOS},
	} {
		p := Plan{Image: tt.image}
		if got := p.chooseFirmware(config.Config{Firmware: tt.asked}, tt.arch, tt.facts); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.name, got, tt.want)
		}
	}
}
