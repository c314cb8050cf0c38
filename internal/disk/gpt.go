package disk

import (
	"encoding/binary"
	"io"
	"math"
)

// Partition types as they stand on the disk: the first three fields of a GUID are little endian (UEFI specification 2.10,
// §5.3 and appendix A).
const (
	gptTypeESP      = "\x28\x73\x2a\xc1\x1f\xf8\xd2\x11\xba\x4b\x00\xa0\xc9\x3e\xc9\x3b" // C12A7328-F81F-11D2-BA4B-00A0C93EC93B
	gptTypeBIOSBoot = "Hah!IdontNeedEFI"                                                 // 21686148-6449-6E6F-744E-656564454649
	gptTypeUnused   = "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
)

// Bounds for what is read of a table that anybody may have written. The usual one has 128 entries of 128 bytes.
const (
	gptMinEntry   = 128
	gptMaxEntry   = 4096
	gptMaxEntries = 1024
)

// readGPT reads the primary GUID partition table with sectors of 512 bytes. Checksums are not verified: a hint is all that is
// wanted, and a wrong one costs a boot with the other firmware.
func (b *BootHints) readGPT(r io.ReaderAt, size int64) {
	header, err := readUpTo(r, sectorSize, 92)
	if err != nil || len(header) < 92 || string(header[:8]) != "EFI PART" {
		return
	}
	lba := binary.LittleEndian.Uint64(header[72:])
	count, entrySize := binary.LittleEndian.Uint32(header[80:]), binary.LittleEndian.Uint32(header[84:])
	if lba > math.MaxInt64/sectorSize || count > gptMaxEntries || entrySize < gptMinEntry || entrySize > gptMaxEntry {
		return
	}
	b.GPT = true
	table, err := readUpTo(r, int64(lba)*sectorSize, int64(count)*int64(entrySize))
	if err != nil {
		return
	}
	for ; len(table) >= int(entrySize); table = table[entrySize:] {
		b.takeGPTEntry(table[:entrySize], size)
	}
}

func (b *BootHints) takeGPTEntry(entry []byte, size int64) {
	switch string(entry[:16]) {
	case gptTypeUnused:
		return
	case gptTypeESP:
		b.ESP = true
	case gptTypeBIOSBoot:
		b.BIOSBoot = true
	}
	if last := binary.LittleEndian.Uint64(entry[40:]); last >= uint64(size)/sectorSize {
		b.PastEnd = true
	}
}
