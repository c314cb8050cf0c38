package image

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
)

// secret is a file that no image may bring into a guest.
func secret(t testing.TB) string {
	return write(t, filepath.Join(t.TempDir(), "shadow"), bytes.Repeat([]byte("root:hush\n"), 60))
}

// patch writes bytes at a place of an image.
func patch(b []byte, at int, with []byte) []byte {
	b = bytes.Clone(b)
	copy(b[at:], with)
	return b
}

// describe replaces a word of the description in a VMDK by one of the same length or shorter.
func describe(t testing.TB, b []byte, old, with string) []byte {
	t.Helper()
	if !bytes.Contains(b, []byte(old)) || len(with) > len(old) {
		t.Fatalf("%q is not in the description, or too short for %q", old, with)
	}
	return bytes.Replace(bytes.Clone(b), []byte(old), []byte(with+strings.Repeat("\n", len(old)-len(with))), 1)
}

// vhdSum puts the checksum into a VHD's footer or header.
func vhdSum(b []byte, at int) []byte {
	copy(b[at+64:], make([]byte, 4))
	var sum uint32
	for _, c := range b[at : at+512] {
		sum += uint32(c)
	}
	binary.BigEndian.PutUint32(b[at+64:], ^sum)
	return b
}

// footed makes a streamed VMDK as VMware does: the place of its directory is said at the end of the stream, in a copy of the header
// between two markers.
func footed(b []byte) []byte {
	b = bytes.Clone(b)
	footer := bytes.Clone(b[:512])
	binary.LittleEndian.PutUint64(b[56:], vmdkGDAtEnd)
	b = append(b, make([]byte, -len(b)&511)...)
	marker := make([]byte, 512)
	marker[0], marker[12] = 1, 3 // one sector follows, and it is the footer
	return append(append(append(b, marker...), footer...), make([]byte, 512)...)
}

// TestStreamWithFooter: a streamed VMDK as VMware writes it.
func TestStreamWithFooter(t *testing.T) {
	content := diskContent(1<<20, 22)
	file := footed(convertTo(t, content, "vmdk", "-o", "subformat=streamOptimized"))
	wantContent(t, mustMake(t, input(t, write(t, filepath.Join(t.TempDir(), "disk"), file))), content)
}

