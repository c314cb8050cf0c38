package image

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"slices"
)

// lookInside reads what counts of an image beside its format.
func (l *Local) lookInside() error {
	if l.Format != ISO {
		return nil
	}
	f, err := os.Open(l.Path)
	if err != nil {
		return ioError("read "+l.Path, err)
	}
	defer f.Close()
	if l.Firmwares, err = isoFirmwares(f); err != nil {
		return ioError("read "+l.Path, err)
	}
	return nil
}

// Sizes and words of an ISO 9660 image that can be booted from ("El Torito" Bootable CD-ROM Format Specification 1.0, §2).
const (
	isoSector    = 2048
	isoBootPlace = 17 // the sector of the boot record
	// isoCatalog is how much of the catalogue is read, in bytes: 63 entries after the first, more than any image has.
	isoCatalog = isoSector

	platformX86 = 0x00
	platformEFI = 0xef
)

// isoFirmwares are the firmwares that an ISO 9660 image can be booted with, "bios" and "uefi", as its boot catalogue says; none if
// it cannot be booted.
func isoFirmwares(r io.ReaderAt) ([]string, error) {
	record, err := readUpTo(r, isoBootPlace*isoSector, isoSector)
	if err != nil {
		return nil, err
	}
	if len(record) < isoSector || !bytes.HasPrefix(record, []byte("\x00CD001\x01EL TORITO SPECIFICATION")) {
		return nil, nil
	}
	catalog, err := readUpTo(r, int64(binary.LittleEndian.Uint32(record[0x47:]))*isoSector, isoCatalog)
	if err != nil {
		return nil, err
	}
	return catalogFirmwares(catalog), nil
}

// catalogFirmwares reads a boot catalogue: entries of 32 bytes, the first of which names the platform of the second; then headers of
// sections, each with a platform and a number of entries.
func catalogFirmwares(catalog []byte) []string {
	const entry = 32
	if len(catalog) < 2*entry || catalog[0] != 1 {
		return nil
	}
	var found []string
	take := func(platform byte, e []byte) {
		const bootable = 0x88
		name := map[byte]string{platformX86: "bios", platformEFI: "uefi"}[platform]
		if e[0] == bootable && name != "" && !slices.Contains(found, name) {
			found = append(found, name)
		}
	}
	take(catalog[1], catalog[entry:])
	for rest := catalog[2*entry:]; len(rest) >= entry && (rest[0] == 0x90 || rest[0] == 0x91); {
		platform, count, last := rest[1], int(binary.LittleEndian.Uint16(rest[2:])), rest[0] == 0x91
		for rest = rest[entry:]; count > 0 && len(rest) >= entry; rest = rest[entry:] {
			take(platform, rest)
			count--
		}
		if last {
			break
		}
	}
	return found
}
