package images

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/transcript"
)

// unpinned are images for which no digest is known yet; a build refuses them.
var unpinned = map[string]bool{"flatcar arm64": true}

// TestPins: the real pins are what the scripts take them for.
func TestPins(t *testing.T) {
	t.Parallel()
	r := newRepo(t, newSite(t))
	line := regexp.MustCompile(`^(#.*|key [0-9A-F]{40} https://\S+( /usr/share/\S+)?|(amd64|arm64) (version [A-Za-z0-9._-]+|(url|signature|sums) https://\S+|sha256 [0-9a-f]{64}|sha512 [0-9a-f]{128})|)$`)
	for _, name := range vendors {
		for _, l := range strings.Split(r.read(r.pinsFile(name)), "\n") {
			if !line.MatchString(l) {
				t.Errorf("images/%s/pins has %q", name, l)
			}
		}
		for _, arch := range archs {
			if r.pin(name, arch, "version") == "" || r.pin(name, arch, "url") == "" {
				t.Errorf("%s has no version or URL for %s", name, arch)
			}
			if pinned := r.pin(name, arch, digestName(name)) != ""; pinned == unpinned[name+" "+arch] {
				t.Errorf("%s for %s: pinned: %v", name, arch, pinned)
			}
			if (r.pin(name, arch, "signature") != "") != r.signs(name) {
				t.Errorf("%s for %s has a signature and no key, or a key and no signature", name, arch)
			}
		}
		if user := r.read(filepath.Join(r.dir, "images", name, "user")); !regexp.MustCompile(`^[a-z-]+\n$`).MatchString(user) {
			t.Errorf("images/%s/user has %q", name, user)
		}
	}
	for missing := range unpinned {
		name, arch, _ := strings.Cut(missing, " ")
		r.fails([]string{name, "is not pinned", "make update-images NAME=" + name}, "fetch", name, arch)
	}
	if asked := r.site.asked(); asked != nil {
		t.Errorf("the site was asked: %q", asked)
	}
}

// TestFetch fetches every vendor's images, and again without a network.
func TestFetch(t *testing.T) {
	t.Parallel()
	r, k := published(t)
	for _, name := range vendors {
		for _, arch := range archs {
			disk := r.works("fetch", name, arch)
			head := r.read(disk)[:4]
			if head != "QFI\xfb" {
				t.Errorf("%s for %s: the disk begins with %q", name, arch, head)
			}
			signer := filepath.Join(filepath.Dir(disk), "signed-by")
			if r.signs(name) {
				if got := strings.TrimSpace(r.read(signer)); got != k.fingerprint {
					t.Errorf("%s for %s: signed by %s", name, arch, got)
				}
			} else if exists(signer) {
				t.Errorf("%s for %s is signed", name, arch)
			}
			r.site.asked()
			if again := r.works("fetch", name, arch); again != disk {
				t.Errorf("%s for %s: %s, then %s", name, arch, disk, again)
			}
			if asked := r.site.asked(); asked != nil {
				t.Errorf("%s for %s: the second time the site was asked: %q", name, arch, asked)
			}
		}
	}

	// Another key: what is there is verified again.
	other := newKey(t, "Other <other@example.org>")
	r.trust("flatcar", other)
	r.fails([]string{"does not have"}, "fetch", "flatcar", "amd64")

	// Another release: what is no longer pinned goes.
	old := r.image("alpine", "amd64")
	image := smallDisk(t, "")
	r.pinTo("alpine", "amd64", image)
	r.works("fetch", "alpine", "amd64")
	if exists(old) || !exists(r.image("alpine", "amd64")) || !exists(r.image("alpine", "arm64")) {
		t.Error("not the old image has been deleted")
	}
}