// TestHostileImages: each is refused with its reason, and nothing is read that should not be.
func TestHostileImages(t *testing.T) {
	content := diskContent(1<<20, 20)
	vmdk := convertTo(t, content, "vmdk")
	stream := footed(convertTo(t, content, "vmdk", "-o", "subformat=streamOptimized"))
	vdi, vhd, fixed, vhdx := convertTo(t, content, "vdi"), convertTo(t, content, "vpc"), convertTo(t, content, "vpc", "-o", "subformat=fixed"), convertTo(t, content, "vhdx")
	shadow := secret(t)
	flat := fmt.Sprintf("# Disk DescriptorFile\nversion=1\nCID=1\nparentCID=ffffffff\ncreateType=\"monolithicFlat\"\nRW 1 FLAT \"%s\" 0\n", shadow)
	embedded := make([]byte, 1<<20) // a header without sectors makes QEMU read the description's extents
	copy(embedded, "KDMV")
	binary.LittleEndian.PutUint32(embedded[4:], 1)
	binary.LittleEndian.PutUint64(embedded[20:], 128)
	binary.LittleEndian.PutUint64(embedded[28:], 1)
	copy(embedded[512:], flat)
	meta := bytes.Index(vhdx, []byte("metadata"))
	item := meta + bytes.Index(vhdx[meta:], []byte(vhdxFileParameters))
	parameters := meta + int(binary.LittleEndian.Uint32(vhdx[item+16:]))
	size := meta + int(binary.LittleEndian.Uint32(vhdx[meta+bytes.Index(vhdx[meta:], []byte(vhdxDiskSize))+16:]))
	qcow2 := func(args ...string) []byte {
		path := filepath.Join(t.TempDir(), "q")
		command(t, "qemu-img", append(append([]string{"create", "-q", "-f", "qcow2"}, args...), path, "1M")...)
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	for _, tt := range []struct {
		name string
		file []byte
		kind Kind
		says string
	}{
		{"qcow2 with a backing file", qcow2("-b", shadow, "-F", "raw"), KindIO, "it refers to another file: it has a backing file"},
		{"qcow2 with a backing file in JSON", qcow2("-u", "-b", `json:{"driver":"file","filename":"`+shadow+`"}`, "-F", "raw"), KindIO, "it has a backing file"},
		{"qcow2 with a data file", qcow2("-o", "data_file="+filepath.Join(t.TempDir(), "d")), KindIO, "external data file"},
		{"vmdk that is a description", []byte(flat), KindIO, "it is only the description of a disk"},
		{"vmdk of ESX", append([]byte("COWD"), make([]byte, 4096)...), KindIO, "a part of a disk of ESX"},
		{"vmdk without sectors", embedded, KindIO, "its description would say where they are"},
		{"vmdk with a parent", describe(t, vmdk, "parentCID=ffffffff", "parentCID=00000001"), KindIO, "it has a parent disk"},
		{"vmdk with a parent's name", patch(vmdk, bytes.Index(vmdk, []byte("ddb.adapterType")), []byte("parentFileNameHint=\"/a\"\n")), KindIO, "it has a parent disk"},
		{"vmdk of another kind", describe(t, vmdk, `createType="monolithicSparse"`, `createType="vmfsRaw"`), KindIO, `it is of the kind "vmfsRaw"`},
		{"vmdk with a flat part", describe(t, vmdk, " SPARSE ", " FLAT "), KindIO, "a part of it is"},
		{"vmdk of a stream, cut short", stream[:len(stream)-1024], KindIO, "it is cut short"},
		{"vmdk whose footer says something else", patch(stream, len(stream)-1024+12, []byte{0, 0, 0, 0, 0, 0, 0, 0}), KindIO, "contradict each other"},
		{"vmdk with large grains", patch(vmdk, 20, []byte{0, 0, 0, 0, 0, 1, 0, 0}), KindIO, "grains of"},
		{"vdi with a parent", patch(vdi, 0x1b8, []byte{1}), KindIO, "it has a parent disk"},
		{"vdi of a snapshot", patch(vdi, 0x4c, []byte{4}), KindIO, "which has a parent disk"},
		{"vdi that is cut short", vdi[:300], KindIO, "cut short"},
		{"vdi that is too large", patch(vdi, 0x170, bytes.Repeat([]byte{0xff}, 8)), KindIO, "a disk of"},
		{"vhd with a parent", vhdSum(patch(vhd, 60, []byte{0, 0, 0, 4}), 0), KindIO, "it has a parent disk"},
		{"vhd with a parent's identity", patch(vhd, 512+40, []byte{1}), KindIO, "it has a parent disk"},
		{"vhd without a second header", vhd[:512], KindIO, "damaged vhd"},
		{"vhd with a bad checksum", patch(vhd, 64, []byte{1, 2, 3, 4}), KindIO, "checksum"},
		{"fixed vhd that is cut short", vhdSum(fixed[len(fixed)-512:], 0), KindIO, "its beginning is missing"},
		{"vhdx with a parent", patch(vhdx, parameters+4, []byte{2}), KindIO, "it has a parent disk"},
		{"vhdx with a parent locator", patch(vhdx, item, []byte(vhdxParentLocator)), KindIO, "it has a parent disk"},
		{"vhdx that is too large", patch(vhdx, size, bytes.Repeat([]byte{0xff}, 8)), KindIO, "a disk of"},
		{"vhdx that is cut short", vhdx[:200<<10], KindIO, "cut short"},
		{"tar", append(append(make([]byte, 257), "ustar\x00"...), make([]byte, 1000)...), KindConfig, "OVA"},
		{"zip", []byte("PK\x03\x04 and more"), KindConfig, "a zip archive"},
		{"gzip in gzip", pack(t, "gzip", pack(t, "gzip", content)), KindIO, "packed twice"},
		{"gzip, cut short", pack(t, "gzip", content)[:100<<10], KindIO, "cut short"},
		{"bzip2, cut short", pack(t, "bzip2", content)[:100<<10], KindIO, "cut short"},
		{"xz, cut short", pack(t, "xz", content)[:100<<10], KindIO, "cut short"},
		{"zstd, cut short", pack(t, "zstd", content)[:100<<10], KindIO, "cut short"},
		{"xz, damaged", patch(pack(t, "xz", content), 100<<10, []byte("damage")), KindIO, "corrupt"},
		{"gzip, damaged", patch(pack(t, "gzip", content), 100<<10, []byte("damage")), KindIO, "cannot fetch"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newBadServer(t, tt.file)
			in := input(t, s.url())
			_, err := makeImage(t.Context(), in, new(logged))
			wantError(t, err, tt.kind, tt.says, in.Name)
			wantFiles(t, in)
			path := write(t, filepath.Join(t.TempDir(), "disk"), tt.file)
			onDisk := input(t, path)
			if recognise(tt.file[:min(len(tt.file), headBytes)]) != QCOW2 { // that is for the one who opens it
				_, err = makeImage(t.Context(), onDisk, new(logged))
				words := tt.says
				if words == "cannot fetch" {
					words = "cannot use"
				}
				wantError(t, err, tt.kind, words, path)
			}
			wantFiles(t, onDisk)
		})
	}
}

