package config

import (
	"errors"
	"fmt"
	"math/big"
	"strings"
)

// Bytes is a size in bytes.
type Bytes int64

// The units that sizes are written in: powers of two, as QEMU has them.
const (
	KiB Bytes = 1 << (10 * (iota + 1))
	MiB
	GiB
	TiB
	PiB
)

const (
	minMemory   = 16 * MiB
	maxMemory   = 64 * TiB
	minDiskSize = MiB // what is less was meant as another unit: a bare number is bytes
	maxDiskSize = PiB
	sector      = 512
)

var (
	errNotSize    = errors.New("not a size; write 512M, 4G or 4Gi")
	errWholeBytes = errors.New("not a whole number of bytes; write 512M, 4G or 4Gi")

	sizePattern = pattern(`^([0-9]{1,32}(?:\.[0-9]{1,32})?)([A-Za-z]*)$`)
)

// String is the size in the largest unit that leaves no fraction: 4GiB, 1536MiB, 0B. It can be read back.
func (b Bytes) String() string {
	units := []struct {
		size Bytes
		name string
	}{{PiB, "PiB"}, {TiB, "TiB"}, {GiB, "GiB"}, {MiB, "MiB"}, {KiB, "KiB"}}
	for _, u := range units {
		if b != 0 && b%u.size == 0 {
			return fmt.Sprintf("%d%s", b/u.size, u.name)
		}
	}
	return fmt.Sprintf("%dB", int64(b))
}

// parseSize reads a size; bare is the unit of a number without one. Like QEMU it takes fractions, if bytes are not
// divided by them; unlike QEMU no exponents and no hexadecimal numbers.
func parseSize(s string, bare Bytes) (Bytes, error) {
	m := sizePattern().FindStringSubmatch(s)
	if m == nil {
		return 0, errNotSize
	}
	unit, ok := parseUnit(m[2], bare)
	if !ok {
		return 0, errNotSize
	}
	size, ok := new(big.Rat).SetString(m[1])
	if !ok {
		return 0, errNotSize
	}
	size.Mul(size, new(big.Rat).SetInt64(int64(unit)))
	if !size.IsInt() {
		return 0, errWholeBytes
	}
	if !size.Num().IsInt64() {
		return 0, errors.New("more than a size can be; write 512M, 4G or 4Gi")
	}
	return Bytes(size.Num().Int64()), nil
}

// parseUnit reads M, MB, Mi and MiB, all of them the same power of two, in any case.
func parseUnit(s string, bare Bytes) (Bytes, bool) {
	switch strings.ToUpper(s) {
	case "":
		return bare, true
	case "B":
		return 1, true
	case "K", "KB", "KI", "KIB":
		return KiB, true
	case "M", "MB", "MI", "MIB":
		return MiB, true
	case "G", "GB", "GI", "GIB":
		return GiB, true
	case "T", "TB", "TI", "TIB":
		return TiB, true
	case "P", "PB", "PI", "PIB":
		return PiB, true
	}
	return 0, false
}

// memorySize reads VM_MEMORY. A bare number is MiB, as it is after QEMU's -m.
func memorySize(s string) (Bytes, error) {
	size, err := parseSize(s, MiB)
	if inBytes, e := parseSize(s, 1); e == nil && inBytes >= minMemory && inBytes <= maxMemory && (err != nil || size > maxMemory) {
		// The downward API gives a memory limit in bytes unless it is told a divisor.
		return 0, fmt.Errorf("a bare number is MiB; for bytes write %dB", int64(inBytes))
	}
	if err != nil {
		return 0, err
	}
	if size < minMemory || size > maxMemory {
		return 0, fmt.Errorf("%v is out of range; from %v to %v", size, minMemory, maxMemory)
	}
	if size%MiB != 0 {
		return 0, fmt.Errorf("not a whole number of MiB; write %dM or %dM", size/MiB, size/MiB+1)
	}
	return size, nil
}

// diskSize reads the size of a disk and rounds it up to whole sectors, as qemu-img does. A bare number is bytes, as it is to
// qemu-img.
func diskSize(s string) (Bytes, error) {
	size, err := parseSize(s, 1)
	if err != nil {
		return 0, err
	}
	if size < minDiskSize && sizePattern().FindStringSubmatch(s)[2] == "" {
		return 0, fmt.Errorf("%v is too small, a bare number is bytes; write %sG for GiB, from %v to %v", size, s, minDiskSize, maxDiskSize)
	}
	if size < minDiskSize || size > maxDiskSize {
		return 0, fmt.Errorf("%v is out of range; from %v to %v", size, minDiskSize, maxDiskSize)
	}
	return (size + sector - 1) / sector * sector, nil
}
