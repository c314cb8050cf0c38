package disk

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const espType, biosBootType, linuxType = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B", "21686148-6449-6E6F-744E-656564454649", "0FC63DAF-8483-4772-8E79-3D69D8477DE4"

func TestBootHintsAgainstSfdisk(t *testing.T) {
	for _, tt := range []struct {
		name, script, code string
		size               int64
		want               BootHints
		firmware           string
	}{
		{"GPT with ESP", "label: gpt\nsize=8MiB, type=" + espType + "\ntype=" + linuxType, "", 64 << 20,
			BootHints{MBR: true, GPT: true, ESP: true}, "uefi"},
		{"GPT with BIOS boot and ESP", "label: gpt\nsize=1MiB, type=" + biosBootType + "\nsize=8MiB, type=" + espType + "\ntype=" + linuxType, "", 64 << 20,
			BootHints{MBR: true, GPT: true, ESP: true, BIOSBoot: true}, "bios"},
		{"GPT with ESP and boot code", "label: gpt\nsize=8MiB, type=" + espType, "\xeb\x63GRUB", 64 << 20,
			BootHints{MBR: true, MBRCode: true, GPT: true, ESP: true}, "bios"},
		{"GPT with ESP and code for an MBR that has nothing", "label: gpt\nsize=8MiB, type=" + espType, "\x33\xc0Missing operating system", 64 << 20,
			BootHints{MBR: true, GPT: true, ESP: true}, "uefi"},
		{"GPT with a long table", "label: gpt\ntable-length: 512\nsize=1MiB, type=" + linuxType + "\nsize=8MiB, type=" + espType, "", 64 << 20,
			BootHints{MBR: true, GPT: true, ESP: true}, "uefi"},
		{"MBR with code", "label: dos\ntype=83, bootable", "\xeb\x63GRUB", 16 << 20,
			BootHints{MBR: true, MBRCode: true}, "bios"},
		{"MBR with ESP", "label: dos\nsize=8MiB, type=ef\ntype=83", "", 32 << 20,
			BootHints{MBR: true, ESP: true}, "uefi"},
		{"MBR without code", "label: dos\ntype=83", "", 16 << 20,
			BootHints{MBR: true}, "bios"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			raw := sfdisk(t, tt.script, tt.code, tt.size)
			for _, m := range append([]made{{name: "raw"}}, imagesMade...) {
				path, format := raw, FormatRaw
				if m.name != "raw" {
					path, format = filepath.Join(t.TempDir(), "out"), FormatQCOW2
					m.make(t, raw, path)
				}
				image, err := inspectImage(path, format)
				if err != nil {
					t.Fatalf("%s: %v", m.name, err)
				}
				if diff := cmp.Diff(tt.want, image.Boot); diff != "" {
					t.Errorf("%s, -want +got:\n%s", m.name, diff)
				}
				if got := image.Boot.Firmware(); got != tt.firmware {
					t.Errorf("%s: firmware %q, want %q", m.name, got, tt.firmware)
				}
				if len(image.Warnings) > 0 {
					t.Errorf("%s: warnings %q", m.name, image.Warnings)
				}
			}
		})
	}
}

// sfdisk makes a disk with partitions, and boot code in its first sector.
func sfdisk(t *testing.T, script, code string, size int64) string {
	t.Helper()
	path := write(t, filepath.Join(t.TempDir(), "disk"), nil)
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("sfdisk", "-q", path)
	cmd.Stdin = strings.NewReader(script + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("sfdisk (package fdisk): %v: %s", err, out)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(code), 0); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBootHintsOfACutDisk(t *testing.T) {
	for _, label := range []string{"gpt", "dos"} {
		path := sfdisk(t, "label: "+label+"\nsize=20MiB", "", 32<<20)
		if err := os.Truncate(path, 16<<20); err != nil {
			t.Fatal(err)
		}
		image, err := inspectImage(path, FormatRaw)
		if err != nil {
			t.Fatal(err)
		}
		if !image.Boot.PastEnd || len(image.Warnings) != 1 || !strings.Contains(image.Warnings[0], "cut short") {
			t.Errorf("%s: hints %+v, warnings %q", label, image.Boot, image.Warnings)
		}
	}
}

func TestFileSystemWithoutPartitions(t *testing.T) {
	path := write(t, filepath.Join(t.TempDir(), "disk"), nil)
	if err := os.Truncate(path, 16<<20); err != nil {
		t.Fatal(err)
	}
	image, err := inspectImage(path, FormatRaw)
	if err != nil || len(image.Warnings) != 1 {
		t.Errorf("zeros: %v, %q", err, image.Warnings)
	}
	run(t, "/usr/sbin/mkfs.ext4", "-q", path)
	image, err = inspectImage(path, FormatRaw)
	if err != nil || image.Boot.FileSystem != "ext" || len(image.Warnings) != 0 || image.Boot.Firmware() != "bios" {
		t.Errorf("ext4: %v, %+v", err, image)
	}
}

func FuzzBootHints(f *testing.F) {
	gpt := make([]byte, 34*512)
	copy(gpt[446+4:], "\xee")
	copy(gpt[510:], "\x55\xaa")
	copy(gpt[512:], "EFI PART")
	gpt[512+72], gpt[512+80], gpt[512+84] = 2, 128, 128
	copy(gpt[1024:], gptTypeESP)
	f.Add(gpt)
	f.Add(gpt[:512])
	f.Fuzz(func(t *testing.T, b []byte) {
		h := readBootHints(bytes.NewReader(b), int64(len(b)))
		if h.GPT && !h.MBR {
			t.Errorf("a GPT without an MBR: %+v", h)
		}
		if fw := h.Firmware(); fw != "bios" && fw != "uefi" {
			t.Errorf("firmware %q", fw)
		}
	})
}
