package boot

import (
	"fmt"
	"math"
	"strings"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/qemu"
	"github.com/vmentry/vmentry/internal/supervise"
)

// Setting is something that vmentry has chosen, and why.
type Setting struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	Why   string `json:"why"`
}

// settings is what the user left open, chosen to fit the host.
type settings struct {
	arch           string
	machine        string
	machineOptions string // QEMU's syntax
	accel          qemu.Accel
	cpuModel       string
	cpus           int
	memory         int64 // bytes
	chosen         []Setting
}

func (s *settings) note(name, value, why string) {
	s.chosen = append(s.chosen, Setting{name, value, why})
}

// resolve chooses. Settings of the user that the host cannot fulfil are added to the mistakes; a KVM that was asked
// for and is not there is the error.
func resolve(cfg config.Config, host Host, mistakes *config.Mistakes) (settings, error) {
	s := settings{arch: host.Arch}
	if cfg.Arch != "" {
		s.arch = string(cfg.Arch)
	}
	s.note("architecture", s.arch, map[bool]string{true: "VM_ARCH", false: "the container's"}[cfg.Arch != ""])
	checkBuses(cfg, s.arch, mistakes)
	if s.arch == "arm64" && cfg.Firmware == config.FirmwareBIOS {
		*mistakes = append(*mistakes, config.Mistake{Variable: "VM_FIRMWARE", Value: "bios", Problem: "arm64 machines have no BIOS; write uefi or auto"})
	}
	s.note("network", string(cfg.Network), whyNetwork(cfg))
	s.chooseMachine(cfg)
	s.checkSecureBoot(cfg, mistakes)
	err := s.chooseAccel(cfg, host, mistakes)
	s.chooseCPU(cfg, host)
	s.chooseMemory(cfg, host, mistakes)
	return s, err
}

// whyNetwork is the variable that says how the guest is connected.
func whyNetwork(cfg config.Config) string {
	switch {
	case cfg.Set["VM_NETWORK"]:
		return "VM_NETWORK"
	case cfg.Network == config.ModeBridge:
		return "RANCHER_VM"
	}
	return "the default"
}

func (s *settings) chooseMachine(cfg config.Config) {
	switch {
	case cfg.Machine != "":
		s.machine, s.machineOptions, _ = strings.Cut(cfg.Machine, ",")
		s.note("machine", cfg.Machine, "VM_MACHINE")
	case s.arch == "arm64":
		s.machine = "virt"
		s.note("machine", s.machine, "the default for arm64")
	case wantsIDE(cfg):
		s.machine = "pc"
		s.note("machine", s.machine, "a disk is on ide, and q35 has no IDE controller")
	default:
		s.machine = "q35"
		s.note("machine", s.machine, "the default for amd64")
	}
}

// checkSecureBoot adds mistakes about what would make Secure Boot check nothing.
func (s *settings) checkSecureBoot(cfg config.Config, mistakes *config.Mistakes) {
	if cfg.Firmware != config.FirmwareSecureBoot {
		return
	}
	wrong := func(problem string) {
		*mistakes = append(*mistakes, config.Mistake{Variable: "VM_FIRMWARE", Value: "secureboot", Problem: problem})
	}
	if cfg.Kernel != "" {
		wrong("a kernel that is booted directly (VM_KERNEL) goes past the boot loader that would check it; leave out one of the two")
	}
	if s.arch != "amd64" || s.machine == "q35" || strings.HasPrefix(s.machine, "pc-q35") {
		return
	}
	if cfg.Machine == "" {
		wrong("needs the machine q35, which has no IDE; write bus=sata instead of ide")
		return
	}
	wrong("needs the machine q35; leave out VM_MACHINE")
}

func (s *settings) chooseAccel(cfg config.Config, host Host, mistakes *config.Mistakes) error {
	foreign := s.arch != host.Arch
	why := host.KVM.Reason
	var err error
	switch {
	case cfg.Accel == config.AccelTCG:
		s.accel, why = qemu.TCG, "VM_ACCEL"
	case foreign && cfg.Accel == config.AccelKVM:
		s.accel = qemu.TCG
		*mistakes = append(*mistakes, config.Mistake{Variable: "VM_ACCEL", Value: "kvm", Problem: fmt.Sprintf("a guest of another architecture (VM_ARCH=%s on %s) cannot run with KVM; write tcg or auto", s.arch, host.Arch)})
	case foreign:
		s.accel, why = qemu.TCG, fmt.Sprintf("the guest is %s and the container %s", s.arch, host.Arch)
	case cfg.Accel == config.AccelKVM:
		s.accel, why = qemu.KVM, "VM_ACCEL"
		if !host.KVM.Usable {
			err = fail(supervise.Unavailable, "VM_ACCEL=kvm: %s", host.KVM.Reason)
		}
	case host.KVM.Usable && host.KVM.Real:
		s.accel = qemu.KVM
	default:
		s.accel = qemu.TCG
	}
	s.note("accelerator", string(s.accel), why)
	switch {
	case cfg.CPUModel != "":
		s.cpuModel = cfg.CPUModel
		s.note("CPU model", s.cpuModel, "VM_CPU_MODEL")
	case s.accel == qemu.KVM:
		s.cpuModel = "host"
		s.note("CPU model", s.cpuModel, "the default with KVM")
	case s.arch == "arm64":
		s.cpuModel = "max,pauth-impdef=on"
		s.note("CPU model", s.cpuModel, "the default with TCG; the architected pointer authentication is slow in emulation")
	default:
		s.cpuModel = "max"
		s.note("CPU model", s.cpuModel, "the default with TCG")
	}
	return err
}

// mostCPUs is how many CPUs a guest gets where nobody has said anything.
const mostCPUs = 4

func (s *settings) chooseCPU(cfg config.Config, host Host) {
	may := host.Limits.CPUs
	limit := int(math.Ceil(host.Limits.CPU))
	switch {
	case cfg.CPUs > 0:
		s.cpus = cfg.CPUs
		s.note("CPUs", fmt.Sprint(s.cpus), "VM_CPUS")
	case limit > 0:
		s.cpus = max(1, min(limit, may))
		s.note("CPUs", fmt.Sprint(s.cpus), fmt.Sprintf("the container's limit is %g", host.Limits.CPU))
	default:
		s.cpus = max(1, min(may, mostCPUs))
		s.note("CPUs", fmt.Sprint(s.cpus), fmt.Sprintf("the container may run on %d, and the default is at most %d", may, mostCPUs))
	}
}

// multiThreaded says whether TCG may run each vCPU in a thread of its own: not where the guest's processor orders memory
// accesses more strictly than the host's (QEMU docs/devel/multi-thread-tcg.rst).
func (s *settings) multiThreaded(host Host) bool {
	return s.cpus > 1 && (s.arch == host.Arch || s.arch != "amd64")
}
