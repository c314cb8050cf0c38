package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strconv"
	"strings"
)

// Of the many shapes of VMDK the two that are one file are taken: monolithicSparse and streamOptimized (VMware, Virtual Disk Format
// 1.1). QEMU reads a descriptor wherever it stands and follows what it names: extents, and a parent (block/vmdk.c). So the
// descriptor has to be found where QEMU would find it, and must name nothing but the file itself.
const (
	vmdkMagic       = "KDMV"
	vmdkSector      = 512
	vmdkHeaderBytes = 512
	// vmdkDescriptor is how much QEMU reads as a descriptor, in bytes, whatever length the header gives it.
	vmdkDescriptor = 20 * vmdkSector
	vmdkGDAtEnd    = 1<<64 - 1
	// vmdkMaxGrain is QEMU's limit for a grain, in sectors: what it holds in memory at once.
	vmdkMaxGrain = 0x200000 / vmdkSector * 64
)

// vmdkHeader is the part of a sparse extent's header that counts here.
type vmdkHeader struct {
	version, flags                    uint32
	capacity, grain                   uint64 // sectors
	descriptorOffset, descriptorBytes uint64 // sectors
	directory                         uint64 // sectors
}

func parseVMDKHeader(b []byte) (vmdkHeader, error) {
	le := binary.LittleEndian
	if len(b) < 79 || string(b[:4]) != vmdkMagic {
		return vmdkHeader{}, malformed("there is no VMDK header")
	}
	return vmdkHeader{
		version: le.Uint32(b[4:]), flags: le.Uint32(b[8:]),
		capacity: le.Uint64(b[12:]), grain: le.Uint64(b[20:]),
		descriptorOffset: le.Uint64(b[28:]), descriptorBytes: le.Uint64(b[36:]),
		directory: le.Uint64(b[56:]),
	}, nil
}

func inspectVMDK(r io.ReaderAt, fileSize int64) (foreignDisk, error) {
	first, err := readUpTo(r, 0, min(fileSize, vmdkHeaderBytes))
	if err != nil {
		return foreignDisk{}, err
	}
	switch {
	case bytes.HasPrefix(first, []byte("# Disk Desc")):
		return foreignDisk{}, refers("it is only the description of a disk whose data are in other files")
	case bytes.HasPrefix(first, []byte("COWD")):
		return foreignDisk{}, refers("it is a part of a disk of ESX")
	}
	header, err := parseVMDKHeader(first)
	if err != nil {
		return foreignDisk{}, err
	}
	if header.directory == vmdkGDAtEnd {
		if err := header.checkFooter(r, fileSize); err != nil {
			return foreignDisk{}, err
		}
	}
	switch {
	case header.capacity == 0:
		return foreignDisk{}, refers("its disk has no sectors of its own, so that its description would say where they are")
	case header.capacity > maxVirtualSize/vmdkSector:
		return foreignDisk{}, malformed("a disk of %d sectors", header.capacity)
	case header.grain < 1 || header.grain > vmdkMaxGrain:
		return foreignDisk{}, malformed("grains of %d sectors", header.grain)
	}
	disk := foreignDisk{driver: "vmdk", size: int64(header.capacity) * vmdkSector}
	return disk, header.checkDescriptor(r, fileSize)
}

// checkFooter reads the copy of the header at the end of a streamed file, which counts more than the one at its beginning. Both have
// to say the same.
func (h vmdkHeader) checkFooter(r io.ReaderAt, fileSize int64) error {
	// The footer's marker, the footer and the end-of-stream marker have a sector each.
	b, err := readExactly(r, fileSize-2*vmdkSector, vmdkHeaderBytes, fileSize, "footer")
	if err != nil {
		return err
	}
	footer, err := parseVMDKHeader(b)
	if err != nil {
		return malformed("the footer of the stream is missing: it is cut short")
	}
	footer.directory = h.directory // it is what the footer is there for
	if footer != h {
		return malformed("the header and the footer contradict each other")
	}
	return nil
}

// checkDescriptor reads the description as QEMU does.
func (h vmdkHeader) checkDescriptor(r io.ReaderAt, fileSize int64) error {
	if h.descriptorOffset == 0 {
		return nil // there is none, and QEMU then asks for none
	}
	if h.descriptorOffset > uint64(fileSize)/vmdkSector {
		return malformed("its description is behind its end")
	}
	text, err := readUpTo(r, int64(h.descriptorOffset)*vmdkSector, vmdkDescriptor)
	if err != nil {
		return err
	}
	return checkVMDKDescriptor(text)
}

// checkVMDKDescriptor refuses a description that names anything but the file that it stands in. QEMU looks for words anywhere in
// the text, also behind its end and within comments, so that is what counts.
func checkVMDKDescriptor(text []byte) error {
	lower := bytes.ToLower(text)
	if bytes.Contains(lower, []byte("parentfilenamehint")) {
		return refers("it has a parent disk")
	}
	end := bytes.IndexByte(text, 0)
	if end < 0 {
		end = len(text)
	}
	extents := 0
	for _, line := range strings.FieldsFunc(string(text[:end]), func(c rune) bool { return c == '\n' || c == '\r' }) {
		line = strings.TrimSpace(line)
		key, value, isSetting := strings.Cut(line, "=")
		key = strings.ToLower(strings.TrimSpace(key))
		value = strings.Trim(strings.TrimSpace(value), `"`)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case isSetting && key == "parentcid":
			if cid, err := strconv.ParseUint(value, 16, 64); err != nil || cid != 0xffffffff {
				return refers("it has a parent disk (parentCID=%q)", shorten(value))
			}
		case isSetting && key == "createtype":
			if !strings.EqualFold(value, "monolithicSparse") && !strings.EqualFold(value, "streamOptimized") {
				return refers("it is of the kind %q, whose data are in other files", shorten(value))
			}
		case isExtent(line):
			extents++
			if fields := strings.Fields(line); len(fields) < 4 || !strings.EqualFold(fields[2], "SPARSE") {
				return refers("a part of it is %q", shorten(line))
			}
		}
	}
	if extents > 1 {
		return refers("its data are in %d parts", extents)
	}
	return nil
}

// isExtent says that a line of a description names a part of the disk: ACCESS SECTORS TYPE ["FILE"] [OFFSET].
func isExtent(line string) bool {
	access, _, _ := strings.Cut(strings.ToUpper(line), " ")
	return access == "RW" || access == "RDONLY" || access == "NOACCESS"
}

// shorten cuts foreign text for a message.
func shorten(s string) string { return fmt.Sprintf("%.60s", s) }
