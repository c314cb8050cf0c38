package disk

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestNewQCOW2AgainstQEMU: an image that was made here is to qemu-img what one of its own is, grows, and keeps what a guest writes.
func TestNewQCOW2AgainstQEMU(t *testing.T) {
	dir := t.TempDir()
	raw := write(t, filepath.Join(dir, "base, with=odd:name"), pattern(512, 7)) // no larger than what lies on it: a larger disk would be filled with zeros then
	qcow2 := filepath.Join(dir, "base.qcow2")
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", raw, qcow2)
	const mib, gib, tib = 1 << 20, 1 << 30, 1 << 40
	for _, size := range []int64{512, mib, 512*mib - 512, 512 * mib, 512*mib + 512, 12 * gib, 4*tib - 512, 4 * tib, 4*tib + 512, 8 * tib, maxDiskSize} {
		for _, over := range []struct {
			backing string
			format  Format
		}{{"", ""}, {raw, FormatRaw}, {qcow2, FormatQCOW2}} {
			t.Run(fmt.Sprintf("%s over %q", sizeText(size), over.format), func(t *testing.T) {
				ours, theirs := filepath.Join(t.TempDir(), "ours"), filepath.Join(t.TempDir(), "theirs")
				f, err := os.Create(ours)
				if err != nil {
					t.Fatal(err)
				}
				if err := (newQCOW2{size, over.backing, over.format}).write(f); err != nil {
					t.Fatal(err)
				}
				f.Close()
				args := []string{"create", "-q", "-f", "qcow2", "-o", "compat=1.1,lazy_refcounts=off", theirs, fmt.Sprint(size)}
				if over.backing != "" {
					args = append(args, "-b", over.backing, "-F", string(over.format))
				}
				run(t, "qemu-img", args...)
				if diff := cmp.Diff(imgInfo(t, theirs), imgInfo(t, ours)); diff != "" {
					t.Errorf("-qemu-img's own +ours:\n%s", diff)
				}
				_, _, h := openParsed(t, ours)
				if diff := cmp.Diff(imgInfo(t, ours), h.info()); diff != "" {
					t.Errorf("header, -qemu-img +ours:\n%s", diff)
				}
				run(t, "qemu-img", "check", "-q", ours)
				if size <= 8*tib { // beyond, it takes its time
					if diff := cmp.Diff(run(t, "qemu-img", "map", "--output=json", theirs), run(t, "qemu-img", "map", "--output=json", ours)); diff != "" {
						t.Errorf("map, -of qemu-img's own +of ours:\n%s", diff)
					}
				}
				written := int(min(size, 64<<10))
				guestWrites(t, ours, 0xaa, int(size)-written, written)
				if size < maxDiskSize {
					run(t, "qemu-img", "resize", "-q", "-f", "qcow2", ours, fmt.Sprint(size+5*tib))
				}
				guestReads(t, ours, 0xaa, int(size)-written, written)
				run(t, "qemu-img", "check", "-q", ours)
			})
		}
	}
}

// TestNewQCOW2Refuses: what the format cannot describe is not made.
func TestNewQCOW2Refuses(t *testing.T) {
	for _, q := range []newQCOW2{{size: maxDiskSize + 1}, {size: 512, backing: "/" + string(make([]byte, maxBackingName)), format: FormatRaw}} {
		f, err := os.Create(filepath.Join(t.TempDir(), "image"))
		if err != nil {
			t.Fatal(err)
		}
		if err := q.write(f); err == nil {
			t.Errorf("a disk of %d bytes over a name of %d bytes is made", q.size, len(q.backing))
		}
		f.Close()
	}
}
