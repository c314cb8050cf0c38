package image

import (
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// shapes are the formats as qemu-img makes them, and what is made of them.
var shapes = []struct {
	name    string
	format  string
	options []string
	is      Format
	made    Format
}{
	{"raw", "raw", nil, Raw, Raw},
	{"qcow2", "qcow2", nil, QCOW2, QCOW2},
	{"qcow2 compressed", "qcow2", []string{"-c", "-o", "compression_type=zstd"}, QCOW2, QCOW2},
	{"vmdk", "vmdk", nil, VMDK, QCOW2},
	{"vmdk stream", "vmdk", []string{"-o", "subformat=streamOptimized"}, VMDK, QCOW2},
	{"vdi", "vdi", nil, VDI, QCOW2},
	{"vdi fixed", "vdi", []string{"-o", "static=on"}, VDI, QCOW2},
	{"vhd", "vpc", []string{"-o", "force_size=on"}, VHD, QCOW2},
	{"vhd fixed", "vpc", []string{"-o", "subformat=fixed,force_size=on"}, VHD, Raw},
	{"vhdx", "vhdx", nil, VHDX, QCOW2},
	{"vhdx fixed", "vhdx", []string{"-o", "subformat=fixed"}, VHDX, QCOW2},
}

// TestFormats makes an image of every format, packed in every way, from a file and from a server, and reads it as a guest would. A
// second start finds it.
func TestFormats(t *testing.T) {
	content := diskContent(2<<20, 1)
	for i, shape := range shapes {
		t.Run(shape.name, func(t *testing.T) {
			t.Parallel()
			plain := convertTo(t, content, shape.format, shape.options...)
			files := map[Format][]byte{"": plain}
			for format, program := range packers {
				files[format] = pack(t, program, plain)
			}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				http.ServeContent(w, r, "", time.Unix(1, 0), strings.NewReader(string(files[Format(strings.TrimPrefix(r.URL.Path, "/"))])))
			}))
			defer server.Close()
			for format, file := range files {
				path := write(t, filepath.Join(t.TempDir(), "disk.img"), file)
				sources := []string{path}
				if format == "" || format == []Format{Gzip, Bzip2, XZ, Zstd}[i%4] {
					sources = append(sources, server.URL+"/"+string(format))
				}
				for _, source := range sources {
					in := input(t, source)
					local := mustMake(t, in)
					wantContent(t, local, content)
					if local.Format != shape.made {
						t.Errorf("%q of %s became %s, want %s", format, source, local.Format, shape.made)
					}
					if source == path && format == "" && shape.is.usable() {
						if local.Path != path {
							t.Errorf("%s is used instead of %s", local.Path, path)
						}
						continue
					}
					wantFiles(t, in, sum(file)+"."+string(shape.made))
					again, err := plan(in)
					if err != nil || again.Pending() || len(again.Steps) > 0 || again.Local.Path != local.Path {
						t.Errorf("the second start plans %+v, %v", again, err)
					}
				}
			}
		})
	}
}

// TestHolesStay: what is empty takes no space, whatever it came through.
func TestHolesStay(t *testing.T) {
	const size = 16 << 20
	content := make([]byte, size)
	copy(content, diskContent(1<<20, 2))
	file := filepath.Join(t.TempDir(), "disk")
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, file) }))
	defer server.Close()
	for name, b := range map[string][]byte{"plain": content, "xz": pack(t, "xz", content), "fixed vhd": convertTo(t, content, "vpc", "-o", "subformat=fixed,force_size=on")} {
		write(t, file, b)
		local := mustMake(t, input(t, server.URL+"/"+name))
		wantContent(t, local, content)
		var st syscall.Stat_t
		if err := syscall.Stat(local.Path, &st); err != nil {
			t.Fatal(err)
		}
		if st.Blocks*512 > 2<<20 {
			t.Errorf("%s: takes %d bytes", name, st.Blocks*512)
		}
	}
}

// TestSparseWriter: no byte is lost between holes and data, wherever the writes are cut.
func TestSparseWriter(t *testing.T) {
	content := make([]byte, 9*hole+17)
	for _, i := range []int{0, hole - 1, 2*hole + 5, 6 * hole, 9*hole + 16} {
		content[i] = 1
	}
	for _, chunk := range []int{1, 7, 511, hole - 1, hole, hole + 1, 3 * hole, len(content)} {
		f, err := os.Create(filepath.Join(t.TempDir(), "f"))
		if err != nil {
			t.Fatal(err)
		}
		w := &sparseWriter{file: f}
		for at := 0; at < len(content); at += chunk {
			if n, err := w.Write(content[at:min(at+chunk, len(content))]); err != nil || n == 0 {
				t.Fatal(n, err)
			}
		}
		if err := w.finish(); err != nil {
			t.Fatal(err)
		}
		wantContent(t, &Local{Path: f.Name(), Format: Raw}, content)
		f.Close()
	}
}
