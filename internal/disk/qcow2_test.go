package disk

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// made is a way to make a qcow2 image from the raw file IN.
type made struct {
	name string
	args []string // of qemu-img, with IN and OUT
}

var imagesMade = []made{
	{"v3 default", []string{"convert", "-f", "raw", "-O", "qcow2", "IN", "OUT"}},
	{"v2", []string{"convert", "-f", "raw", "-O", "qcow2", "-o", "compat=0.10", "IN", "OUT"}},
	{"clusters of 512", []string{"convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=512", "IN", "OUT"}},
	{"clusters of 2M", []string{"convert", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=2M", "IN", "OUT"}},
	{"zlib", []string{"convert", "-c", "-f", "raw", "-O", "qcow2", "IN", "OUT"}},
	{"zlib, clusters of 2M", []string{"convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=2M", "IN", "OUT"}},
	{"zlib, v2, clusters of 4k", []string{"convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "cluster_size=4k,compat=0.10", "IN", "OUT"}},
	{"zstd", []string{"convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd", "IN", "OUT"}},
	{"zstd, clusters of 2M", []string{"convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "compression_type=zstd,cluster_size=2M", "IN", "OUT"}},
	{"extended L2", []string{"convert", "-f", "raw", "-O", "qcow2", "-o", "extended_l2=on,cluster_size=128k", "IN", "OUT"}},
	{"extended L2, zstd", []string{"convert", "-c", "-f", "raw", "-O", "qcow2", "-o", "extended_l2=on,compression_type=zstd", "IN", "OUT"}},
	{"lazy reference counts of 64 bits", []string{"convert", "-f", "raw", "-O", "qcow2", "-o", "lazy_refcounts=on,refcount_bits=64", "IN", "OUT"}},
	{"metadata preallocated", []string{"convert", "-f", "raw", "-O", "qcow2", "-o", "preallocation=metadata", "IN", "OUT"}},
}

// sparse is content with data, zeros, and things that compress.
func sparse() []byte {
	b := make([]byte, 5<<20+1536)
	copy(b, pattern(300<<10, 7))
	copy(b[1<<20:], bytes.Repeat([]byte("vmentry "), 60000))
	copy(b[4<<20+512:], pattern(100<<10, 8))
	return b
}

func (m made) make(t *testing.T, in, out string) {
	t.Helper()
	args := make([]string, len(m.args))
	for i, a := range m.args {
		args[i] = strings.NewReplacer("IN", in, "OUT", out).Replace(a)
	}
	run(t, "qemu-img", args...)
}

func openParsed(t *testing.T, path string) (*os.File, int64, *qcow2Header) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	h, err := parseQCOW2(f, st.Size())
	if err != nil {
		t.Fatal(err)
	}
	return f, st.Size(), h
}

func TestQCOW2AgainstQEMU(t *testing.T) {
	content := sparse()
	in := write(t, filepath.Join(t.TempDir(), "in"), content)
	for _, m := range imagesMade {
		t.Run(m.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			m.make(t, in, path)
			f, size, h := openParsed(t, path)
			if diff := cmp.Diff(imgInfo(t, path), h.info()); diff != "" {
				t.Errorf("header, -qemu-img +ours:\n%s", diff)
			}
			if err := h.refuseBase(path); err != nil {
				t.Errorf("refused: %v", err)
			}
			if err := h.checkExtent(f, size); err != nil {
				t.Errorf("extent: %v", err)
			}
			got, err := io.ReadAll(io.NewSectionReader(&qcow2Reader{file: f, fileSize: size, header: h}, 0, h.size))
			if err != nil || !bytes.Equal(got, content) {
				t.Errorf("the guest's %d bytes differ from the %d that went in (%v)", len(got), len(content), err)
			}
		})
	}
}

// info brings a header into qemu-img's words.
func (h *qcow2Header) info() info {
	var i info
	i.Format, i.VirtualSize, i.ClusterSize, i.Encrypted = "qcow2", h.size, h.clusterSize(), h.crypt != 0
	i.Backing, i.BackingFormat = h.backing, h.backingFormat
	i.Dirty = h.incompatible&incompatDirty != 0
	d := &i.Specific.Data
	d.Compat = "0.10"
	d.RefcountBits = 1 << h.refcountOrder
	d.CompressionType = "zlib"
	if h.version == 3 {
		d.Compat = "1.1"
		d.LazyRefcounts = h.compatible&1 != 0
		d.Corrupt = h.incompatible&incompatCorrupt != 0
		d.ExtendedL2 = h.incompatible&incompatExtendedL2 != 0
	}
	if h.compression == compressionZstd {
		d.CompressionType = "zstd"
	}
	d.DataFile = h.dataFile
	if h.version == 2 {
		d.RefcountBits = 16
	}
	return i
}

func TestReferencesAgainstQEMU(t *testing.T) {
	dir := t.TempDir()
	base := write(t, filepath.Join(dir, "base, with=odd:name"), sparse())
	for name, args := range map[string][]string{
		"backing raw":   {"create", "-f", "qcow2", "-b", base, "-F", "raw"},
		"data file":     {"create", "-f", "qcow2", "-o", "data_file=" + filepath.Join(dir, "data"), "-q"},
		"raw data file": {"create", "-f", "qcow2", "-o", "data_file_raw=on,data_file=" + filepath.Join(dir, "data2"), "-q"},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "out")
			run(t, "qemu-img", append(args, path, "8M")...)
			want := imgInfo(t, path)
			want.Specific.Data.RefcountBits = 16
			_, _, h := openParsed(t, path)
			if diff := cmp.Diff(want, h.info()); diff != "" {
				t.Errorf("-qemu-img +ours:\n%s", diff)
			}
			if err := h.refuseBase(path); err == nil {
				t.Error("taken as a base image")
			}
		})
	}
}

// header makes a small image that is legal, for tables of what is not.
func goodHeader() []byte {
	b := make([]byte, 4<<16)
	be := binary.BigEndian
	copy(b, qcow2Magic)
	be.PutUint32(b[4:], 3)
	be.PutUint32(b[20:], 16)
	be.PutUint64(b[24:], 1<<30)
	be.PutUint32(b[36:], 2)
	be.PutUint64(b[40:], 3<<16)
	be.PutUint64(b[48:], 1<<16)
	be.PutUint32(b[56:], 1)
	be.PutUint32(b[96:], 4)
	be.PutUint32(b[100:], 104)
	return b
}

func put32(off int, v uint32) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint32(b[off:], v); return b }
}