// TestFetchRefuses: what is not as it was pinned is not used, and the message says what to do.
func TestFetchRefuses(t *testing.T) {
	t.Parallel()
	r, k := published(t)
	other := newKey(t, "Other <other@example.org>")
	renew := "make update-images"
	tests := []struct {
		name, image string
		fault       func(t *testing.T, name string)
		says        []string
	}{
		{"another digest", "alpine", func(t *testing.T, name string) {
			r.site.put(t, r.pin(name, "amd64", "url"), smallDisk(t, ""))
		}, []string{"another sha512", "pinned is", renew + " NAME=alpine"}},
		{"the image is gone", "cirros", func(t *testing.T, name string) {
			r.site.remove(t, r.pin(name, "amd64", "url"))
		}, []string{"404", "removed", renew}},
		{"the signature is gone", "flatcar", func(t *testing.T, name string) {
			r.site.remove(t, r.pin(name, "amd64", "signature"))
		}, []string{".sig: the server says 404"}},
		{"a signature by another key", "fedora-coreos", func(t *testing.T, name string) {
			r.site.put(t, r.pin(name, "amd64", "signature"), other.sign(r.site.get(t, r.pin(name, "amd64", "url"))))
		}, []string{"by a key that images/fedora-coreos/pins does not have"}},
		{"a signature of something else", "fedora-coreos", func(t *testing.T, name string) {
			r.site.put(t, r.pin(name, "amd64", "signature"), k.sign([]byte("something else")))
		}, []string{"no good signature", "BADSIG"}},
		{"no signature at all", "fedora-coreos", func(t *testing.T, name string) {
			r.site.put(t, r.pin(name, "amd64", "signature"), []byte("<html>welcome to our portal</html>"))
		}, []string{"no good signature"}},
		{"a signed list with another digest", "ubuntu", func(t *testing.T, name string) {
			sums := []byte(strings.Repeat("0", 64) + " *ubuntu-26.04-server-cloudimg-amd64.img\n")
			r.site.put(t, r.pin(name, "amd64", "sums"), sums)
			r.site.put(t, r.pin(name, "amd64", "signature"), k.sign(sums))
		}, []string{"has another digest for ubuntu-26.04-server-cloudimg-amd64.img", renew}},
		{"a list that was changed", "ubuntu", func(t *testing.T, name string) {
			r.site.put(t, r.pin(name, "amd64", "sums"), []byte("x"))
			r.site.put(t, r.pin(name, "amd64", "signature"), k.sign([]byte("y")))
		}, []string{"no good signature of sums"}},
		{"another key at the vendor's URL", "flatcar", func(t *testing.T, name string) {
			os.RemoveAll(filepath.Join(r.dir, "cache/vendor", name, "key-"+k.fingerprint)) // of an earlier test
			r.site.put(t, "https://www.flatcar.org/security/image-signing-key/Flatcar_Image_Signing_Key.asc", other.public())
		}, []string{"does not have the key " + k.fingerprint}},
		{"no disk", "cirros", func(t *testing.T, name string) {
			r.pinTo(name, "amd64", []byte("no disk"))
		}, []string{"holds no qcow2 disk"}},
		{"a disk that needs another file", "cirros", func(t *testing.T, name string) {
			base, top := filepath.Join(t.TempDir(), "base"), filepath.Join(t.TempDir(), "top")
			for _, args := range [][]string{{"create", "-q", "-f", "raw", base, "1M"}, {"create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", top}} {
				if out, err := exec.Command("qemu-img", args...).CombinedOutput(); err != nil {
					t.Fatalf("%v: %s", err, out)
				}
			}
			b, err := os.ReadFile(top)
			if err != nil {
				t.Fatal(err)
			}
			r.pinTo(name, "amd64", b)
		}, []string{"needs another file"}},
		{"packed and cut short", "fedora-coreos", func(t *testing.T, name string) {
			image := smallDisk(t, ".xz")
			image = image[:len(image)/2]
			r.pinTo(name, "amd64", image)
			r.site.put(t, r.pin(name, "amd64", "signature"), k.sign(image))
		}, []string{"cannot unpack"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			r.t = t
			r.publish(tt.image, k)
			tt.fault(t, tt.image)
			r.fails(tt.says, "fetch", tt.image, "amd64")
			if disk := filepath.Join(filepath.Dir(r.image(tt.image, "amd64")), "disk.qcow2"); exists(disk) {
				t.Errorf("%s is there", disk)
			}
			// Once it is as it should be, nothing of that is in the way.
			r.publish(tt.image, k)
			r.works("fetch", tt.image, "amd64")
		})
	}
	r.t = t
	r.fails([]string{"images that are fetched", "ubuntu"}, "fetch", "beos", "amd64")
	r.fails([]string{"has no image for s390x", "amd64 arm64"}, "fetch", "ubuntu", "s390x")
	r.env = append(r.env, "VENDOR_MIRROR=http://127.0.0.1:1")
	r.publish("cirros", k)
	r.fails([]string{"the network does not lead there", "https_proxy", "VENDOR_MIRROR"}, "fetch", "cirros", "amd64")
}

