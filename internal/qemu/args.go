package qemu

import (
	"fmt"
	"strconv"
	"strings"
)

const mib = 1 << 20

// PCI slots are given by hand, so that a guest finds its card at the same place (and under the same name,
// enp0s2) whatever else it has, now and after an update.
const (
	slotNIC      = 0x02
	slotDisk     = 0x0a // the first disk
	slotDisks    = 0x0b // the others, eight to a slot, up to 0x12
	slotWatchdog = 0x15
	slotScreen   = 0x16
	slotUSB      = 0x17
	slotSerial   = 0x18
	slotRNG      = 0x19
	slotMemory   = 0x1a
	slotSCSI     = 0x1b
	slotPanic    = 0x1c
	slotAHCI     = 0x1d // six disks to a function
	slotVolume   = 0x1e // a function for each
)

// Args is QEMU's argument list for m, without the program's own name.
func (m Machine) Args() []string {
	var a args
	m.base(&a)
	m.sandbox(&a)
	m.handed(&a)
	m.processor(&a)
	m.firmware(&a)
	m.disks(&a)
	m.network(&a)
	m.volumes(&a)
	m.screen(&a)
	m.console(&a)
	m.ports(&a)
	m.small(&a)
	m.watchdog(&a)
	m.tpm(&a)
	m.control(&a)
	return append(a.list, m.ExtraArgs...)
}

// args collects arguments; its methods keep a group of options in one readable line.
type args struct{ list []string }

func (a *args) add(v ...string)             { a.list = append(a.list, v...) }
func (a *args) opt(name string, o ...kv)    { a.add(name, options("", o)) }
func (a *args) device(kind string, o ...kv) { a.add("-device", options(kind, o)) }

// kv is one key=value of a QEMU option; an empty key is left out with its value.
type kv struct{ key, value string }

// options prints first,key=value,… with commas in values doubled, as QEMU's option parser wants them.
func options(first string, list []kv) string {
	var parts []string
	if first != "" {
		parts = append(parts, first)
	}
	for _, o := range list {
		if o.key != "" {
			parts = append(parts, o.key+"="+strings.ReplaceAll(o.value, ",", ",,"))
		}
	}
	return strings.Join(parts, ",")
}

// when is key=value if the condition holds, else nothing.
func when(cond bool, key, value string) kv {
	if cond {
		return kv{key, value}
	}
	return kv{}
}

func (m Machine) base(a *args) {
	a.opt("-name", kv{"guest", m.Name})
	a.add("-nodefaults", "-no-user-config", "-display", "none")
	if m.UUID != "" {
		a.add("-uuid", m.UUID)
	}
	machine := options("", []kv{{"type", m.Type},
		kv{"dump-guest-core", "off"}, // the guest's memory has no place in a core file
		when(m.isPC(), "vmport", "off"),
		when(m.isPC(), "usb", "off"),
		when(m.isPC() && m.Firmware == nil && m.VNC == "", "graphics", "off"), // the BIOS, and what it boots, then write to the serial port
		when(m.Firmware != nil && m.Firmware.Secure, "smm", "on"),
		when(m.Type == "virt", "gic-version", m.gic()),
		when(len(m.Volumes) > 0, "memory-backend", "ram")})
	if m.TypeOptions != "" {
		machine += "," + m.TypeOptions
	}
	a.add("-machine", machine)
	if m.Accel == TCG {
		a.add("-accel", options("tcg", []kv{
			{"thread", map[bool]string{true: "multi", false: "single"}[m.MultiThreaded]},
			when(m.TranslationCache > 0, "tb-size", strconv.FormatInt(m.TranslationCache/mib, 10)),
		}))
	} else {
		a.add("-accel", "kvm")
	}
}

func (m Machine) gic() string {
	if m.Accel == KVM {
		return "host"
	}
	return "max"
}

func (m Machine) isPC() bool {
	return m.Type == "q35" || m.Type == "pc" || strings.HasPrefix(m.Type, "pc-")
}

// isQ35 says whether the machine has an AHCI controller built in.
func (m Machine) isQ35() bool { return m.Type == "q35" || strings.HasPrefix(m.Type, "pc-q35") }

// isI440FX says whether the machine has an IDE controller built in, and conventional PCI.
func (m Machine) isI440FX() bool { return m.Type == "pc" || strings.HasPrefix(m.Type, "pc-i440fx") }

// pciBus is the name of the root bus; the i440FX's has another than those of the PCI Express machines.
func (m Machine) pciBus() string {
	if m.isI440FX() {
		return "pci.0"
	}
	return "pcie.0"
}

func (m Machine) pci(slot int) []kv {
	return []kv{{"bus", m.pciBus()}, {"addr", fmt.Sprintf("0x%02x", slot)}}
}

// functions is how many devices share a PCI slot where they must be many.
const functions = 8