func put64(off int, v uint64) func([]byte) []byte {
	return func(b []byte) []byte { binary.BigEndian.PutUint64(b[off:], v); return b }
}

func both(f, g func([]byte) []byte) func([]byte) []byte {
	return func(b []byte) []byte { return g(f(b)) }
}

func extension(kind uint32, data string) func([]byte) []byte {
	return func(b []byte) []byte {
		at := 104
		for length := binary.BigEndian.Uint32(b[at+4:]); length != 0; length = binary.BigEndian.Uint32(b[at+4:]) {
			at += 8 + int(length+7)&^7
		}
		binary.BigEndian.PutUint32(b[at:], kind)
		binary.BigEndian.PutUint32(b[at+4:], uint32(len(data)))
		copy(b[at+8:], data)
		return b
	}
}

func backing(name string) func([]byte) []byte {
	return func(b []byte) []byte {
		copy(b[1024:], name)
		return both(put64(8, 1024), put32(16, uint32(len(name))))(b)
	}
}

func TestHostileHeaders(t *testing.T) {
	for _, tt := range []struct {
		name string
		edit func([]byte) []byte
		want string // in the message; empty: legal
	}{
		{"OK", func(b []byte) []byte { return b }, ""},
		{"OK unknown extension", extension(0x12345678, "whatever"), ""},
		{"OK dirty", put64(72, incompatDirty), ""},
		{"OK unknown compatible bit", put64(80, 1<<40), ""},
		{"bad version", put32(4, 4), "version 4"},
		{"bad cut in the header", func(b []byte) []byte { return b[:90] }, "cut short"},
		{"bad cut in the L1 table", func(b []byte) []byte { return b[:3<<16+8] }, "cut short"},
		{"bad cluster_bits small", put32(20, 8), "cluster_bits"},
		{"bad cluster_bits large", put32(20, 22), "cluster_bits"},
		{"bad cluster_bits absurd", put32(20, 0xffffffff), "cluster_bits"},
		{"bad size negative", put64(24, 1<<63), "size or offset"},
		{"bad size over the L1 table", put64(24, 2<<30), "L1 entries"},
		{"bad size absurd", put64(24, 1<<63-1), "L1 entries"},
		{"bad L1 too large", put32(36, 0xffffffff), "L1 table of"},
		{"bad L1 outside", put64(40, 1<<40), "L1 table ends"},
		{"bad L1 overflows", put64(40, 1<<63-1<<16), "L1 table ends"},
		{"bad L1 unaligned", put64(40, 3<<16+8), "L1 table is at"},
		{"bad L1 in the header", put64(40, 0), "L1 table is at"},
		{"bad refcounts outside", put64(48, 1<<32), "reference count table ends"},
		{"bad refcounts none", put32(56, 0), "reference count table of 0"},
		{"bad refcounts many", put32(56, 1<<31), "reference count table of"},
		{"bad refcount_order", put32(96, 7), "refcount_order"},
		{"bad header length short", put32(100, 72), "header length"},
		{"bad header length odd", put32(100, 107), "header length"},
		{"bad header length long", put32(100, 1<<20), "header length"},
		{"bad a million snapshots", put32(60, 1000000), "1000000 snapshots"},
		{"bad snapshots outside", both(put32(60, 5), put64(64, 1<<40)), "snapshot table"},
		{"bad compression bit alone", put64(72, incompatCompression), "compression type"},
		{"bad extension too long", both(put32(104, extensionDataFile), put32(108, 1<<30)), "does not fit"},
		{"bad extension twice", both(extension(extensionDataFile, "a"), extension(extensionDataFile, "b")), "twice"},
		{"bad backing name long", both(backing("x"), put32(16, 1024)), "backing file name"},
		{"bad backing name outside", both(backing("x"), put64(8, 1<<30)), "backing file name"},
		{"bad backing name in the header", both(backing("x"), put64(8, 4)), "backing file name"},
		{"bad size zero", put64(24, 0), "no bytes"},
		{"bad backing /etc/shadow", backing("/etc/shadow"), `"/etc/shadow"`},
		{"bad backing json", backing(`json:{"driver":"nbd"}`), "json:"},
		{"bad data file bit", put64(72, incompatDataFile), "external data file"},
		{"bad data file extension", extension(extensionDataFile, "/etc/shadow"), `"/etc/shadow"`},
		{"bad raw data file bit", put64(88, autoclearDataFileRaw), "external data file"},
		{"bad AES", put32(32, 1), "encrypted"},
		{"bad LUKS", put32(32, 2), "encrypted"},
		{"bad corrupt", put64(72, incompatCorrupt), "corrupt"},
		{"bad unknown feature", put64(72, 1<<5), "bit 5"},
		{"bad unknown feature with a name", both(put64(72, 1<<9), extension(extensionFeatureNames, "\x00\x09"+"teleport"+strings.Repeat("\x00", 38))), `"teleport"`},
		{"bad data behind the end", func(b []byte) []byte { return put64(2<<16, 1<<40|1<<63)(put64(3<<16, 2<<16)(b)) }, "behind its own end"},
		{"bad compressed data behind the end", func(b []byte) []byte { return put64(2<<16, 1<<30|entryCompressed)(put64(3<<16, 2<<16)(b)) }, "behind its own end"},
		{"bad L2 behind the end", put64(3<<16, 1<<40), "behind its own end"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := write(t, filepath.Join(t.TempDir(), "innocent.img"), tt.edit(goodHeader()))
			_, err := inspectImage(path, FormatQCOW2)
			checkError(t, err, KindIO, tt.want)
		})
	}
}

