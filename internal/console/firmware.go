package console

import (
	"bytes"
	"regexp"
	"sync"
)

// Firmware is what the firmware says of its search for something to boot: UEFI (edk2's BdsDxe, the same on every architecture), or a BIOS (SeaBIOS).
type Firmware int

// What it says.
const (
	FirmwareSilent  Firmware = iota // the line is not the firmware's
	FirmwareBegins                  // it gives the machine to a boot loader
	FirmwareRefuses                 // it does not: Secure Boot finds no signature that it trusts
	FirmwareGivesUp                 // there is nothing left to try, and it waits for a key
	BIOSGivesUp                     // the same of a BIOS, which waits for nothing
)

var (
	begins     = pattern(`BdsDxe: starting Boot[0-9A-F]{4} |Booting from [A-Z].*\.\.\.`)
	refuses    = pattern(`BdsDxe: failed to (?:load|start) Boot[0-9A-F]{4} .*: (?:Access Denied|Security Violation)`)
	givesUp    = pattern(`BdsDxe: No bootable option or device was found`)
	unbootable = pattern(`^(?:\x1b\[[0-9;]*m)*No bootable device\.`)
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
	case unbootable().MatchString(line):
		return BIOSGivesUp
	}
	return FirmwareSilent
}

// resetting is what SeaBIOS begins with on a serial port (src/sercon.c): it would take away from a terminal, and from who looks at the container's log, what was
// shown before it, and leave it without the wrapping of long lines.
const resetting = "\x1bc\x1b[?7l\x1b[2J"

// terminalReset leaves that out of a stream.
type terminalReset struct{ matched int }

func (r *terminalReset) without(b []byte) []byte {
	if r.matched == 0 && bytes.IndexByte(b, resetting[0]) < 0 {
		return b
	}
	out := make([]byte, 0, len(resetting)+len(b))
	for _, c := range b {
		if c != resetting[r.matched] {
			out = append(out, r.held()...)
		}
		if c != resetting[r.matched] {
			out = append(out, c)
			continue
		}
		if r.matched++; r.matched == len(resetting) {
			r.matched = 0
		}
	}
	return out
}

// held is what may have been the beginning of it, and was not.
func (r *terminalReset) held() []byte {
	held := resetting[:r.matched]
	r.matched = 0
	return []byte(held)
}
