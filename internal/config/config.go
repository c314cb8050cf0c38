package config

import (
	"log/slog"
	"net"
	"time"
)

// Config is the environment as typed values. Nothing in it has to be parsed again.
//
// The zero value of a field means that the variable is unset or says none, unless its comment says otherwise; where the
// difference between a default and a choice matters, ask Set.
type Config struct {
	// Set holds the name of every variable that was set and not empty, to whatever value.
	Set map[string]bool

	Name     string // VM_NAME, a host name of at most 64 bytes; "": the container's
	Memory   Bytes  // VM_MEMORY, whole MiB; 0: to be chosen
	CPUs     int    // VM_CPUS, 1 to 1024; 0: to be chosen
	CPUModel string // VM_CPU_MODEL in QEMU's syntax; "": to be chosen
	Accel    Accel
	Machine  string // VM_MACHINE in QEMU's syntax; "": to be chosen
	Firmware Firmware
	TPM      bool
	Arch     Arch     // "": the container's
	Kernel   string   // VM_KERNEL, a path
	Initrd   string   // VM_INITRD, a path; "" without Kernel
	Cmdline  string   // VM_CMDLINE; "" without Kernel
	Args     []string // VM_ARGS, as words

	Image          Image
	ImageSHA256    Digest
	DiskSize       Bytes // VM_DISK_SIZE, a multiple of 512, never 0
	DiskBus        Bus
	DiskMode       DiskMode
	DiskOnNewImage OnNewImage
	Disks          []Disk   // VM_DISKS; names are unique and none is empty
	Volumes        []Volume // VM_VOLUMES; tags and places in the guest are unique, and there are at most 8
	DataDir        string   // VM_DATA_DIR, absolute and clean
	RunDir         string   // VM_RUN_DIR, absolute and clean, another than DataDir

	Butane                Source   // CONFIG_FILE or CONFIG: Butane, or a Container Linux Config
	Ignition              Source   // IGNITION_CONFIG_FILE or IGNITION_CONFIG
	Cloud                 Source   // CLOUD_CONFIG_FILE or CLOUD_CONFIG
	SSHAuthorizedKeys     []string // VM_SSH_AUTHORIZED_KEYS, each one line of an authorized_keys file
	SSHAuthorizedKeysFile string   // VM_SSH_AUTHORIZED_KEYS_FILE: adds to SSHAuthorizedKeys
	SSHUser               string   // VM_SSH_USER; "": the image's
	IgnitionVersion       IgnitionVersion
	CloudSeed             CloudSeed

	Network    Mode      // VM_NETWORK, with RANCHER_VM taken into account
	RancherVM  bool      // RANCHER_VM is true
	Forwards   []Forward // HOSTFWD, or the default in user mode. Unset in passt and nat mode (ask Set) is every port
	DHCP       bool      // VM_DHCP, with NO_DHCP taken into account
	NICModel   NICModel
	MAC        net.HardwareAddr // VM_MAC, 6 bytes, unicast and not zero; nil: to be chosen
	Interfaces []string         // VM_INTERFACES, in order, each once; nil: the mode's default

	ShutdownTimeout time.Duration // VM_SHUTDOWN_TIMEOUT, 0 to 24 hours; 0: the guest is given no time
	Reboot          Reboot
	Watchdog        Watchdog
	Supervise       bool

	Ready         Ready
	Console       Console
	Display       Display
	HTTP          Address // VM_HTTP; zero: no HTTP
	HTTPIntercept bool
	HTTPToken     Secret
	HTTPTokenFile string // VM_HTTP_TOKEN_FILE: never together with HTTPToken
	LogFormat     LogFormat
	LogLevel      slog.Level
}

// Accel is VM_ACCEL: how the guest's processor is made.
type Accel string

// The values of VM_ACCEL.
const (
	AccelAuto Accel = "auto"
	AccelKVM  Accel = "kvm"
	AccelTCG  Accel = "tcg"
)

// Firmware is VM_FIRMWARE.
type Firmware string

// The values of VM_FIRMWARE. Auto looks at the disk.
const (
	FirmwareAuto       Firmware = "auto"
	FirmwareBIOS       Firmware = "bios"
	FirmwareUEFI       Firmware = "uefi"
	FirmwareSecureBoot Firmware = "secureboot"
)

// Arch is VM_ARCH, in Go's and OCI's words. The kernel's words x86_64 and aarch64 are understood as well.
type Arch string

// The values of VM_ARCH.
const (
	ArchAMD64 Arch = "amd64"
	ArchARM64 Arch = "arm64"
)

// Bus is what a disk is attached to.
type Bus string

// The values of VM_DISK_BUS, and of bus= in VM_DISKS.
const (
	BusVirtio Bus = "virtio"
	BusSCSI   Bus = "scsi"
	BusSATA   Bus = "sata"
	BusIDE    Bus = "ide"
	BusNVMe   Bus = "nvme"
)

// DiskMode is VM_DISK_MODE: what the guest writes to.
type DiskMode string

// The values of VM_DISK_MODE.
const (
	DiskOverlay DiskMode = "overlay"
	DiskCopy    DiskMode = "copy"
	DiskDirect  DiskMode = "direct"
)

// OnNewImage is VM_DISK_ON_NEW_IMAGE: what happens to an overlay whose base image was replaced.
type OnNewImage string

// The values of VM_DISK_ON_NEW_IMAGE.
const (
	OnNewImageRefuse   OnNewImage = "refuse"
	OnNewImageRecreate OnNewImage = "recreate"
)

// CloudSeed is VM_CLOUD_SEED: the data source that cloud-init's data is laid out for.
type CloudSeed string

// The values of VM_CLOUD_SEED.
const (
	SeedNoCloud     CloudSeed = "nocloud"
	SeedConfigDrive CloudSeed = "configdrive"
)

// Mode is VM_NETWORK: how the guest is connected.
type Mode string

// The values of VM_NETWORK.
const (
	ModeUser   Mode = "user"
	ModePasst  Mode = "passt"
	ModeNAT    Mode = "nat"
	ModeBridge Mode = "bridge"
	ModeNone   Mode = "none"
)

// NICModel is VM_NIC_MODEL.
type NICModel string

// The values of VM_NIC_MODEL.
const (
	NICVirtio  NICModel = "virtio"
	NICE1000   NICModel = "e1000"
	NICE1000E  NICModel = "e1000e"
	NICRTL8139 NICModel = "rtl8139"
	NICVMXNet3 NICModel = "vmxnet3"
)

// Reboot is VM_REBOOT: what a guest's reboot is to the container.
type Reboot string

// The values of VM_REBOOT.
const (
	RebootReset Reboot = "reset"
	RebootExit  Reboot = "exit"
)

// Watchdog is VM_WATCHDOG: what happens when the guest does not feed it.
type Watchdog string

// The values of VM_WATCHDOG.
const (
	WatchdogNone     Watchdog = "none"
	WatchdogReset    Watchdog = "reset"
	WatchdogPowerOff Watchdog = "poweroff"
	WatchdogExit     Watchdog = "exit"
)

// Console is VM_CONSOLE: where the serial console is.
type Console string

// The values of VM_CONSOLE.
const (
	ConsoleStdio Console = "stdio"
	ConsoleNone  Console = "none"
)

// Display is VM_DISPLAY.
type Display string

// The values of VM_DISPLAY.
const (
	DisplayNone Display = "none"
	DisplayVNC  Display = "vnc"
)

// LogFormat is VM_LOG_FORMAT.
type LogFormat string

// The values of VM_LOG_FORMAT.
const (
	LogText LogFormat = "text"
	LogJSON LogFormat = "json"
)
