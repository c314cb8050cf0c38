package test

import (
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
)

// TestOneWriter: an image that a guest writes is nobody else's, whatever data directory they have, until its QEMU is gone.
func TestOneWriter(t *testing.T) {
	img := "VM_IMAGE=" + image(t, "raw")
	direct := append(pretend(""), img, "VM_DISK_MODE=direct", "POD_NAME=vm-0", "POD_NAMESPACE=lab")
	first := start(t, direct)
	first.stderr.Await(t, "QEMU started")
	start(t, direct).wants(74, "in use by pod lab/vm-0 ")
	start(t, append(pretend(""), img)).wants(74, "in use by pod lab/vm-0 ") // an overlay over what is being written
	first.signal(syscall.SIGKILL)
	first.exit()
	next := start(t, direct)
	next.stderr.Await(t, "QEMU started")
	next.signal(syscall.SIGTERM)
	next.wants(0)

	// As many as like may lie on an image, and nobody may then write it.
	overlay := append(pretend(""), img)
	one, two := start(t, overlay), start(t, overlay)
	one.stderr.Await(t, "QEMU started")
	two.stderr.Await(t, "QEMU started")
	start(t, direct).wants(74, "in use by")
	for _, m := range []*machine{one, two} {
		m.signal(syscall.SIGTERM)
		m.wants(0)
	}
}

// TestDirectOnABlockDevice boots from a block device that the guest writes, and from one below an overlay.
func TestDirectOnABlockDevice(t *testing.T) {
	t.Parallel()
	file := image(t, "raw")
	out, err := exec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		t.Fatalf("losetup: %v", err)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { exec.Command("losetup", "-d", device).Run() })
	settings := func(mode, words string) []string {
		return tiny(t, words, "VM_IMAGE="+device, "VM_DISK_MODE="+mode)
	}
	m := start(t, settings("direct", "vmtest.disks vmtest.write=straight vmtest.poweroff=0"))
	m.wants(0)
	if !strings.Contains(m.stdout.String(), " 8388608 ro=0 ") {
		t.Error("the guest does not see the device's size")
	}
	// Not through the page cache of the file, which a loop device does not share.
	marker := make([]byte, 8)
	f, err := os.Open(device)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.ReadAt(marker, 1<<20); err != nil || string(marker) != "straight" {
		t.Errorf("on the device is %q, %v", marker, err)
	}
	m = start(t, settings("overlay", "vmtest.read vmtest.write=above vmtest.poweroff=0"))
	m.wants(0)
	if !strings.Contains(m.stdout.String(), "vmtest: read straight") {
		t.Error("the overlay does not show what is on the device")
	}
	if _, err := f.ReadAt(marker, 1<<20); err != nil || string(marker) != "straight" {
		t.Errorf("a base image was written: %q, %v", marker, err)
	}
}
