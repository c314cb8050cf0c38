// Package qemu describes a virtual machine as a value and turns it into QEMU's argument list, finds
// out what this host and this QEMU can do, and speaks QMP.
//
// Building the arguments is pure: nothing is looked up, opened or executed on the way. Whether they
// can work is a second question, asked with [Capabilities.Check] before anything is started.
package qemu

import (
	"net"
	"net/netip"
)

// Accel is how QEMU runs the guest's instructions.
type Accel string

// The accelerators that vmentry knows.
const (
	KVM Accel = "kvm" // in hardware
	TCG Accel = "tcg" // by translation
)

// Bus is what a disk is attached to.
type Bus string

// The buses of QEMU's PC and virt machines. VirtIO is the one to have; the others are for guests without its drivers.
const (
	VirtIO Bus = "virtio"
	SCSI   Bus = "scsi"
	SATA   Bus = "sata"
	IDE    Bus = "ide"
	NVMe   Bus = "nvme"
)

// Machine is one virtual machine. Its zero value is not useful; every field that is not marked optional must be set.
type Machine struct {
	Name string // shown in the process list and by QMP
	UUID string // optional: SMBIOS system UUID; systemd makes the guest's machine-id from it

	Arch        string // "amd64" or "arm64", the guest's
	Type        string // QEMU machine type, e.g. "q35", "pc", "virt"
	TypeOptions string // optional: more of -machine's options, as the user wrote them

	Accel            Accel
	TranslationCache int64  // bytes; TCG only. QEMU's own default is up to 1 GiB, whatever the guest's size
	MultiThreaded    bool   // TCG only: one host thread for each vCPU
	CPUModel         string // with flags, as -cpu takes it
	CPUs             int
	Memory           int64 // bytes

	Firmware *Firmware // optional: nil is the machine's own BIOS
	Kernel   *Kernel   // optional: boot it directly instead of what is on the disk

	FWCfg []FWCfg // files that the guest reads through the fw_cfg device
	Disks []Disk  // the first one is booted
	NICs  []NIC

	Watchdog Unfed // what becomes of a guest that does not feed its watchdog; empty: it has none

	TPM     string   // optional: path of the socket at which a swtpm is the guest's TPM 2.0
	VNC     string   // optional: path of the socket at which VNC is served; there is a graphics card then
	Volumes []Volume // of virtio-fs; with any, the guest's memory is shared with the programs that serve them. At most 8

	Console  Console
	Ports    []Port          // virtio-serial ports
	Monitors []MonitorSocket // QMP; each serves one client at a time

	Handed  []Handed // files that QEMU finds opened; see [Machine.HandOver]
	Sandbox bool     // QEMU's own filter of system calls

	ExitOnReboot bool     // end QEMU instead of resetting the guest
	Paused       bool     // wait for QMP's cont before the first instruction
	ExtraArgs    []string // the user's own, at the end
}

// Firmware is UEFI in two flash chips: the code, shared and read-only, and the guest's own variables.
type Firmware struct {
	Code   string // path
	Format string // of Code: "raw" or "qcow2"
	Vars   string // path, raw; written by the guest
	// Secure: the variables are written by the firmware alone, in system management mode, so that a guest's kernel cannot change the keys
	// that boot loaders are checked with. A PC only, and q35 alone.
	Secure bool
}

// Kernel is what QEMU loads itself, without a boot loader.
type Kernel struct {
	Image   string // path
	Initrd  string // optional path
	Cmdline string // optional
}

// FWCfg is one named blob of the fw_cfg device. Names of users begin with "opt/" (QEMU docs/specs/fw_cfg.rst).
type FWCfg struct {
	Name string
	Path string
}

// NIC is one network card of the guest and what it is connected to.
type NIC struct {
	Model string // "virtio", "e1000", "e1000e", "rtl8139", "vmxnet3"
	MAC   net.HardwareAddr
	MTU   int // bytes, as a virtio card tells it to the guest; 0: it says nothing

	// What it is connected to is one of these.
	User   *UserNet
	Tap    *Tap
	Stream *Stream
}

// Tap is a tap device that QEMU finds opened.
type Tap struct {
	FDs      []int // a descriptor for each queue
	VhostFDs []int // as many of /dev/vhost-net; none: QEMU moves the frames itself
}

// Stream is a program that listens on a Unix socket for the guest's frames, each behind its length (QEMU's manual, -netdev stream; QEMU
// has it since 7.2).
type Stream struct{ Path string }

// UserNet is QEMU's built-in user-mode network (slirp).
type UserNet struct {
	HostName string // given to the guest by DHCP
	IPv4Only bool   // without it the guest is offered IPv6 as well
	Forwards []Forward
}

// Forward is one port of the pod that leads to a port of the guest.
type Forward struct {
	Proto     string     // "tcp" or "udp"
	HostIP    netip.Addr // the zero value is every address
	HostPort  uint16
	GuestIP   netip.Addr // the zero value is the guest's own
	GuestPort uint16
}

// Volume is a directory that another program serves over vhost-user.
type Volume struct {
	Tag    string // what the guest mounts it by
	Socket string // where that program listens
}

// Console is the guest's first serial port.
type Console struct {
	Kind ConsoleKind
	Path string // of the socket that QEMU listens on, for ConsoleSocket
}

// ConsoleKind says where the serial console goes.
type ConsoleKind string

// Where the serial console can go.
const (
	ConsoleNone   ConsoleKind = "none"
	ConsoleStdio  ConsoleKind = "stdio"  // QEMU's own standard input and output
	ConsoleSocket ConsoleKind = "socket" // a Unix socket that QEMU listens on
)

// Port is a virtio-serial port: a byte stream between the guest and a Unix socket that QEMU listens on.
type Port struct {
	ID   string
	Name string // what the guest sees below /dev/virtio-ports
	Path string
}

// MonitorSocket is a QMP socket that QEMU listens on.
type MonitorSocket struct {
	ID   string
	Path string
}

// Unfed is what QEMU does when the guest does not feed its watchdog (WatchdogAction in QEMU's qapi/run-state.json). QEMU's own poweroff is
// not among them: it ends QEMU on the spot, with what it still has to write to the disks.
type Unfed string

// What QEMU can do then, after it has said so with the event WATCHDOG.
const (
	UnfedReset Unfed = "reset"
	UnfedPause Unfed = "pause" // whoever hears the event decides
)

// Unsupervised is m for a QEMU that runs on its own: it begins at once, with the console on its own standard output.
func (m Machine) Unsupervised() Machine {
	m.Paused = false
	if m.Console.Kind == ConsoleSocket {
		m.Console = Console{Kind: ConsoleStdio}
	}
	return m
}
