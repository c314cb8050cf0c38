package images

import (
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// released are versions after the pinned ones, and what changes in the URLs of images beside them.
var released = map[string]struct{ version, in string }{
	"alpine":        {"3.24.1", "3.24"},
	"centos-stream": {"10-20991230.0", ""},
	"cirros":        {"0.7.0", ""},
	"fedora-coreos": {"45.20991230.3.0", ""},
	"flatcar":       {"5000.2.0", ""},
	"ubuntu":        {"26.04-20991230", ""},
}

// newer are the URLs of a vendor's newer release.
func (r *repo) newer(name string) map[string]string {
	urls := map[string]string{}
	for arch, url := range r.urls(name) {
		old, next := r.pin(name, arch, "version"), released[name].version
		if in := released[name].in; in != "" {
			url = strings.Replace(url, "/v"+old[:strings.LastIndex(old, ".")]+"/", "/v"+in+"/", 1)
		}
		if name == "ubuntu" { // the release is no part of the folder's name
			old, next = strings.TrimPrefix(old, "26.04-"), strings.TrimPrefix(next, "26.04-")
		}
		urls[arch] = strings.ReplaceAll(url, old, next)
	}
	return urls
}

// release has the vendor publish it.
func (r *repo) release(name string, k *key) map[string]string {
	r.t.Helper()
	urls := r.newer(name)
	for _, url := range urls {
		r.site.put(r.t, url, smallDisk(r.t, url))
	}
	r.site.publish(r.t, name, released[name].version, urls, k)
	return urls
}

// files are all files of the repo outside of its cache, with what is in them.
func (r *repo) files() map[string]string {
	all := map[string]string{}
	filepath.WalkDir(r.dir, func(file string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			r.t.Error(err)
		case d.IsDir() && d.Name() == "cache":
			return filepath.SkipDir
		case !d.IsDir():
			all[strings.TrimPrefix(file, r.dir+"/")] = r.read(file)
		}
		return nil
	})
	return all
}

// TestUpdate: the pins follow what the vendors publish, and nothing else changes.
func TestUpdate(t *testing.T) {
	t.Parallel()
	r, k := published(t)
	// Pins as they are read are pins as they are written; what has no digest yet gets one.
	before := r.files()
	r.works("update")
	for name, text := range r.files() {
		if text != before[name] && name != "images/flatcar/pins" {
			t.Errorf("%s has changed, and the vendor has nothing newer:\n%s", name, text)
		}
	}

	before = r.files()
	urls := map[string]map[string]string{}
	for _, name := range vendors {
		urls[name] = r.release(name, k)
	}
	r.works("update")
	for _, name := range vendors {
		for _, arch := range archs {
			if got := r.pin(name, arch, "version"); got != released[name].version {
				t.Errorf("%s for %s: version %s", name, arch, got)
			}
			if got := r.pin(name, arch, "url"); got != urls[name][arch] {
				t.Errorf("%s for %s: %s, and not %s", name, arch, got, urls[name][arch])
			}
			if got, want := r.pin(name, arch, digestName(name)), digest(name, r.site.get(t, urls[name][arch])); got != want {
				t.Errorf("%s for %s: digest %s, and not %s", name, arch, got, want)
			}
		}
		r.works("fetch", name, "arm64")
		before["images/"+name+"/pins"] = r.read(r.pinsFile(name))
	}
	if after := r.files(); !maps.Equal(before, after) {
		t.Error("more than the pins has changed")
	}
}

// TestUpdateRefuses: pins stay as they are when what was read cannot be verified, and the others move all the same.
func TestUpdateRefuses(t *testing.T) {
	t.Parallel()
	r, k := published(t)
	other := newKey(t, "Other <other@example.org>")
	good := map[string]bool{"cirros": true}
	for _, name := range vendors {
		r.release(name, k)
	}
	for name, fault := range map[string]func(urls map[string]string){
		"alpine":        func(urls map[string]string) { r.site.put(t, urls["arm64"]+".sha512", []byte("<html>")) },
		"centos-stream": func(urls map[string]string) { r.site.remove(t, urls["arm64"]) },
		"fedora-coreos": func(urls map[string]string) {
			r.site.put(t, urls["arm64"]+".sig", other.sign(r.site.get(t, urls["arm64"])))
		},
		"flatcar": func(urls map[string]string) { r.site.put(t, urls["amd64"], smallDisk(t, "")) },
		"ubuntu": func(urls map[string]string) {
			sums := strings.TrimSuffix(urls["amd64"], path.Base(urls["amd64"])) + "SHA256SUMS"
			r.site.put(t, sums, append(r.site.get(t, sums), '\n'))
		},
	} {
		fault(r.newer(name))
	}
	before := r.files()
	_, said, err := r.run("update")
	if err == nil || !strings.Contains(said, "error: not moved: alpine centos-stream fedora-coreos flatcar ubuntu.") {
		t.Errorf("update: %v\n%s", err, said)
	}
	after := r.files()
	for name, text := range before {
		if moved := after[name] != text; moved != good[strings.TrimSuffix(strings.TrimPrefix(name, "images/"), "/pins")] {
			t.Errorf("%s: moved: %v", name, moved)
		}
	}
	if len(after) != len(before) {
		t.Error("there are other files than before")
	}

	os.RemoveAll(r.site.file("https://cloud-images.ubuntu.com/releases/resolute/"))
	r.fails([]string{"cannot fetch", "the vendor's site is not what it was"}, "update", "ubuntu")
	r.fails([]string{"no images/beos/newest.sh", "ubuntu"}, "update", "beos")
}
