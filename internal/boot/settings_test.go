package boot

import (
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmentry/vmentry/internal/cgroup"
	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/supervise"
)

// host is a container on an ordinary node.
func host(change func(*Host)) Host {
	h := Host{
		HostName: "pod", Arch: "amd64", Limits: cgroup.Limits{CPUs: 16},
		KVM: qemu.KVMState{Usable: true, Real: true, Reason: "/dev/kvm works and the processor has vmx"},
	}
	if change != nil {
		change(&h)
	}
	return h
}

func TestResolve(t *testing.T) {
	noKVM := func(h *Host) { h.KVM = qemu.KVMState{Reason: "there is no /dev/kvm"} }
	soft := func(h *Host) { h.KVM = qemu.KVMState{Usable: true, Reason: "neither vmx nor svm"} }
	limits := func(memory int64, cpu float64, cpus int) func(*Host) { // without KVM: TCG needs more beside the guest's memory
		return func(h *Host) {
			noKVM(h)
			h.Limits = cgroup.Limits{Memory: memory, CPU: cpu, CPUs: cpus}
		}
	}
	type want struct {
		machine, cpu string
		accel        qemu.Accel
		cpus         int
		memory       int64 // 0: not checked
	}
	tests := []struct {
		name    string
		config  config.Config
		host    Host
		want    want
		mistake string // part of the one mistake
		code    int    // of the error
	}{
		{name: "OK defaults with KVM", host: host(nil), want: want{"q35", "host", qemu.KVM, 4, 4 << 30}},
		{name: "OK no KVM", host: host(noKVM), want: want{"q35", "max", qemu.TCG, 4, 4 << 30}},
		{name: "OK KVM in software is not taken", host: host(soft), want: want{"q35", "max", qemu.TCG, 4, 4 << 30}},
		{name: "OK KVM in software is taken when asked for", host: host(soft), config: config.Config{Accel: config.AccelKVM}, want: want{"q35", "host", qemu.KVM, 4, 4 << 30}},
		{name: "bad KVM asked for and not there", host: host(noKVM), config: config.Config{Accel: config.AccelKVM}, want: want{"q35", "host", qemu.KVM, 4, 4 << 30}, code: supervise.Unavailable},
		{name: "OK TCG asked for", host: host(nil), config: config.Config{Accel: config.AccelTCG}, want: want{"q35", "max", qemu.TCG, 4, 4 << 30}},
		{name: "OK foreign guest", host: host(nil), config: config.Config{Arch: config.ArchARM64}, want: want{"virt", "max,pauth-impdef=on", qemu.TCG, 4, 4 << 30}},
		{name: "bad foreign guest with KVM", host: host(nil), config: config.Config{Arch: config.ArchARM64, Accel: config.AccelKVM}, want: want{"virt", "max,pauth-impdef=on", qemu.TCG, 4, 0}, mistake: "VM_ACCEL"},
		{name: "bad arm64 with a BIOS", host: host(nil), config: config.Config{Arch: config.ArchARM64, Firmware: config.FirmwareBIOS}, want: want{"virt", "max,pauth-impdef=on", qemu.TCG, 4, 0}, mistake: "VM_FIRMWARE"},
		{name: "bad arm64 with IDE", host: host(nil), config: config.Config{Arch: config.ArchARM64, DiskBus: config.BusIDE}, want: want{"virt", "max,pauth-impdef=on", qemu.TCG, 4, 0}, mistake: "VM_DISK_BUS"},
		{name: "OK Secure Boot", host: host(nil), config: config.Config{Firmware: config.FirmwareSecureBoot, Machine: "pc-q35-9.0"}, want: want{"pc-q35-9.0", "host", qemu.KVM, 4, 4 << 30}},
		{name: "OK Secure Boot on arm64", host: host(nil), config: config.Config{Firmware: config.FirmwareSecureBoot, Arch: config.ArchARM64}, want: want{"virt", "max,pauth-impdef=on", qemu.TCG, 4, 4 << 30}},
		{name: "bad Secure Boot past the boot loader", host: host(nil), config: config.Config{Firmware: config.FirmwareSecureBoot, Kernel: "/vmlinuz"}, want: want{"q35", "host", qemu.KVM, 4, 0}, mistake: "VM_KERNEL"},
		{name: "bad Secure Boot on the older machine", host: host(nil), config: config.Config{Firmware: config.FirmwareSecureBoot, Machine: "pc"}, want: want{"pc", "host", qemu.KVM, 4, 0}, mistake: "VM_MACHINE"},
		{name: "bad Secure Boot with IDE", host: host(nil), config: config.Config{Firmware: config.FirmwareSecureBoot, DiskBus: config.BusIDE}, want: want{"pc", "host", qemu.KVM, 4, 0}, mistake: "sata"},
		{name: "OK memory fits the limit beside a TPM", host: host(limits(2<<30, 0, 2)), config: config.Config{TPM: true},
			want: want{"q35", "max", qemu.TCG, 2, qemu.MemoryWithin(qemu.TCG, 2<<30-swtpmMemory, 2)}},
		{name: "OK arm64 host", host: host(func(h *Host) { h.Arch = "arm64" }), want: want{"virt", "host", qemu.KVM, 4, 4 << 30}},
		{name: "OK IDE wants the older machine", host: host(nil), config: config.Config{DiskBus: config.BusIDE}, want: want{"pc", "host", qemu.KVM, 4, 4 << 30}},
		{name: "OK machine with options", host: host(nil), config: config.Config{Machine: "q35,hpet=off"}, want: want{"q35", "host", qemu.KVM, 4, 4 << 30}},
		{name: "OK few processors", host: host(limits(0, 0, 2)), want: want{"q35", "max", qemu.TCG, 2, 4 << 30}},
		{name: "OK CPU limit rounded up", host: host(limits(0, 1.2, 16)), want: want{"q35", "max", qemu.TCG, 2, 4 << 30}},
		{name: "OK CPU limit above four", host: host(limits(0, 8, 16)), want: want{"q35", "max", qemu.TCG, 8, 4 << 30}},
		{name: "OK CPU limit above what may be run on", host: host(limits(0, 8, 2)), want: want{"q35", "max", qemu.TCG, 2, 4 << 30}},
		{name: "OK CPUs by hand", host: host(limits(0, 1, 1)), config: config.Config{CPUs: 6}, want: want{"q35", "max", qemu.TCG, 6, 4 << 30}},
		{name: "OK memory fits the limit", host: host(limits(2<<30, 0, 2)), want: want{"q35", "max", qemu.TCG, 2, qemu.MemoryWithin(qemu.TCG, 2<<30, 2)}},
		{name: "OK memory fits the limit beside passt with some ports", host: host(limits(2<<30, 0, 2)), config: config.Config{Network: config.ModePasst, Set: map[string]bool{"HOSTFWD": true}},
			want: want{"q35", "max", qemu.TCG, 2, qemu.MemoryWithin(qemu.TCG, 2<<30-passtBuffers, 2)}},
		{name: "OK memory fits the limit beside passt with all ports", host: host(limits(2<<30, 0, 2)), config: config.Config{Network: config.ModePasst},
			want: want{"q35", "max", qemu.TCG, 2, qemu.MemoryWithin(qemu.TCG, 2<<30-passtBuffers-passtSockets, 2)}},
		{name: "bad limit too small for passt", host: host(limits(300<<20, 0, 1)), config: config.Config{Network: config.ModePasst}, want: want{"q35", "max", qemu.TCG, 1, 0}, mistake: "too little"},
		{name: "OK memory fits the limit beside two volumes", host: host(limits(2<<30, 0, 2)), config: config.Config{Volumes: make([]config.Volume, 2)},
			want: want{"q35", "max", qemu.TCG, 2, qemu.MemoryWithin(qemu.TCG, 2<<30-2*(virtiofsdItself+virtiofsdFiles), 2)}},
		{name: "OK memory fits the limit beside a screen", host: host(limits(2<<30, 0, 2)), config: config.Config{Display: config.DisplayVNC},
			want: want{"q35", "max", qemu.TCG, 2, qemu.MemoryWithin(qemu.TCG, 2<<30-screenMemory, 2)}},
		{name: "OK memory fits the limit beside the tables of disks", host: host(limits(2<<30, 0, 2)),
			config: config.Config{DiskSize: 8 << 30, Disks: []config.Disk{{Size: 16 << 30}, {Size: 1 << 40}, {Path: "/disk"}}},
			want:   want{"q35", "max", qemu.TCG, 2, qemu.MemoryWithin(qemu.TCG, 2<<30-(2*1+2+32+32)<<20, 2)}},
		{name: "OK limit far above the default", host: host(limits(64<<30, 0, 2)), want: want{"q35", "max", qemu.TCG, 2, 4 << 30}},
		{name: "bad limit too small", host: host(limits(200<<20, 0, 1)), want: want{"q35", "max", qemu.TCG, 1, 0}, mistake: "too little"},
		{name: "bad memory by hand above the limit", host: host(limits(2<<30, 0, 2)), config: config.Config{Memory: 2 << 30}, want: want{"q35", "max", qemu.TCG, 2, 0}, mistake: "VM_MEMORY=\"2GiB\""},
		{name: "OK memory by hand within the limit", host: host(limits(2<<30, 0, 2)), config: config.Config{Memory: 1 << 30}, want: want{"q35", "max", qemu.TCG, 2, 1 << 30}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var mistakes config.Mistakes
			s, err := resolve(tt.config, tt.host, &mistakes)
			got := want{s.machine, s.cpuModel, s.accel, s.cpus, s.memory}
			if tt.want.memory == 0 {
				got.memory = 0
			}
			if diff := cmp.Diff(tt.want, got, cmp.AllowUnexported(want{})); diff != "" {
				t.Error(diff)
			}
			if ExitCode(err) != tt.code {
				t.Errorf("error %v, want code %d", err, tt.code)
			}
			switch {
			case tt.mistake == "" && len(mistakes) > 0:
				t.Errorf("mistakes: %v", mistakes)
			case tt.mistake != "" && (len(mistakes) != 1 || !strings.Contains(mistakes.Error(), tt.mistake)):
				t.Errorf("mistakes: %v, want one with %q", mistakes, tt.mistake)
			}
			for _, c := range s.chosen {
				if c.Why == "" {
					t.Errorf("nobody knows why %s is %s", c.Name, c.Value)
				}
			}
		})
	}
}

