package console

import (
	"regexp"
	"sync"
)

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
	begins  = pattern(`BdsDxe: starting Boot[0-9A-F]{4} `)
	refuses = pattern(`BdsDxe: failed to (?:load|start) Boot[0-9A-F]{4} .*: (?:Access Denied|Security Violation)`)
	givesUp = pattern(`BdsDxe: No bootable option or device was found`)
)

// pattern is a regular expression that is compiled when it is first used: of all of them a run needs few.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// FirmwareSays is what a line of the console tells of the firmware's search.
func FirmwareSays(line string) Firmware {
	switch {
	case begins().MatchString(line):
		return FirmwareBegins
	case refuses().MatchString(line):
		return FirmwareRefuses
	case givesUp().MatchString(line):
		return FirmwareGivesUp
	}
	return FirmwareSilent
}
