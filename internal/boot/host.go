package boot

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/vmentry/vmentry/internal/cgroup"
	"github.com/vmentry/vmentry/internal/qemu"
)

// Host is what a plan needs to know of the container. Finding it out changes nothing.
type Host struct {
	HostName string
	Identity string // of the pod: the same after a restart of its container, another for each replica
	Arch     string // "amd64" or "arm64"
	Limits   cgroup.Limits
	KVM      qemu.KVMState
}

// InspectHost looks at the container from inside.
func InspectHost() Host {
	kvm := make(chan qemu.KVMState, 1)
	go func() { kvm <- qemu.ProbeKVM("/") }() // the others meanwhile
	name, _ := os.Hostname()
	h := Host{HostName: name, Identity: podIdentity(), Arch: runtime.GOARCH, Limits: cgroup.Read("/")}
	h.KVM = <-kvm
	return h
}

// podIdentity is the identity of the pod that this process is in.
func podIdentity() string {
	name, _ := os.Hostname()
	return identity(name, "/proc/self/mountinfo")
}

// identity tells one pod from another. A host name is not enough: two namespaces may both have a web-0. But every
// container runtime mounts an /etc/hosts that it keeps in a directory named after the pod or container, and the
// kubelet makes one that all containers of a pod share, whichever start of them it is.
func identity(hostName, mountinfo string) string {
	sum := sha256.New()
	sum.Write([]byte(hostName))
	if f, err := os.Open(mountinfo); err == nil {
		defer f.Close()
		for s := bufio.NewScanner(f); s.Scan(); {
			if fields := strings.SplitN(s.Text(), " ", 6); len(fields) > 4 && fields[4] == "/etc/hosts" {
				sum.Write([]byte{0})
				sum.Write([]byte(fields[3]))
			}
		}
	}
	return hex.EncodeToString(sum.Sum(nil))
}

// qemuNames are the names of QEMU's program for each architecture of guests.
var qemuNames = map[string]string{"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}

// findProgram is [exec.LookPath], and the absolute path.
func findProgram(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", err
	}
	return filepath.Abs(path)
}

// flash is UEFI for virtual machines: its code, and the template of its variables.
type flash struct{ code, vars string }

// flashes are the places where distributions have it, and for arm64 where vmentry's image has it packed.
var flashes = map[string][]flash{
	"amd64": {
		{"/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_VARS_4M.fd"},
		{"/usr/share/OVMF/OVMF_CODE.fd", "/usr/share/OVMF/OVMF_VARS.fd"},
		{"/usr/share/edk2/ovmf/OVMF_CODE.fd", "/usr/share/edk2/ovmf/OVMF_VARS.fd"},
	},
	"arm64": {
		{"/usr/share/AAVMF/AAVMF_CODE.qcow2", "/usr/share/AAVMF/AAVMF_VARS.fd"},
		{"/usr/share/AAVMF/AAVMF_CODE.fd", "/usr/share/AAVMF/AAVMF_VARS.fd"},
		{"/usr/share/edk2/aarch64/QEMU_EFI-pflash.raw", "/usr/share/edk2/aarch64/vars-template-pflash.raw"},
	},
}

// secureFlashes are those that check what they boot, with Microsoft's keys among the variables.
var secureFlashes = map[string][]flash{
	"amd64": {
		{"/usr/share/OVMF/OVMF_CODE_4M.ms.fd", "/usr/share/OVMF/OVMF_VARS_4M.ms.fd"},
		{"/usr/share/edk2/ovmf/OVMF_CODE.secboot.fd", "/usr/share/edk2/ovmf/OVMF_VARS.secboot.fd"},
	},
	"arm64": {
		{"/usr/share/AAVMF/AAVMF_CODE.ms.qcow2", "/usr/share/AAVMF/AAVMF_VARS.ms.fd"},
		{"/usr/share/AAVMF/AAVMF_CODE.ms.fd", "/usr/share/AAVMF/AAVMF_VARS.ms.fd"},
	},
}

// format is that of the code.
func (f flash) format() string {
	if strings.HasSuffix(f.code, ".qcow2") {
		return "qcow2"
	}
	return "raw"
}

// chips is the size of the chip for the variables, in bytes, where the machine has a fixed one (QEMU's hw/arm/virt.c).
var chips = map[string]int64{"arm64": 64 << 20}

// findFlash is the first of the places for guests of arch where UEFI is installed.
func findFlash(places map[string][]flash, arch string) (flash, bool) {
	for _, f := range places[arch] {
		if readable(f.code) == nil && readable(f.vars) == nil {
			return f, true
		}
	}
	return flash{}, false
}

// readable is why the file at path cannot be read, or nil.
func readable(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return f.Close()
}