func TestBareArguments(t *testing.T) {
	tests := []struct {
		name        string
		args        []string
		want        []string
		memory, cpu string
		bad         bool
	}{
		{name: "OK none", args: nil, want: nil},
		{name: "OK a command", args: []string{"plan", "-o", "json"}, want: []string{"plan", "-o", "json"}},
		{name: "OK help", args: []string{"--help"}, want: []string{"--help"}},
		{name: "OK QEMU's", args: []string{"-device", "edu", "-S"}, want: []string{"boot", "--", "-device", "edu", "-S"}},
		{name: "OK as RancherVM had them", args: []string{"-m", "1024m", "-smp", "1"}, want: []string{"boot", "--"}, memory: "1024m", cpu: "1"},
		{name: "OK spelled out", args: []string{"-m", "size=2G", "-vga", "std", "-smp", "cpus=2"}, want: []string{"boot", "--", "-vga", "std"}, memory: "2G", cpu: "2"},
		{name: "bad more than a size", args: []string{"-m", "1G,maxmem=2G"}, bad: true},
		{name: "bad topology", args: []string{"-smp", "sockets=2,cores=2"}, bad: true},
		{name: "bad nothing", args: []string{"-m"}, bad: true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv("VM_MEMORY", "")
			t.Setenv("VM_CPUS", "")
			got, err := BareArguments(tt.args)
			if (err != nil) != tt.bad || tt.bad && ExitCode(err) != supervise.Usage {
				t.Fatalf("error %v", err)
			}
			if tt.bad {
				return
			}
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Error(diff)
			}
			if m, c := os.Getenv("VM_MEMORY"), os.Getenv("VM_CPUS"); m != tt.memory || c != tt.cpu {
				t.Errorf("VM_MEMORY=%q VM_CPUS=%q", m, c)
			}
		})
	}
}

