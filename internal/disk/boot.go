package disk

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
)

// BootHints is what the start of a disk tells about how it wants to be booted.
type BootHints struct {
	// MBR: sector 0 ends with the signature 0x55 0xaa.
	MBR bool `json:"mbr"`
	// MBRCode: sector 0 holds boot code that has something to boot.
	MBRCode bool `json:"mbrCode"`
	// GPT: there is a GUID partition table.
	GPT bool `json:"gpt"`
	// BIOSBoot: a partition for a boot loader's second stage under BIOS is there.
	BIOSBoot bool `json:"biosBoot"`
	// ESP: an EFI system partition is there.
	ESP bool `json:"esp"`
	// FileSystem is the file system of a disk without a partition table, where it is known.
	FileSystem string `json:"fileSystem,omitempty"`
	// PastEnd: a partition ends behind the end of the disk, which is then cut short.
	PastEnd bool `json:"pastEnd,omitempty"`
}

// Firmware is "bios" or "uefi". What a BIOS can boot is booted by it: that is the quicker of the two. A disk that nothing
// is known of gets a BIOS, as QEMU has it. This is for x86: other machines have no BIOS.
func (b BootHints) Firmware() string {
	if b.ESP && !b.BIOSBoot && !b.MBRCode {
		return "uefi"
	}
	return "bios"
}

// Recognised says that the disk begins with something that is known.
func (b BootHints) Recognised() bool { return b.MBR || b.GPT || b.FileSystem != "" }

const sectorSize = 512

// MBR partition types.
const (
	mbrTypeProtective = 0xee
	mbrTypeESP        = 0xef
)

// readBootHints reads the partition tables of the disk r of size bytes. What cannot be read is not known.
func readBootHints(r io.ReaderAt, size int64) BootHints {
	head, err := readUpTo(r, 0, min(size, headBytes))
	if err != nil || len(head) < sectorSize {
		return BootHints{}
	}
	h := BootHints{FileSystem: fileSystemStart(head)}
	sector := head[:sectorSize]
	if sector[510] != 0x55 || sector[511] != 0xaa {
		return h
	}
	h.MBR = true
	protective, others := h.readMBR(sector, size)
	if protective {
		h.readGPT(r, size)
	}
	h.MBRCode = hasBootCode(sector)
	if h.GPT && !others && bytes.Contains(sector[:440], []byte("Missing operating system")) {
		// The usual code for MBR disks, which boots the active partition of the MBR. Windows puts it on GPT disks too, where
		// the MBR has no partition that it could boot.
		h.MBRCode = false
	}
	return h
}

// readMBR reads the four entries of the MBR. protective: one of them stands for a GPT; others: there are more than that.
func (b *BootHints) readMBR(sector []byte, size int64) (protective, others bool) {
	for i := range 4 {
		entry := sector[446+16*i:][:16]
		first, count := int64(binary.LittleEndian.Uint32(entry[8:])), int64(binary.LittleEndian.Uint32(entry[12:]))
		switch entry[4] {
		case 0:
			continue
		case mbrTypeProtective:
			protective = true
			continue // its length is often too large
		case mbrTypeESP:
			b.ESP = true
		}
		others = true
		if (first+count)*sectorSize > size {
			b.PastEnd = true
		}
	}
	return protective, others
}

// hasBootCode says that the code area of the MBR (440 bytes, before the disk signature) holds anything.
func hasBootCode(sector []byte) bool {
	return len(bytes.Trim(sector[:440], "\x00")) > 0
}

// GuestHints are the hints of the guest's disk in the qcow2 file at path, as far as they stand in that file itself: all of them where
// its base is blank. What cannot be read is not known.
func GuestHints(path string) BootHints {
	f, err := os.Open(path)
	if err != nil {
		return BootHints{}
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return BootHints{}
	}
	header, err := parseQCOW2(f, info.Size())
	if err != nil {
		return BootHints{}
	}
	return readBootHints(&qcow2Reader{file: f, fileSize: info.Size(), header: header}, header.size)
}