// checkError compares an error with a kind and a part of its message; an empty part is no error.
func checkError(t *testing.T, err error, kind Kind, part string) {
	t.Helper()
	var ours *Error
	switch {
	case part == "" && err != nil:
		t.Errorf("error %v", err)
	case part == "":
	case !errors.As(err, &ours):
		t.Errorf("error %v of type %T, want one with %q", err, err, part)
	case ours.Kind != kind || !strings.Contains(err.Error(), part):
		t.Errorf("%v error %q, want %v with %q", ours.Kind, err, kind, part)
	}
}

func TestTruncatedDownload(t *testing.T) {
	dir := t.TempDir()
	in := write(t, filepath.Join(dir, "in"), pattern(8<<20, 3))
	for _, m := range imagesMade[:9] {
		path := filepath.Join(t.TempDir(), "out")
		m.make(t, in, path)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, percent := range []int{1, 10, 30, 50, 70} {
			write(t, path, whole[:len(whole)*percent/100])
			if _, err := inspectImage(path, FormatQCOW2); err == nil {
				t.Errorf("%s: %d %% of it are taken for the whole", m.name, percent)
			}
		}
	}
}

// smallImage is a legal image of 5 clusters of 512 bytes: header, reference counts, L1 table, L2 table, and data that are a
// packed boot record.
func smallImage() []byte {
	b := append(goodHeader()[:2048], make([]byte, 512)...)
	clear(b[512:])
	be := binary.BigEndian
	be.PutUint32(b[20:], 9)
	be.PutUint64(b[24:], 1<<14)
	be.PutUint32(b[36:], 1)
	be.PutUint64(b[40:], 1024)
	be.PutUint64(b[48:], 512)
	be.PutUint64(b[1024:], 1536)
	sector := make([]byte, 512)
	sector[0], sector[450], sector[510], sector[511] = 0xeb, mbrTypeProtective, 0x55, 0xaa
	var packed bytes.Buffer
	w, _ := flate.NewWriter(&packed, flate.BestCompression)
	_, _ = w.Write(sector)
	_ = w.Close()
	copy(b[2048:], packed.Bytes())
	return b
}