// function is the place of the n-th device, from 0, of those that share slots from slot on. A guest looks for more functions
// where the first says that there may be more; it always does, so that another device changes nothing about the ones before it.
func (m Machine) function(slot, n int) []kv {
	addr := fmt.Sprintf("0x%02x.0x%x", slot+n/functions, n%functions)
	return []kv{{"bus", m.pciBus()}, {"addr", addr}, when(n%functions == 0, "multifunction", "on")}
}

func (m Machine) processor(a *args) {
	a.add("-cpu", m.CPUModel)
	a.opt("-smp", kv{"cpus", strconv.Itoa(m.CPUs)})
	size := strconv.FormatInt(m.Memory/mib, 10) + "M"
	a.opt("-m", kv{"size", size})
	if len(m.Volumes) > 0 {
		// memory that others can map too. A memfd lies in no file system, whose size would limit it (/dev/shm has 64 MiB in a container)
		a.add("-object", options("memory-backend-memfd", []kv{{"id", "ram"}, {"size", size}, {"share", "on"}}))
	}
}

func (m Machine) firmware(a *args) {
	if f := m.Firmware; f != nil {
		a.opt("-drive", kv{"if", "pflash"}, kv{"unit", "0"}, kv{"format", f.Format}, kv{"readonly", "on"}, kv{"file", f.Code})
		a.opt("-drive", kv{"if", "pflash"}, kv{"unit", "1"}, kv{"format", "raw"}, kv{"file", f.Vars})
		if f.Secure { // as edk2's OvmfPkg/README has it: what is kept over a sleep would be a way around
			a.add("-global", "driver=cfi.pflash01,property=secure,value=on", "-global", "ICH9-LPC.disable_s3=1")
		}
	}
	if k := m.Kernel; k != nil {
		a.add("-kernel", k.Image)
		if k.Initrd != "" {
			a.add("-initrd", k.Initrd)
		}
		if k.Cmdline != "" {
			a.add("-append", k.Cmdline)
		}
	}
	// strict: the firmware tries what has a boot index and nothing else, without waiting for a menu
	a.opt("-boot", kv{"menu", "off"}, kv{"strict", "on"})
	for _, f := range m.FWCfg {
		a.opt("-fw_cfg", kv{"name", f.Name}, kv{"file", f.Path})
	}
}

// nicModels is QEMU's device for each model's name.
var nicModels = map[string]string{
	"virtio": "virtio-net-pci", "e1000": "e1000", "e1000e": "e1000e", "rtl8139": "rtl8139", "vmxnet3": "vmxnet3",
}

func (m Machine) network(a *args) {
	for i, n := range m.NICs {
		id := fmt.Sprintf("net%d", i)
		a.add("-netdev", n.backend(id))
		// no option ROM: nothing boots from the network here, and loading it costs time
		device := []kv{{"id", id + "-dev"}, {"netdev", id}, {"mac", n.MAC.String()}, {"romfile", ""}}
		if n.Model == "virtio" {
			device = append(device, n.virtio()...)
		}
		a.device(nicModels[n.Model], append(device, m.pci(slotNIC+i)...)...)
	}
}

// backend is the value of -netdev.
func (n NIC) backend(id string) string {
	net := []kv{{"id", id}}
	if t := n.Tap; t != nil {
		net = append(net, kv{"fds", numbers(t.FDs)})
		if len(t.VhostFDs) > 0 {
			net = append(net, kv{"vhost", "on"}, kv{"vhostfds", numbers(t.VhostFDs)})
		}
		return options("tap", net)
	}
	if s := n.Stream; s != nil {
		return options("stream", append(net, kv{"server", "off"}, kv{"addr.type", "unix"}, kv{"addr.path", s.Path}))
	}
	if u := n.User; u != nil {
		net = append(net, when(u.HostName != "", "hostname", u.HostName), when(u.IPv4Only, "ipv6", "off"))
		for _, f := range u.Forwards {
			net = append(net, kv{"hostfwd", f.String()})
		}
	}
	return options("user", net)
}

// virtio are the options that virtio cards alone have. Each queue pair has two interrupts, and the card two more for its
// configuration and its control queue.
func (n NIC) virtio() []kv {
	o := []kv{when(n.MTU != 0, "host_mtu", strconv.Itoa(n.MTU))}
	if n.Tap != nil && len(n.Tap.FDs) > 1 {
		o = append(o, kv{"mq", "on"}, kv{"vectors", strconv.Itoa(2*len(n.Tap.FDs) + 2)})
	}
	return o
}

// numbers is a list of descriptors, as QEMU wants it.
func numbers(fds []int) string {
	words := make([]string, len(fds))
	for i, fd := range fds {
		words[i] = strconv.Itoa(fd)
	}
	return strings.Join(words, ":")
}