func TestExitCodeOfTheGuest(t *testing.T) {
	for text, want := range map[string]int{"0\n": 0, "63": 63, " 7 \r\n": 7, "64": -1, "-1": -1, "": -1, "256": -1, "7x": -1, "0x7": -1, "+7": -1} {
		code, ok := exitCode([]byte(text))
		if !ok {
			code = -1
		}
		if code != want {
			t.Errorf("%q: %d, want %d", text, code, want)
		}
	}
}

func FuzzExitCodeOfTheGuest(f *testing.F) {
	f.Add([]byte("63\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if code, ok := exitCode(b); ok && (code < 0 || code > 63) {
			t.Errorf("%q gives %d", b, code)
		}
	})
}

func TestIdentity(t *testing.T) {
	mountinfo := func(source string) string {
		f := t.TempDir() + "/mountinfo"
		if err := os.WriteFile(f, []byte("600 500 254:1 / / rw - ext4 /dev/x rw\n601 600 254:1 "+source+" /etc/hosts rw - ext4 /dev/x rw\n"), 0o644); err != nil {
			t.Fatal(err)
		}
		return f
	}
	a := mountinfo("/var/lib/kubelet/pods/11111111/etc-hosts")
	b := mountinfo("/var/lib/kubelet/pods/22222222/etc-hosts")
	if first, again := identity("web-0", a), identity("web-0", a); first != again {
		t.Error("a restart changes the identity")
	}
	if identity("web-0", a) == identity("web-0", b) {
		t.Error("two pods of one name have the same identity")
	}
	if identity("web-0", a) == identity("web-1", a) {
		t.Error("two host names have the same identity")
	}
	if identity("web-0", "/no/such/file") == "" {
		t.Error("without mountinfo there is none")
	}
	if u := uuid("x"); len(u) != 36 || u[14] != '8' || !strings.ContainsRune("89ab", rune(u[19])) {
		t.Errorf("%s is not a UUID of version 8", u)
	}
}

// TestIdentityStaysWithTheData: once data are there, a new name of the pod does not make the guest another.
func TestIdentityStaysWithTheData(t *testing.T) {
	cfg := config.Config{DataDir: t.TempDir()}
	first := vmIdentity(cfg, Host{Identity: "first"})
	for range 2 {
		if err := rememberIdentity(cfg.DataDir, first); err != nil {
			t.Fatal(err)
		}
	}
	if got := vmIdentity(cfg, Host{Identity: "second"}); got != "first" {
		t.Errorf("the identity became %q", got)
	}
	if err := rememberIdentity("/no/such/directory", "x"); ExitCode(err) != supervise.IOError {
		t.Errorf("an unwritable directory: %v", err)
	}
}