func TestSmallImage(t *testing.T) {
	b := put64(1536, 2048|entryCompressed)(smallImage())
	h, err := parseQCOW2(bytes.NewReader(b), int64(len(b)))
	if err != nil {
		t.Fatal(err)
	}
	hints := readBootHints(&qcow2Reader{file: bytes.NewReader(b), fileSize: int64(len(b)), header: h}, h.size)
	if diff := cmp.Diff(BootHints{MBR: true, MBRCode: true}, hints); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

// FuzzQCOW2 reads whatever comes as an image: no panic, no endless reading, nothing outside.
func FuzzQCOW2(f *testing.F) {
	for _, edit := range []func([]byte) []byte{
		put64(1536, 2048), put64(1536, entryZero), put64(1536, 2048|entryCompressed),
		both(put64(1536, 2048|entryCompressed), both(put64(72, incompatCompression), both(put32(100, 112), put32(104, compressionZstd<<24)))),
		put32(4, 2), extension(extensionDataFile, "x"), extension(extensionFeatureNames, strings.Repeat("\x00\x05name", 20)),
		func(b []byte) []byte { copy(b[400:], "/etc/shadow"); return both(put64(8, 400), put32(16, 11))(b) },
	} {
		f.Add(edit(smallImage()))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		r, size := bytes.NewReader(b), int64(len(b))
		h, err := parseQCOW2(r, size)
		if err != nil {
			if !errors.Is(err, errQCOW2) {
				t.Errorf("error %v is not about the content", err)
			}
			return
		}
		_ = h.refuseBase("x")
		for _, mode := range []Mode{ModeOverlay, ModeCopy} {
			d := GuestDisk{Record: Record{Mode: mode}}
			if d.take(h); d.Flaw == "" && h.hasBacking != (mode == ModeOverlay) {
				t.Errorf("used as %s with the backing file %q", mode, h.backing)
			}
		}
		_ = h.checkExtent(r, size)
		readBootHints(&qcow2Reader{file: r, fileSize: size, header: h}, h.size)
	})
}
