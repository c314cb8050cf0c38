package image

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
)

// TestClean: an image goes when no qcow2 of the data directory names it, in whatever words, and not before.
func TestClean(t *testing.T) {
	name := func(i int) string { return sum([]byte{byte(i)}) + ".raw" }
	for _, tt := range []struct {
		what string
		make func(t *testing.T, data, image string)
		stay bool
	}{
		{"nothing", func(t *testing.T, data, image string) {}, false},
		{"the overlay", func(t *testing.T, data, image string) {
			overlay(t, filepath.Join(data, "disk", "overlay.qcow2"), image)
		}, true},
		{"an old overlay that was kept aside", func(t *testing.T, data, image string) {
			overlay(t, filepath.Join(data, "disk.old-1", "2026", "overlay.qcow2"), image)
		}, true},
		{"a reference in JSON", func(t *testing.T, data, image string) {
			overlay(t, filepath.Join(data, "x"), fmt.Sprintf(`json:{"driver":"raw","file":{"driver":"file","filename":"%s"}}`, image))
		}, true},
		{"a relative reference", func(t *testing.T, data, image string) {
			overlay(t, filepath.Join(data, "disk", "overlay.qcow2"), "../images/"+filepath.Base(image))
		}, true},
		{"an overlay of another image", func(t *testing.T, data, image string) {
			overlay(t, filepath.Join(data, "disk", "overlay.qcow2"), "/elsewhere/disk.raw")
		}, false},
		{"a bad header", func(t *testing.T, data, image string) {
			write(t, filepath.Join(data, "broken"), []byte("QFI\xfb\x00\x00\x00\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"))
		}, true},
	} {
		t.Run(tt.what, func(t *testing.T) {
			data := t.TempDir()
			current, old := filepath.Join(data, dirName, name(1)), filepath.Join(data, dirName, name(2))
			for _, path := range []string{current, old, filepath.Join(data, dirName, "blank.raw"), filepath.Join(data, dirName, "mine.raw")} {
				write(t, path, make([]byte, 4096))
			}
			tt.make(t, data, old)
			removed, err := Clean(data, current)
			if _, statErr := os.Stat(old); (statErr == nil) != tt.stay || len(removed) > 0 == tt.stay {
				t.Errorf("removed %q, %v", removed, err)
			}
			for _, path := range []string{current, filepath.Join(data, dirName, "blank.raw"), filepath.Join(data, dirName, "mine.raw")} {
				if _, err := os.Stat(path); err != nil {
					t.Error(err)
				}
			}
		})
	}
	if removed, err := Clean(t.TempDir(), ""); err != nil || removed != nil {
		t.Errorf("without images: %q, %v", removed, err)
	}
}

func overlay(t *testing.T, path, backing string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	command(t, "qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", backing, "-F", "raw", path, "1M")
}

// TestLeftovers: what a cut-off start has left goes, but for what can be gone on with.
func TestLeftovers(t *testing.T) {
	content := diskContent(1<<20, 30)
	s := newBadServer(t, content)
	in := input(t, s.url())
	dir := filepath.Join(in.DataDir, dirName)
	key := sourceKey(in, nil)
	for _, name := range []string{".0123.new-55", ".0123.part", ".0123.part.json", ".0123.json.new-1", "mine"} {
		write(t, filepath.Join(dir, name), []byte("x"))
	}
	// and a part that does not fit the server's file any more
	write(t, filepath.Join(dir, "."+key+".part"), make([]byte, 1000))
	write(t, filepath.Join(dir, "."+key+".part.json"), []byte(`{"offset":1000,"size":5000,"etag":"\"old\""}`))
	wantContent(t, mustMake(t, in), content)
	wantFiles(t, in, sorted(sum(content)+".raw", "mine")...)
}

// TestLocalSources: a directory with one image, a link, and a file that moved.
func TestLocalSources(t *testing.T) {
	content := diskContent(1<<20, 31)
	dir := t.TempDir()
	packed := pack(t, "xz", content)
	path := write(t, filepath.Join(dir, "one", "disk.raw.xz"), packed)
	write(t, filepath.Join(dir, "one", "SHA256SUMS"), []byte(sum(packed)+"  disk.raw.xz\n"))
	in := input(t, filepath.Join(dir, "one"))
	in.Digest = DigestAuto
	first := mustMake(t, in)
	wantContent(t, first, content)

	// the same content in a new file: read, not unpacked
	write(t, path+".new", packed)
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
	in.Digest = ""
	unpacked := 0
	again := mustMake(t, in, func(a *applier) {
		a.step = func(done string) {
			if done == "temporary made" {
				unpacked++
			}
		}
	})
	if again.Path != first.Path || unpacked > 0 {
		t.Errorf("the new copy was unpacked again (%d) to %s", unpacked, again.Path)
	}
	if p, err := plan(in); err != nil || len(p.Steps) > 0 {
		t.Errorf("and it is not known afterwards: %+v %v", p.Steps, err)
	}
	// another content in its place
	other := diskContent(1<<20, 32)
	write(t, path, pack(t, "xz", other))
	wantContent(t, mustMake(t, in), other)

	write(t, filepath.Join(dir, "one", "another"), content)
	_, err := plan(in)
	wantError(t, err, KindConfig, "2 images in")
	link := filepath.Join(dir, "link")
	if err := os.Symlink(write(t, filepath.Join(dir, "target"), content), link); err != nil {
		t.Fatal(err)
	}
	if local := mustMake(t, input(t, link)); local.Path != link {
		t.Errorf("the link became %s", local.Path)
	}
	in = input(t, link)
	in.Digest = sum(other)
	_, err = makeImage(t.Context(), in, new(logged))
	wantError(t, err, KindIO, "its SHA-256 is "+sum(content))
	_, err = plan(input(t, "/nowhere/at all"))
	wantError(t, err, KindConfig, "no such file")
	_, err = plan(input(t, "/dev/null"))
	wantError(t, err, KindConfig, "it is none of these")
}
