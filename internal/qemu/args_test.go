package qemu

import (
	"flag"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files anew")

func mac(s string) net.HardwareAddr {
	m, err := net.ParseMAC(s)
	if err != nil {
		panic(err)
	}
	return m
}

// demo is the machine of the README's quick start.
func demo() Machine {
	return Machine{
		Name: "demo", UUID: "6a9b4c0e-5d1f-4f6b-9a55-0d6d0d6f2a11",
		Arch: "amd64", Type: "q35",
		Accel: TCG, TranslationCache: 512 * mib, MultiThreaded: true, CPUModel: "max",
		CPUs: 2, Memory: 4 << 30,
		FWCfg: []FWCfg{{"opt/com.coreos/config", "/run/vmentry/ignition.json"}},
		Disks: []Disk{
			{ID: "disk", Path: "/var/lib/vmentry/disk/overlay.qcow2", Format: "qcow2", Bus: VirtIO, Direct: true,
				Backing: &Backing{Path: "/image/disk.qcow2", Format: "qcow2"}},
			{ID: "seed", Path: "/run/vmentry/seed.iso", Format: "raw", Bus: VirtIO, ReadOnly: true, CDROM: true},
		},
		NICs: []NIC{{Model: "virtio", MAC: mac("52:00:00:00:00:01"), User: &UserNet{HostName: "demo", Forwards: []Forward{
			{Proto: "tcp", HostPort: 2222, GuestPort: 22},
			{Proto: "udp", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 53, GuestPort: 5353},
		}}}},
		Console: Console{ConsoleSocket, "/run/vmentry/console.sock"},
		Ports: []Port{
			{"agent", "org.qemu.guest_agent.0", "/run/vmentry/agent.sock"},
			{"exit", "org.vmentry.exit", "/run/vmentry/exit.sock"},
		},
		Monitors: []MonitorSocket{{"qmp", "/run/vmentry/qmp.sock"}},
		Paused:   true,
	}
}

func TestArgs(t *testing.T) {
	tests := []struct {
		name   string
		change func(*Machine)
	}{
		{"demo", func(*Machine) {}},
		{"block-device", func(m *Machine) {
			m.Disks[0] = Disk{ID: "disk", Path: "/dev/xvda", Format: "raw", Device: true, Bus: VirtIO, Direct: true}
		}},
		{"kvm-uefi", func(m *Machine) {
			m.Accel, m.CPUModel = KVM, "host"
			m.Firmware = &Firmware{Code: "/usr/share/OVMF/OVMF_CODE_4M.fd", Format: "raw", Vars: "/var/lib/vmentry/nvram.fd"}
			m.ExitOnReboot = true
			m.Paused = false
			m.Console = Console{Kind: ConsoleStdio}
		}},
		{"kernel-only", func(m *Machine) {
			m.Disks, m.NICs, m.FWCfg, m.Ports = nil, nil, nil, nil
			m.Kernel = &Kernel{"/boot/vmlinuz", "/boot/initrd", "console=ttyS0 a=b,c"}
			m.Console = Console{Kind: ConsoleNone}
			m.ExtraArgs = []string{"-device", "edu"}
		}},
		{"machine-options", func(m *Machine) { m.TypeOptions = "hpet=off,smm=on" }},
		{"watchdog", func(m *Machine) { m.Watchdog = UnfedPause }},
		{"watchdog-arm64", func(m *Machine) { m.Watchdog, m.Arch, m.Type = UnfedReset, "arm64", "virt" }},
		{"secureboot-tpm", func(m *Machine) {
			m.Firmware = &Firmware{"/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "raw", "/var/lib/vmentry/nvram-secureboot.fd", true}
			m.TPM = "/run/vm,entry/tpm.sock"
		}},
		{"uefi-tpm-arm64", func(m *Machine) {
			m.Arch, m.Type = "arm64", "virt"
			m.Firmware = &Firmware{"/usr/share/AAVMF/AAVMF_CODE.qcow2", "qcow2", "/var/lib/vmentry/nvram.fd", false}
			m.TPM = "/run/vmentry/tpm.sock"
		}},
		{"arm64", func(m *Machine) { m.Arch, m.Type, m.CPUModel = "arm64", "virt", "max,pauth-impdef=on" }},
		{"scsi", func(m *Machine) { m.Disks[0].Bus, m.Disks[1].Bus = SCSI, SCSI }},
		{"sata", func(m *Machine) { m.Disks[0].Bus, m.Disks[1].Bus = SATA, SATA }},
		{"ide-pc", func(m *Machine) { m.Type, m.Disks[0].Bus, m.Disks[1].Bus = "pc", IDE, IDE }},
		{"ide-q35", func(m *Machine) { m.Disks[0].Bus, m.Disks[1].Bus = IDE, IDE }},
		{"sata-pc", func(m *Machine) { m.Type, m.Disks[0].Bus, m.Disks[1].Bus = "pc", SATA, SATA }},
		{"volumes", func(m *Machine) {
			m.Volumes = []Volume{{"data", "/run/vmentry/volume0.sock"}, {"conf", "/run/vmentry/volume1.sock"}}
		}},
		{"nvme", func(m *Machine) { m.Disks[0].Bus, m.Disks[0].Serial, m.Disks[1].Bus = NVMe, "disk", NVMe }},
		{"more-disks", func(m *Machine) {
			with(m, VirtIO, 2)
			with(m, NVMe, 7)
			with(m, SCSI, 2)
			with(m, SATA, 7)
			m.Disks[2].Device, m.Disks[2].Direct = true, true
			m.Disks[3].Format, m.Disks[3].ReadOnly = "qcow2", true
			m.Disks = append(m.Disks, Disk{ID: "data-tools", Path: "/isos/tools.iso", Format: "raw", Bus: SCSI, Serial: "tools", ReadOnly: true, CDROM: true})
		}},
		{"comma-in-path", func(m *Machine) { m.Disks[0].Path = "/data/a,b=c/overlay.qcow2" }},
		{"stream", func(m *Machine) { m.NICs[0].User, m.NICs[0].Stream = nil, &Stream{"/run/vmentry/passt.sock"} }},
		{"vnc", func(m *Machine) { m.VNC = "/run/vm,entry/vnc.sock" }},
		{"vnc-arm64", func(m *Machine) { m.VNC, m.Arch, m.Type = "/run/vmentry/vnc.sock", "arm64", "virt" }},
		{"ipv4-only", func(m *Machine) { m.NICs[0].User.IPv4Only = true }},
		{"e1000", func(m *Machine) { m.NICs[0].Model = "e1000" }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := demo()
			tt.change(&m)
			got := grouped(m.Args())
			golden := filepath.Join("testdata", tt.name+".args")
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Errorf("arguments differ from %s (go test ./internal/qemu -update writes it anew):\n%s", golden, diff)
			}
		})
	}
}

