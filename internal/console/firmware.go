package console

import "regexp"

// Firmware is what UEFI says of its search for something to boot (edk2's BdsDxe, the same on every architecture).
type Firmware int

// What it says. A BIOS says nothing on the console.
const (
	FirmwareSilent  Firmware = iota // the line is not the firmware's
	FirmwareBegins                  // it gives the machine to a boot loader
	FirmwareRefuses                 // it does not: Secure Boot finds no signature that it trusts
	FirmwareGivesUp                 // there is nothing left to try, and it waits for a key
)

var (
	begins  = regexp.MustCompile(`BdsDxe: starting Boot[0-9A-F]{4} `)
	refuses = regexp.MustCompile(`BdsDxe: failed to (?:load|start) Boot[0-9A-F]{4} .*: (?:Access Denied|Security Violation)`)
	givesUp = regexp.MustCompile(`BdsDxe: No bootable option or device was found`)
)

// FirmwareSays is what a line of the console tells of the firmware's search.
func FirmwareSays(line string) Firmware {
	switch {
	case begins.MatchString(line):
		return FirmwareBegins
	case refuses.MatchString(line):
		return FirmwareRefuses
	case givesUp.MatchString(line):
		return FirmwareGivesUp
	}
	return FirmwareSilent
}