// TestNewSubkey: a vendor's new subkey, below the key that is pinned, is fetched.
func TestNewSubkey(t *testing.T) {
	t.Parallel()
	r, k := published(t)
	r.works("fetch", "flatcar", "amd64")
	k.renew()
	r.publish("flatcar", k)
	r.works("fetch", "flatcar", "amd64")
	r.site.asked()
	r.publish("flatcar", k)
	r.works("fetch", "flatcar", "amd64")
	for _, asked := range r.site.asked() {
		if strings.HasSuffix(asked, ".asc") {
			t.Errorf("the key is there, and was asked for: %s", asked)
		}
	}
}

// TestCutDownload: a connection that breaks is made again, and the download goes on where it was.
func TestCutDownload(t *testing.T) {
	t.Parallel()
	r, _ := published(t)
	url := r.pin("cirros", "amd64", "url")
	r.site.cut[url] = 100_000
	r.works("fetch", "cirros", "amd64")
	if got := strings.Join(r.site.asked(), "\n"); !strings.HasSuffix(got, " bytes=100000-") {
		t.Errorf("asked for:\n%s", got)
	}
}

// TestKilledDownload: nothing that is fetched in part is taken for an image, and the next one goes on with it.
func TestKilledDownload(t *testing.T) {
	t.Parallel()
	r, _ := published(t)
	url := r.pin("ubuntu", "amd64", "url")
	r.site.held[url] = 100_000
	cmd := r.command("fetch", "ubuntu", "amd64")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	part := r.image("ubuntu", "amd64") + ".part"
	deadline := time.Now().Add(transcript.Patience)
	for {
		if info, err := os.Stat(part); err == nil && info.Size() >= 90_000 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("no part of the image has come")
		}
		time.Sleep(20 * time.Millisecond)
	}
	syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	cmd.Wait()
	if exists(r.image("ubuntu", "amd64")) {
		t.Error("a part of the image has its name")
	}
	info, err := os.Stat(part)
	if err != nil {
		t.Fatal(err)
	}
	r.site.asked()
	r.works("fetch", "ubuntu", "amd64")
	asked := strings.Join(r.site.asked(), "\n")
	if info.Size() < 90_000 || !regexp.MustCompile(`img bytes=\d{5,6}-`).MatchString(asked) {
		t.Errorf("with %d bytes there, asked for:\n%s", info.Size(), asked)
	}

	// One that was killed before the whole file got its name.
	file := r.image("ubuntu", "amd64")
	if err := os.Rename(file, part); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(filepath.Dir(file), "disk.qcow2"))
	r.works("fetch", "ubuntu", "amd64")
	for _, asked := range r.site.asked() {
		if strings.Contains(asked, ".img") {
			t.Errorf("a file that is whole was asked for: %s", asked)
		}
	}

	// What has begun as something else ends as an error of the digest, and not for ever.
	if err := os.Rename(file, part); err != nil {
		t.Fatal(err)
	}
	os.Remove(filepath.Join(filepath.Dir(file), "disk.qcow2"))
	if err := os.WriteFile(part, make([]byte, 100_000), 0o644); err != nil {
		t.Fatal(err)
	}
	r.fails([]string{"another sha256"}, "fetch", "ubuntu", "amd64")
	r.works("fetch", "ubuntu", "amd64")
}