// grouped prints an option and its value on one line.
func grouped(args []string) string {
	var b strings.Builder
	for i, a := range args {
		if i > 0 {
			if strings.HasPrefix(a, "-") {
				b.WriteByte('\n')
			} else {
				b.WriteByte(' ')
			}
		}
		b.WriteString(a)
	}
	return b.String() + "\n"
}

// TestTap: a tap has its queues by their descriptors, and the kernel's virtio-net one for each of them.
func TestTap(t *testing.T) {
	tests := []struct {
		name string
		tap  Tap
		want string
	}{
		{"one queue, moved by QEMU", Tap{FDs: []int{3}}, "tap,id=net0,fds=3"},
		{"two queues, moved by the kernel", Tap{FDs: []int{3, 4}, VhostFDs: []int{5, 6}}, "tap,id=net0,fds=3:4,vhost=on,vhostfds=5:6"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := (NIC{Tap: &tt.tap}).backend("net0"); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

func TestIDsAreUnique(t *testing.T) {
	seen := map[string]bool{}
	for _, a := range demo().Args() {
		for _, o := range strings.Split(a, ",") {
			if id, ok := strings.CutPrefix(o, "id="); ok {
				if seen[id] {
					t.Errorf("id %q is given twice", id)
				}
				seen[id] = true
			}
		}
	}
	if len(seen) < 8 {
		t.Errorf("only %d ids were seen: %v", len(seen), seen)
	}
}

func TestCheck(t *testing.T) {
	all := Capabilities{
		Version:  Version{Major: 10},
		Machines: []string{"q35"},
		Devices:  []string{"virtio-blk-pci", "virtio-net-pci", "virtio-rng-pci", "virtio-balloon-pci", "virtio-serial-pci", "virtserialport", "pvpanic"},
		Objects:  []string{"rng-builtin"},
		Netdevs:  []string{"user"},
	}
	tests := []struct {
		name   string
		change func(*Machine, *Capabilities)
		want   []string // each a part of one complaint
	}{
		{"OK", func(*Machine, *Capabilities) {}, nil},
		{"OK the user's own arguments are the user's", func(m *Machine, _ *Capabilities) { m.ExtraArgs = []string{"-device", "edu"} }, nil},
		{"bad old", func(_ *Machine, c *Capabilities) { c.Version = Version{Major: 5, Minor: 2} }, []string{"QEMU 5.2.0 is too old"}},
		{"bad module", func(m *Machine, _ *Capabilities) { m.NICs[0].Model = "vmxnet3" }, []string{`no device "vmxnet3"`}},
		{"bad slirp", func(_ *Machine, c *Capabilities) { c.Netdevs = []string{"tap"} }, []string{`no network back-end "user"`}},
		{"bad before streams", func(m *Machine, _ *Capabilities) { m.NICs[0].User, m.NICs[0].Stream = nil, &Stream{"/s"} }, []string{`no network back-end "stream"`}},
		{"bad objects and age", func(m *Machine, c *Capabilities) { c.Objects = nil; c.Version.Major = 4 }, []string{"too old", `no object "rng-builtin"`}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, c := demo(), all
			c.Devices = slices.Clone(all.Devices)
			tt.change(&m, &c)
			got := c.Check(m)
			if len(got) != len(tt.want) {
				t.Fatalf("got %q, want %d complaints", got, len(tt.want))
			}
			for i, w := range tt.want {
				if !strings.Contains(got[i], w) {
					t.Errorf("complaint %q does not say %q", got[i], w)
				}
			}
		})
	}
}
