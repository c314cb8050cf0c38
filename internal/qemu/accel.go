package qemu

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// KVMState is what was found out about KVM on this host.
type KVMState struct {
	Usable bool   // the device opens and a VM can be made
	Real   bool   // … and the processor's own virtualization is behind it
	Reason string // why not, or what was seen; one line, for people
}

// KVM's ioctls (include/uapi/linux/kvm.h): _IO(0xAE, 0x00) and _IO(0xAE, 0x01).
const (
	kvmGetAPIVersion = 0xAE00
	kvmCreateVM      = 0xAE01
	kvmAPIVersion    = 12
)

// ProbeKVM opens the KVM device below root (normally "/"), makes an empty VM and throws it away. A device that
// opens is not enough to choose KVM by: on a host whose KVM is made in software, firmware runs and a stock
// kernel hangs without a word, and there the processor shows neither vmx nor svm.
func ProbeKVM(root string) KVMState {
	device := filepath.Join(root, "dev/kvm")
	f, err := os.OpenFile(device, os.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return KVMState{Reason: openReason(device, err)}
	}
	defer f.Close()
	version, err := unix.IoctlRetInt(int(f.Fd()), kvmGetAPIVersion)
	if err != nil || version != kvmAPIVersion {
		return KVMState{Reason: fmt.Sprintf("/dev/kvm does not speak KVM's API version %d", kvmAPIVersion)}
	}
	vm, err := unix.IoctlRetInt(int(f.Fd()), kvmCreateVM)
	if err != nil {
		return KVMState{Reason: fmt.Sprintf("/dev/kvm opens, but a VM cannot be made: %v", err)}
	}
	go unix.Close(vm) // which takes the kernel its time, and nothing waits for it
	if runtime.GOARCH != "amd64" {
		return KVMState{Usable: true, Real: true, Reason: "/dev/kvm works"}
	}
	flag, err := virtualizationFlag(root)
	if err != nil {
		return KVMState{Usable: true, Reason: fmt.Sprintf("/dev/kvm opens, but the processor cannot be read: %v", err)}
	}
	if flag == "" {
		return KVMState{Usable: true, Reason: "/dev/kvm opens, but the processor shows neither vmx nor svm: KVM would not run a guest"}
	}
	return KVMState{Usable: true, Real: true, Reason: "/dev/kvm works and the processor has " + flag}
}

// openReason says why the device did not open, and what would let it.
func openReason(device string, err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "there is no /dev/kvm; give it with --device /dev/kvm (Kubernetes: a device plugin's resource)"
	case errors.Is(err, fs.ErrPermission):
		reason := "/dev/kvm may not be opened"
		if info, statErr := os.Stat(device); statErr == nil {
			st := info.Sys().(*syscall.Stat_t)
			gid := strconv.FormatUint(uint64(st.Gid), 10)
			name := gid
			if g, lookErr := user.LookupGroupId(gid); lookErr == nil {
				name = fmt.Sprintf("%s (%s)", gid, g.Name)
			}
			reason += fmt.Sprintf("; it belongs to group %s: add it with --group-add %s (Kubernetes: supplementalGroups: [%s])", name, gid, gid)
		}
		return reason
	default:
		return fmt.Sprintf("/dev/kvm does not open: %v", err)
	}
}

// virtualizationFlag is "vmx" or "svm", whichever the first processor of /proc/cpuinfo has, or "".
func virtualizationFlag(root string) (string, error) {
	data, err := os.ReadFile(filepath.Join(root, "proc/cpuinfo"))
	if err != nil {
		return "", err
	}
	for _, line := range bytes.Split(data, []byte("\n")) {
		key, value, ok := bytes.Cut(line, []byte(":"))
		if !ok || string(bytes.TrimSpace(key)) != "flags" {
			continue
		}
		for _, flag := range bytes.Fields(value) {
			if s := string(flag); s == "vmx" || s == "svm" {
				return s, nil
			}
		}
		return "", nil
	}
	return "", nil
}

// TranslationCache is how much TCG may keep of what it has translated, in bytes, for a guest of the given
// memory. QEMU alone would take up to 1 GiB, which is more than many a guest has.
func TranslationCache(memory int64) int64 {
	return min(max(memory/4, 32*mib), 512*mib) / mib * mib
}

// Overhead is what QEMU needs besides the guest's memory, in bytes: itself, its I/O buffers and threads, the
// page tables for the guest, and with TCG the translation cache.
func Overhead(accel Accel, memory int64, cpus int) int64 {
	need := 160*mib + int64(cpus)*8*mib + memory/256
	if accel == TCG {
		need += TranslationCache(memory)
	}
	return need
}

// MemoryWithin is the largest guest memory, in bytes and whole MiB, that fits with its overhead into limit.
// It is 0 where nothing fits.
func MemoryWithin(accel Accel, limit int64, cpus int) int64 {
	fits := func(m int64) bool { return m+Overhead(accel, m, cpus) <= limit }
	low, high := int64(0), limit/mib // fits(low) or low is 0; high does not fit, because of the overhead
	for low+1 < high {
		if mid := (low + high) / 2; fits(mid * mib) {
			low = mid
		} else {
			high = mid
		}
	}
	return low * mib
}