// String is f as the hostfwd option of QEMU's user network spells it.
func (f Forward) String() string {
	addr := func(ip interface {
		IsValid() bool
		String() string
	}) string {
		if ip.IsValid() {
			return ip.String()
		}
		return ""
	}
	return fmt.Sprintf("%s:%s:%d-%s:%d", f.Proto, addr(f.HostIP), f.HostPort, addr(f.GuestIP), f.GuestPort)
}

// screen is a graphics card with VNC. The pointer is a tablet: a mouse tells where it moves and not where it is, which is of no use to somebody
// whose own pointer is on the screen as well. A PC has a keyboard anyway.
func (m Machine) screen(a *args) {
	if m.VNC == "" {
		return
	}
	a.add("-vnc", options("unix:"+strings.ReplaceAll(m.VNC, ",", ",,"), []kv{{"power-control", "off"}}))
	card := "VGA"
	if !m.isPC() {
		card = "virtio-gpu-pci"
	}
	a.device(card, append([]kv{{"id", "screen"}}, m.pci(slotScreen)...)...)
	a.device("qemu-xhci", append([]kv{{"id", "usb"}}, m.pci(slotUSB)...)...)
	if !m.isPC() {
		a.device("usb-kbd", kv{"bus", "usb.0"})
	}
	a.device("usb-tablet", kv{"bus", "usb.0"})
}

func (m Machine) console(a *args) {
	switch m.Console.Kind {
	case ConsoleStdio:
		// signal=off: Ctrl-C belongs to the guest
		a.opt("-chardev", kv{"stdio,id", "console"}, kv{"signal", "off"})
		a.add("-serial", "chardev:console")
	case ConsoleSocket:
		a.add("-chardev", socket("console", m.Console.Path), "-serial", "chardev:console")
	}
}

// socket is a chardev that QEMU listens on, without waiting for anybody.
func socket(id, path string) string {
	return options("socket", []kv{{"id", id}, {"path", path}, {"server", "on"}, {"wait", "off"}})
}

func (m Machine) ports(a *args) {
	if len(m.Ports) == 0 {
		return
	}
	a.device("virtio-serial-pci", append([]kv{{"id", "ports"}}, m.pci(slotSerial)...)...)
	for i, p := range m.Ports {
		a.add("-chardev", socket(p.ID, p.Path))
		a.device("virtserialport", kv{"bus", "ports.0"}, kv{"nr", strconv.Itoa(i + 1)}, kv{"chardev", p.ID}, kv{"id", p.ID + "-port"}, kv{"name", p.Name})
	}
}

// small are the devices that cost nothing and that every guest should have.
func (m Machine) small(a *args) {
	a.add("-object", "rng-builtin,id=rng")
	a.device("virtio-rng-pci", append([]kv{{"id", "rng-dev"}, {"rng", "rng"}}, m.pci(slotRNG)...)...)
	// free-page-reporting gives back to the host what the guest has freed
	a.device("virtio-balloon-pci", append([]kv{{"id", "balloon"}, {"free-page-reporting", "on"}}, m.pci(slotMemory)...)...)
	if m.Arch == "arm64" {
		a.device("pvpanic-pci", append([]kv{{"id", "panic"}}, m.pci(slotPanic)...)...)
	} else {
		a.device("pvpanic", kv{"id", "panic"})
	}
}

// watchdog is the device that guests of every architecture have a driver for, also the kernels made for clouds. q35 has another built in (TCO,
// not locked since QEMU 8.0), which few of those know; a guest is to find one watchdog or none.
func (m Machine) watchdog(a *args) {
	if m.isQ35() {
		a.add("-global", "ICH9-LPC.noreboot=on")
	}
	if m.Watchdog != "" {
		a.device("i6300esb", append([]kv{{"id", "watchdog"}}, m.pci(slotWatchdog)...)...)
	}
}

// tpm has the interface that takes a command as a whole on a PC. The ARM machine can have the older one alone.
func (m Machine) tpm(a *args) {
	if m.TPM == "" {
		return
	}
	a.add("-chardev", options("socket", []kv{{"id", "tpm-control"}, {"path", m.TPM}}))
	a.add("-tpmdev", options("emulator", []kv{{"id", "tpm"}, {"chardev", "tpm-control"}}))
	device := "tpm-crb"
	if !m.isPC() {
		device = "tpm-tis-device"
	}
	a.device(device, kv{"tpmdev", "tpm"})
}

func (m Machine) control(a *args) {
	for _, q := range m.Monitors {
		a.add("-chardev", socket(q.ID, q.Path))
		a.opt("-mon", kv{"chardev", q.ID}, kv{"mode", "control"})
	}
	reboot := "reset"
	if m.ExitOnReboot {
		reboot = "shutdown"
	}
	a.opt("-action", kv{"reboot", reboot}, kv{"shutdown", "poweroff"}, kv{"panic", "shutdown"}, when(m.Watchdog != "", "watchdog", string(m.Watchdog)))
	if m.Paused {
		a.add("-S")
	}
}