// TestVMDKDescriptions: what QEMU would follow is found wherever it would find it.
func TestVMDKDescriptions(t *testing.T) {
	for text, refused := range map[string]bool{
		"# Disk DescriptorFile\nparentCID=ffffffff\ncreateType=\"monolithicSparse\"\nRW 1 SPARSE \"a\"\n": false,
		"":                                       false,
		"parentCID=FFFFFFFF\n":                   false,
		"parentCID=fffffffe\n":                   true,
		"  parentCID = \"0\"\r\n":                true,
		"# parentFileNameHint=\"/etc/shadow\"\n": true,
		"x\x00parentFileNameHint=\"/etc/shadow\"":          true,
		"PARENTFILENAMEHINT=\"a\"":                         true,
		"RW 1 SPARSE \"a\"\nRW 1 SPARSE \"b\"\n":           true,
		"RW 1 FLAT \"/etc/shadow\" 0\n":                    true,
		"  RDONLY 1 VMFS \"/dev/sda\"\n":                   true,
		"createType=\"twoGbMaxExtentSparse\"\n":            true,
		"createType=\"streamOptimized\"\nddb.x = \"RW 1\"": false,
	} {
		if err := checkVMDKDescriptor([]byte(text)); (err != nil) != refused {
			t.Errorf("%q: %v", text, err)
		}
	}
}

// TestKnownRaw: what is known to be a raw disk is one, whatever its guest has written to its beginning.
func TestKnownRaw(t *testing.T) {
	for _, begin := range []string{"QFI\xfb\x00\x00\x00\x03", "KDMV", "\x1f\x8b\x08", "vhdxfile"} {
		path := write(t, filepath.Join(t.TempDir(), "disk"), append([]byte(begin), make([]byte, 1<<20)...))
		in := input(t, path)
		in.KnownRaw = true
		local := mustMake(t, in)
		if local.Path != path || local.Format != Raw {
			t.Errorf("%q became %+v", begin, local)
		}
	}
}

