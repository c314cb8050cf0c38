package test

import (
	"bytes"
	"encoding/binary"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// printSerial prints the text at SI, which ends with a zero, on the first serial port, and returns.
var printSerial = []byte{
	0xac,       // lodsb
	0x84, 0xc0, // test al, al
	0x74, 0x06, // jz ret
	0xba, 0xf8, 0x03, // mov dx, 0x3f8
	0xee,       // out dx, al
	0xeb, 0xf5, // jmp lodsb
	0xc3, // ret
}

// bootSector is a sector that prints text on the serial port, and then runs code.
func bootSector(text string, code []byte) []byte {
	const origin, head = 0x7c00, 10
	print, message := head+len(code), head+len(code)+len(printSerial)
	b := []byte{0x31, 0xc0, 0x8e, 0xd8} // xor ax, ax; mov ds, ax
	b = append(b, 0xbe)                 // mov si, message
	b = binary.LittleEndian.AppendUint16(b, uint16(origin+message))
	b = append(b, 0xe8) // call print
	b = binary.LittleEndian.AppendUint16(b, uint16(print-head))
	b = append(append(append(b, code...), printSerial...), text+"\r\n\x00"...)
	sector := make([]byte, 512)
	copy(sector, b)
	sector[510], sector[511] = 0x55, 0xaa
	return sector
}

// powerOff ends the machine.
var powerOff = []byte{
	0xba, 0x04, 0x06, // mov dx, 0x604: the power management register of q35 under SeaBIOS
	0xb8, 0x00, 0x20, // mov ax, 0x2000: off
	0xef,             // out dx, ax
	0xf4, 0xeb, 0xfd, // hlt, for ever
}

// sayByBIOS has the BIOS print a letter, as boot loaders do that know no serial port, and waits until it has.
var sayByBIOS = []byte{
	0xb8, 0x51, 0x0e, // mov ax, 0x0e51: print Q
	0xbb, 0x07, 0x00, // mov bx, 7
	0xcd, 0x10, // int 0x10
	0xb4, 0x86, // mov ah, 0x86: wait
	0xb9, 0x0f, 0x00, // mov cx, 15: a second
	0x31, 0xd2, // xor dx, dx
	0xcd, 0x15, // int 0x15
}

// TestBIOS: the console begins with the firmware, and has what a boot loader prints by it, but not what would wipe the log before it.
func TestBIOS(t *testing.T) {
	t.Parallel()
	img := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(img, append(bootSector("vmtest: the disk boots", append(sayByBIOS, powerOff...)), make([]byte, 1<<20)...), 0o644); err != nil {
		t.Fatal(err)
	}
	m := start(t, []string{"VM_IMAGE=" + img, "VM_MEMORY=128M", "VM_CPUS=1", "VM_ACCEL=tcg", "HOSTFWD=none", "VM_READY=none"})
	m.wants(0, "powered itself off")
	out := m.stdout.String()
	if !regexp.MustCompile(`(?s)SeaBIOS.*Booting from Hard Disk.*the disk boots.*Q`).MatchString(out) || strings.Contains(out, "\x1bc") || strings.Contains(out, "\x1b[?7l") {
		t.Errorf("the console says %q", out)
	}
}

// TestNothingBoots: a disk with nothing on it is the reason why the guest is not ready.
func TestNothingBoots(t *testing.T) {
	t.Parallel()
	img := filepath.Join(t.TempDir(), "disk.raw")
	if err := os.WriteFile(img, make([]byte, 1<<20), 0o644); err != nil {
		t.Fatal(err)
	}
	m := start(t, []string{"VM_IMAGE=" + img, "VM_FIRMWARE=bios", "VM_MEMORY=128M", "VM_CPUS=1", "VM_ACCEL=tcg", "HOSTFWD=none", "VM_SHUTDOWN_TIMEOUT=1s"})
	m.stderr.Await(t, "the BIOS has found nothing to boot; is the disk empty, or made for UEFI (VM_FIRMWARE=uefi)?")
	for !strings.Contains(m.probe(1), "the BIOS has found nothing to boot") { // a question of before may still be under way
		time.Sleep(100 * time.Millisecond)
	}
	m.signal(syscall.SIGTERM)
	m.exit()
}

// installer is an ISO 9660 image that boots on a BIOS, writes a boot sector to the first disk, and reboots, as installers do. The boot sector
// prints a line and powers off.
func installer() []byte {
	disk := bootSector("vmtest: the disk boots", powerOff)
	cd := bootSector("vmtest: the CD boots", []byte{
		0x8e, 0xc0, // mov es, ax
		0xb8, 0x01, 0x03, // mov ax, 0x0301: write one sector
		0xbb, 0x00, 0x7e, // mov bx, 0x7e00: the second of this boot image
		0xb9, 0x01, 0x00, // mov cx, 1: to the first sector
		0xba, 0x80, 0x00, // mov dx, 0x80: of the first disk
		0xcd, 0x13, // int 0x13
		0xb0, 0xfe, 0xe6, 0x64, // out 0x64, 0xfe: reset
		0xf4, 0xeb, 0xfd, // hlt, for ever
	})
	const sector = 2048
	iso := make([]byte, 24*sector)
	copy(iso[16*sector:], "\x01CD001\x01")
	copy(iso[17*sector:], "\x00CD001\x01EL TORITO SPECIFICATION")
	binary.LittleEndian.PutUint32(iso[17*sector+0x47:], 19)
	copy(iso[18*sector:], "\xffCD001\x01")
	catalog := iso[19*sector:]
	catalog[0], catalog[30], catalog[31] = 1, 0x55, 0xaa
	binary.LittleEndian.PutUint16(catalog[28:], -(0x0001+0xaa55)&0xffff) // all words of the entry add up to zero
	catalog[32] = 0x88                                                   // bootable, without emulation
	binary.LittleEndian.PutUint16(catalog[38:], 4)                       // sectors of 512 bytes
	binary.LittleEndian.PutUint32(catalog[40:], 20)
	copy(iso[20*sector:], cd)
	copy(iso[20*sector+512:], disk)
	return iso
}

// TestCD installs from a CD that comes packed from a server: the empty disk beside it is left for the CD, then boots, in the same start and
// in the next one. A disk that nobody has written a boot loader to is left for the CD, too.
func TestCD(t *testing.T) {
	s := serve(t, pack(t, "xz", installer()))
	settings := []string{"VM_IMAGE=" + s.URL + "/installer.iso.xz", "VM_DISK_SIZE=64M", "VM_MEMORY=128M", "VM_CPUS=1", "VM_ACCEL=tcg", "HOSTFWD=none", "VM_READY=none"}
	m := start(t, settings)
	m.wants(0, "powered itself off")
	if out := m.stdout.String(); strings.Count(out, "the CD boots") != 1 || strings.Count(out, "the disk boots") != 1 {
		t.Errorf("the console says %q", out)
	}
	s.Close()
	m = startIn(t, m.data, m.run, settings)
	m.wants(0, "powered itself off")
	if out := m.stdout.String(); strings.Contains(out, "the CD boots") || strings.Count(out, "the disk boots") != 1 {
		t.Errorf("the console says %q in the second start", out)
	}
	// as an installation leaves it that has made its partitions and was cut off then
	overlay := filepath.Join(m.data, "disk", "overlay.qcow2")
	if out, err := exec.Command("qemu-io", "-f", "qcow2", "-c", "write -P 0 0 510", overlay).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	m = startIn(t, m.data, m.run, append(settings, "VM_REBOOT=exit"))
	m.wants(76)
	if out := m.stdout.String(); !strings.Contains(out, "the CD boots") {
		t.Errorf("the console says %q with half an installation", out)
	}
	m = startIn(t, m.data, m.run, settings)
	m.wants(0)
	if out := m.stdout.String(); strings.Contains(out, "the CD boots") || !strings.Contains(out, "the disk boots") {
		t.Errorf("the console says %q after the second installation", out)
	}
}

// TestCDBesideACopy: a full copy needs no image, and has a CD that another one is put in the place of; without any it boots as well.
func TestCDBesideACopy(t *testing.T) {
	t.Parallel()
	first, second := serve(t, installer()), serve(t, append(installer(), make([]byte, 2048)...))
	settings := func(url string) []string {
		return []string{"VM_IMAGE=" + url, "VM_DISK_MODE=copy", "VM_DISK_SIZE=64M", "VM_MEMORY=128M", "VM_CPUS=1", "VM_ACCEL=tcg", "HOSTFWD=none", "VM_READY=none", "VM_REBOOT=exit"}
	}
	m := start(t, settings(first.URL+"/installer.iso"))
	m.wants(76)
	boots := func(url, from string, code int, says ...string) {
		t.Helper()
		m = startIn(t, m.data, m.run, settings(url))
		m.wants(code, says...)
		if out := m.stdout.String(); strings.Count(out, " boots") != 1 || !strings.Contains(out, from) {
			t.Errorf("%s: the console says %q, want that of %s", url, out, from)
		}
	}
	first.Close() // the CD is kept, and in its drive
	boots(first.URL+"/installer.iso", "the disk boots", 0)
	erase := func() {
		if out, err := exec.Command("qemu-io", "-f", "qcow2", "-c", "write -P 0 0 510", filepath.Join(m.data, "disk", "copy.qcow2")).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	erase()
	boots(first.URL+"/installer.iso", "the CD boots", 76)
	erase()
	boots(second.URL+"/rescue.iso", "the CD boots", 76, "image: fetched")
	nothing := httptest.NewServer(http.NotFoundHandler())
	t.Cleanup(nothing.Close)
	boots(nothing.URL+"/nothing.iso", "the disk boots", 0, "404 Not Found", "starts without a CD")
}

// pack packs with a real program.
func pack(t *testing.T, program string, content []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.Command(program, "-c")
	cmd.Stdin, cmd.Stdout = bytes.NewReader(content), &out
	if err := cmd.Run(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}
