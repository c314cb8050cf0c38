package container

import (
	"archive/tar"
	"bufio"
	"compress/gzip"
	"encoding/json"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
)

// most is how large the base image may be, in bytes.
const most = 150_000_000

// TestFiles: the image has the files of images/base/files and no others, besides the guest's disk. It is small, and what changes with vmentry is a layer of its own.
func TestFiles(t *testing.T) {
	t.Parallel()
	list := readList(t)
	layers, status := layersOf(t)
	found := map[string]bool{} // patterns, and the folders above what they stand for
	var folders []string
	size := int64(0)
	for _, layer := range layers {
		for name, h := range layer {
			if path.Dir(name) == "/image" {
				continue
			}
			size += h.Size
			i := slices.IndexFunc(list, func(l listed) bool { return l.stands(name) })
			switch {
			case i >= 0:
				found[list[i].pattern] = true
				for dir := path.Dir(name); dir != "/"; dir = path.Dir(dir) {
					found[dir] = true
				}
			case h.FileInfo().IsDir():
				folders = append(folders, name)
			default:
				t.Errorf("%s is in the image, and images/base/files does not say what for", name)
			}
		}
		if _, ok := layer["/usr/bin/vmentry"]; ok {
			for name, h := range layer {
				if name != "/usr/bin/vmentry" && !h.FileInfo().IsDir() {
					t.Errorf("%s is in the layer of vmentry's binary", name)
				}
			}
		}
	}
	for _, name := range folders {
		if !found[name] && name != "/" {
			t.Errorf("the folder %s is in the image, and images/base/files does not say what for", name)
		}
	}
	for _, l := range list {
		if l.library || l.from != "-" && !status[l.from] || strings.HasPrefix(l.why, "amd64:") && runtime.GOARCH != "amd64" {
			continue // it need not be
		}
		if !found[l.pattern] {
			t.Errorf("%s is not in the image; images/base/files says that it is there for: %s", l.pattern, l.why)
		}
	}
	for name := range status {
		if !slices.ContainsFunc(list, func(l listed) bool { return l.from == name }) {
			t.Errorf("the image says that it has the package %s, of which images/base/files has nothing", name)
		}
	}
	t.Logf("%.1f MB", float64(size)/1e6)
	if size > most {
		t.Errorf("the image has %d bytes without its disk, more than %d", size, most)
	}
}

// listed is a line of images/base/files.
type listed struct {
	pattern, from, why string
	library            bool
}

func (l listed) stands(name string) bool {
	ok, _ := path.Match(l.pattern, name)
	return ok
}

func readList(t *testing.T) (list []listed) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("..", "..", "images", "base", "files"))
	if err != nil {
		t.Fatal(err)
	}
	section := ""
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		switch {
		case len(words) == 0 || words[0] == "#":
		case strings.HasPrefix(words[0], "["):
			section = words[0]
		case len(words) < 3:
			t.Errorf("images/base/files says no package, or not what for: %s", line)
		default:
			list = append(list, listed{words[0], words[1], strings.Join(words[2:], " "), section == "[libraries]"})
		}
	}
	return list
}

// layersOf are the files of the image, a map for each of its layers, and the Debian packages that it says it has.
func layersOf(t *testing.T) (layers []map[string]*tar.Header, packages map[string]bool) {
	t.Helper()
	archive := filepath.Join(t.TempDir(), "image.tar")
	command(t, "save", "--output", archive, image)
	var manifest []struct{ Layers []string }
	within(t, archive, func(h *tar.Header, content io.Reader) {
		if h.Name == "manifest.json" {
			if err := json.NewDecoder(content).Decode(&manifest); err != nil {
				t.Fatal(err)
			}
		}
	})
	if len(manifest) != 1 {
		t.Fatalf("%s has saved %d images", engine, len(manifest))
	}
	packages = map[string]bool{}
	within(t, archive, func(h *tar.Header, content io.Reader) {
		if !slices.Contains(manifest[0].Layers, h.Name) || h.Typeflag != tar.TypeReg {
			return
		}
		layer := map[string]*tar.Header{}
		each(t, content, func(h *tar.Header, content io.Reader) {
			name := path.Join("/", h.Name)
			layer[name] = h
			if name == "/var/lib/dpkg/status" {
				for s := bufio.NewScanner(content); s.Scan(); {
					if p, ok := strings.CutPrefix(s.Text(), "Package: "); ok {
						packages[p] = true
					}
				}
			}
		})
		layers = append(layers, layer)
	})
	return layers, packages
}

// within calls do for each file of an archive.
func within(t *testing.T, archive string, do func(h *tar.Header, content io.Reader)) {
	t.Helper()
	f, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	each(t, f, do)
}

// each is within for an archive that is read, packed or not.
func each(t *testing.T, archive io.Reader, do func(h *tar.Header, content io.Reader)) {
	t.Helper()
	r := bufio.NewReader(archive)
	archive = r
	if magic, _ := r.Peek(2); string(magic) == "\x1f\x8b" {
		unpacked, err := gzip.NewReader(r)
		if err != nil {
			t.Fatal(err)
		}
		archive = unpacked
	}
	for files := tar.NewReader(archive); ; {
		h, err := files.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		do(h, files)
	}
}