// TestBombs: nothing unpacks to more than it may, and none takes much memory.
func TestBombs(t *testing.T) {
	zeros := func(w io.WriteCloser, n int) {
		block := make([]byte, 1<<20)
		for range n {
			if _, err := w.Write(block); err != nil {
				t.Fatal(err)
			}
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
	}
	const floor, length = 8 << 20, 64
	var gz, zs bytes.Buffer
	w, _ := gzip.NewWriterLevel(&gz, gzip.BestCompression)
	zeros(w, length)
	z, _ := zstd.NewWriter(&zs)
	zeros(z, length)
	plain := make([]byte, length<<20)
	for name, file := range map[string][]byte{
		"gzip": gz.Bytes(), "zstd": zs.Bytes(), "xz": pack(t, "xz", plain), "bzip2": pack(t, "bzip2", plain),
	} {
		s := newBadServer(t, file)
		in := input(t, s.url())
		_, err := makeImage(t.Context(), in, new(logged), func(a *applier) { a.bomb = floor - bombRatio*int64(len(file)) })
		wantError(t, err, KindIO, "it unpacks to far more than it has", in.Name)
		wantFiles(t, in)
		t.Logf("%s: %v", name, err)
	}
	// a stream that wants to look back further than any image needs
	var far bytes.Buffer
	long, err := zstd.NewWriter(&far, zstd.WithWindowSize(512<<20))
	if err != nil {
		t.Fatal(err)
	}
	zeros(long, length)
	for name, file := range map[string][]byte{
		"zstd": far.Bytes(),
		"xz":   pack(t, "xz", diskContent(1<<20, 1), "--format=xz", "--lzma2=preset=0,dict=256MiB"),
	} {
		var before, after runtime.MemStats
		s := newBadServer(t, file)
		in := input(t, s.url())
		runtime.ReadMemStats(&before)
		_, err := makeImage(t.Context(), in, new(logged))
		runtime.ReadMemStats(&after)
		wantError(t, err, KindIO, "takes more than 128.0 MiB of memory")
		if used := after.TotalAlloc - before.TotalAlloc; used > 64<<20 {
			t.Errorf("%s: refusing it took %d bytes", name, used)
		}
	}
}

// TestPackedByOthers: what the parallel programs write, and several files in one, are one image.
func TestPackedByOthers(t *testing.T) {
	content := diskContent(2<<20, 21)
	half := len(content) / 2
	for name, file := range map[string][]byte{
		"two gzip":  append(pack(t, "gzip", content[:half]), pack(t, "gzip", content[half:])...),
		"two bzip2": append(pack(t, "bzip2", content[:half]), pack(t, "bzip2", content[half:])...),
		"two xz":    append(pack(t, "xz", content[:half]), append(make([]byte, 8), pack(t, "xz", content[half:])...)...),
		"two zstd":  append(pack(t, "zstd", content[:half]), pack(t, "zstd", content[half:])...),
		"many xz":   pack(t, "xz", content, "-T2", "--block-size=300000"),
		"xz -9":     pack(t, "xz", content, "-9e"),
		"skippable": append([]byte("\x50\x2a\x4d\x18\x04\x00\x00\x00abcd"), pack(t, "zstd", content)...),
	} {
		wantContent(t, mustMake(t, input(t, write(t, filepath.Join(t.TempDir(), name), file))), content)
	}
}

// fuzzDisk fuzzes the reading of a foreign disk's headers.
func fuzzDisk(f *testing.F, format Format, name string, options ...string) {
	content := make([]byte, 64<<10)
	content[510], content[511] = 0x55, 0xaa
	b := convertTo(f, content, name, options...)
	f.Add(b)
	f.Add(b[:len(b)/2])
	f.Fuzz(func(t *testing.T, b []byte) {
		d, err := inspectForeign(format, bytes.NewReader(b), int64(len(b)))
		if err == nil && (d.size <= 0 || d.driver == "" || d.flat && d.size > int64(len(b))) {
			t.Errorf("%+v of %d bytes", d, len(b))
		}
	})
}

func FuzzVMDK(f *testing.F)       { fuzzDisk(f, VMDK, "vmdk") }
func FuzzVMDKStream(f *testing.F) { fuzzDisk(f, VMDK, "vmdk", "-o", "subformat=streamOptimized") }
func FuzzVDI(f *testing.F)        { fuzzDisk(f, VDI, "vdi") }
func FuzzVHD(f *testing.F)        { fuzzDisk(f, VHD, "vpc") }
func FuzzVHDFixed(f *testing.F)   { fuzzDisk(f, VHD, "vpc", "-o", "subformat=fixed") }

// FuzzVHDX fuzzes the table of metadata; the file around it is megabytes.
func FuzzVHDX(f *testing.F) {
	b := convertTo(f, make([]byte, 64<<10), "vhdx")
	meta := bytes.Index(b, []byte("metadata"))
	f.Add(b[vhdxRegions:vhdxRegions+512], b[meta:meta+512], b[meta+vhdxMetaBytes:meta+vhdxMetaBytes+64])
	f.Fuzz(func(t *testing.T, regions, table, items []byte) {
		file := make([]byte, vhdxRegions+vhdxRegionBytes+2*vhdxMetaBytes)
		copy(file[vhdxRegions:vhdxRegions+vhdxRegionBytes], regions)
		at := vhdxRegions + vhdxRegionBytes
		copy(file[at:at+vhdxMetaBytes], table)
		copy(file[at+vhdxMetaBytes:], items)
		d, err := inspectVHDX(bytes.NewReader(file), int64(len(file)))
		if err == nil && d.size <= 0 {
			t.Errorf("%+v", d)
		}
	})
}

// FuzzVMDKDescriptor: a text that is taken names no file that QEMU would follow.
func FuzzVMDKDescriptor(f *testing.F) {
	f.Add([]byte("parentCID=ffffffff\ncreateType=\"monolithicSparse\"\nRW 1 SPARSE \"a\"\n"))
	f.Add([]byte("parentFileNameHint=\"a\"\nRW 1 FLAT \"/a\" 0"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if err := checkVMDKDescriptor(b); err == nil && bytes.Contains(b, []byte("parentFileNameHint")) {
			t.Errorf("%q is taken", b)
		}
	})
}

// FuzzSums: what is found is a digest.
func FuzzSums(f *testing.F) {
	f.Add([]byte(strings.Repeat("a", 64)+"  disk\n"), "disk", false)
	f.Add([]byte("SHA256 (disk) = "+strings.Repeat("A", 64)), "disk", false)
	f.Add([]byte(strings.Repeat("0", 64)), "x", true)
	f.Fuzz(func(t *testing.T, b []byte, name string, alone bool) {
		if s, err := findSum(b, name, alone); err == nil && !isDigest(s) {
			t.Errorf("%q", s)
		}
	})
}

// FuzzContentRange: what is taken is a part of something.
func FuzzContentRange(f *testing.F) {
	f.Add("bytes 0-9/10")
	f.Add("bytes 5-9/*")
	f.Add("bytes */10")
	f.Fuzz(func(t *testing.T, s string) {
		from, total, err := parseContentRange(s)
		if err == nil && (from < 0 || total >= 0 && from >= total) {
			t.Errorf("%q is %d of %d", s, from, total)
		}
	})
}

// FuzzUnpack: no packed bytes make it fall over, or come to more than they may.
func FuzzUnpack(f *testing.F) {
	for format, program := range packers {
		f.Add(pack(f, program, []byte("an image")), string(format))
	}
	f.Fuzz(func(t *testing.T, b []byte, format string) {
		if !Format(format).packed() {
			return
		}
		packed := &counter{Reader: bytes.NewReader(b)}
		r, err := unpack(Format(format), packed)
		if err != nil {
			return
		}
		defer r.Close()
		const floor = 1 << 20
		n, _ := io.Copy(io.Discard, &bounded{unpacked: r, packed: packed, floor: floor})
		if n > floor+bombRatio*int64(len(b))+1<<20 {
			t.Errorf("%d bytes came out of %d", n, len(b))
		}
	})
}

// FuzzISO: no catalogue makes it fall over.
func FuzzISO(f *testing.F) {
	catalog := make([]byte, 96)
	catalog[0], catalog[32], catalog[64], catalog[65] = 1, 0x88, 0x91, 0xef
	f.Add(catalog)
	f.Fuzz(func(t *testing.T, b []byte) {
		if found := catalogFirmwares(b); len(found) > 2 {
			t.Errorf("%q", found)
		}
	})
}
