package config

import (
	"math"
	"testing"
)

func TestParseSize(t *testing.T) {
	tests := []struct {
		name, in string
		want     Bytes // -1: an error
	}{
		{"OK M", "512M", 512 * MiB},
		{"OK G", "4G", 4 * GiB},
		{"OK Gi", "4Gi", 4 * GiB},
		{"OK GiB", "4GiB", 4 * GiB},
		{"OK GB is a power of two", "4GB", 4 * GiB},
		{"OK lower case", "1024m", GiB},
		{"OK mixed case", "4gIb", 4 * GiB},
		{"OK K", "64k", 64 * KiB},
		{"OK T", "2T", 2 * TiB},
		{"OK P", "1P", PiB},
		{"OK bytes", "512B", 512},
		{"OK bare", "7", 7 * MiB},
		{"OK zero", "0", 0},
		{"OK leading zeros", "007B", 7},
		{"OK fraction", "1.5G", 1536 * MiB},
		{"OK fraction of a bare number", "0.5", 512 * KiB},
		{"OK the largest", "9223372036854775807B", math.MaxInt64},
		{"OK the largest P", "8191P", 8191 * PiB},
		{"bad overflow", "8192P", -1},
		{"bad overflow of bytes", "9223372036854775808B", -1},
		{"bad far too long", "11111111111111111111111111111111111111111111", -1},
		{"bad part of a byte", "1.0001K", -1},
		{"bad half a byte", "1.5B", -1},
		{"bad negative", "-4G", -1},
		{"bad sign", "+4G", -1},
		{"bad space", "4 G", -1},
		{"bad space before", " 4G", -1},
		{"bad unit", "4X", -1},
		{"bad unit with a tail", "4GiBs", -1},
		{"bad only Ki's i", "4i", -1},
		{"bad no number", "G", -1},
		{"bad nothing", "", -1},
		{"bad no digit before the point", ".5G", -1},
		{"bad no digit after the point", "1.G", -1},
		{"bad two points", "1.5.5G", -1},
		{"bad comma", "1,5G", -1},
		{"bad exponent", "1e3", -1},
		{"bad hexadecimal", "0x10", -1},
		{"bad digits of another script", "٤G", -1},
		{"bad Kelvin sign", "4\u212a", -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseSize(tt.in, MiB)
			if err != nil {
				got = -1
			}
			if got != tt.want {
				t.Errorf("parseSize(%q) = %d, %v; want %d", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestSizeLimits(t *testing.T) {
	tests := []struct {
		name, in string
		parse    func(string) (Bytes, error)
		want     Bytes // -1: an error
	}{
		{"OK least memory", "16M", memorySize, 16 * MiB},
		{"OK most memory", "64T", memorySize, 64 * TiB},
		{"OK bare memory is MiB", "4096", memorySize, 4 * GiB},
		{"OK memory in bytes", "4294967296B", memorySize, 4 * GiB},
		{"bad little memory", "15M", memorySize, -1},
		{"bad much memory", "65T", memorySize, -1},
		{"bad memory not in whole MiB", "20000K", memorySize, -1},
		{"bad memory in bytes without saying so", "4294967296", memorySize, -1},
		{"OK least disk", "1M", diskSize, MiB},
		{"OK most disk", "1P", diskSize, PiB},
		{"OK bare disk is bytes", "10737418240", diskSize, 10 * GiB},
		{"OK disk is rounded up", "1048577", diskSize, MiB + 512},
		{"bad small disk", "1023K", diskSize, -1},
		{"bad big disk", "2P", diskSize, -1},
		{"bad disk in bytes by mistake", "20", diskSize, -1},
		{"bad no disk", "0", diskSize, -1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.parse(tt.in)
			if err != nil {
				got = -1
			}
			if got != tt.want {
				t.Errorf("%q: %d, %v; want %d", tt.in, got, err, tt.want)
			}
		})
	}
}

func TestBytesString(t *testing.T) {
	for size, want := range map[Bytes]string{0: "0B", 511: "511B", 1536 * MiB: "1536MiB", 4 * GiB: "4GiB", KiB: "1KiB", 3 * PiB: "3PiB", 2 * TiB: "2TiB", -GiB: "-1GiB"} {
		if got := size.String(); got != want {
			t.Errorf("%d: %s, want %s", int64(size), got, want)
		}
	}
}

// What is read is never negative, and reads the same from its own spelling.
func FuzzParseSize(f *testing.F) {
	for _, s := range []string{"512M", "4Gi", "1.5G", "8192P", "-4G", "4 G", "0", "1.0000001K", "99999999999999999999", "4\u212a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		size, err := parseSize(s, MiB)
		if err != nil {
			return
		}
		if size < 0 {
			t.Errorf("%q is %d", s, size)
		}
		if again, err := parseSize(size.String(), 1); err != nil || again != size {
			t.Errorf("%q is %v, which is %v, %v", s, size, again, err)
		}
		if memory, err := memorySize(s); err == nil && (memory < minMemory || memory > maxMemory || memory%MiB != 0) {
			t.Errorf("%q is a memory of %v", s, memory)
		}
		if disk, err := diskSize(s); err == nil && (disk < minDiskSize || disk > maxDiskSize || disk%sector != 0) {
			t.Errorf("%q is a disk of %v", s, disk)
		}
	})
}
