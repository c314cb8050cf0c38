package images

import (
	"bytes"
	"crypto/md5"
	"crypto/rand"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"testing"
)

// machine is how most vendors call an architecture.
var machine = map[string]string{"amd64": "x86_64", "arm64": "aarch64"}

// digest is a vendor's digest of b.
func digest(name string, b []byte) string {
	if digestName(name) == "sha512" {
		return fmt.Sprintf("%x", sha512.Sum512(b))
	}
	return fmt.Sprintf("%x", sha256.Sum256(b))
}

// smallDisk is a qcow2 disk of 256 KiB that is like no other, packed as file names of that kind say.
func smallDisk(t *testing.T, file string) []byte {
	t.Helper()
	raw := make([]byte, 256<<10)
	rand.Read(raw)
	in, out := filepath.Join(t.TempDir(), "raw"), filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(in, raw, 0o644); err != nil {
		t.Fatal(err)
	}
	if text, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", in, out).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	b, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	if strings.HasSuffix(file, ".xz") {
		return xz(t, b)
	}
	return b
}

func xz(t *testing.T, b []byte) []byte {
	t.Helper()
	cmd := exec.Command("xz", "-0", "-c")
	cmd.Stdin = bytes.NewReader(b)
	packed, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return packed
}

// published is a repo whose pins name small disks, all of which the site has.
func published(t *testing.T) (*repo, *key) {
	t.Helper()
	r := newRepo(t, newSite(t))
	k := newKey(t, "Vendor <vendor@example.org>")
	for _, name := range vendors {
		r.publish(name, k)
	}
	return r, k
}

// publish has the vendor publish small disks where the pins have theirs, and pins those.
func (r *repo) publish(name string, k *key) {
	r.t.Helper()
	for _, arch := range archs {
		url := r.pin(name, arch, "url")
		r.pinTo(name, arch, smallDisk(r.t, url))
	}
	if r.signs(name) {
		r.trust(name, k)
	}
	r.site.publish(r.t, name, r.pin(name, "amd64", "version"), r.urls(name), k)
}

// pinTo puts an image at its URL, and pins its digest.
func (r *repo) pinTo(name, arch string, image []byte) {
	r.t.Helper()
	r.site.put(r.t, r.pin(name, arch, "url"), image)
	r.setPin(name, arch, digestName(name), digest(name, image))
}

// urls are those of the pinned images.
func (r *repo) urls(name string) map[string]string {
	u := map[string]string{}
	for _, arch := range archs {
		u[arch] = r.pin(name, arch, "url")
	}
	return u
}

// signs: whether the vendor signs.
func (r *repo) signs(name string) bool { return strings.Contains(r.read(r.pinsFile(name)), "\nkey ") }

// publish writes what the vendor has beside its images, which are there: the index that names them, digests and signatures.
func (s *site) publish(t *testing.T, name, version string, urls map[string]string, k *key) {
	t.Helper()
	for arch, url := range urls {
		image, file := s.get(t, url), path.Base(url)
		dir := strings.TrimSuffix(url, file)
		switch name {
		case "flatcar":
			s.put(t, url+".sig", k.sign(image))
			s.put(t, url+".DIGESTS", fmt.Appendf(nil, "# MD5 HASH\n%x  %s\n# SHA1 HASH\n%x  %s\n# SHA512 HASH\n%x  %s\n",
				md5.Sum(image), file, sha1.Sum(image), file, sha512.Sum512(image), file))
			build, _, _ := strings.Cut(version, ".")
			s.put(t, "https://stable.release.flatcar-linux.net/"+arch+"-usr/current/version.txt",
				fmt.Appendf(nil, "FLATCAR_BUILD=%s\nFLATCAR_VERSION=%s\nFLATCAR_VERSION_ID=%s\n", build, version, version))
		case "fedora-coreos":
			s.put(t, url+".sig", k.sign(image))
		case "centos-stream":
			s.put(t, dir+"CHECKSUM", fmt.Appendf(nil, "# CentOS-Stream-GenericCloud-10-20250101.0.%s.qcow2: 1 bytes\n"+
				"SHA256 (CentOS-Stream-GenericCloud-10-20250101.0.%[1]s.qcow2) = %064d\n# %s: %d bytes\nSHA256 (%[3]s) = %[5]x\n"+
				"SHA256 (CentOS-Stream-GenericCloud-10-latest.%[1]s.qcow2) = %[5]x\nSHA256 (CentOS-Stream-GenericCloud-x86_64-10-20991231.0.%[1]s.qcow2) = %064[2]d\n",
				machine[arch], 0, file, len(image), sha256.Sum256(image)))
		case "alpine":
			s.put(t, url+".sha512", fmt.Appendf(nil, "%x", sha512.Sum512(image)))
			s.put(t, "https://mirrors.edge.kernel.org/alpine/latest-stable/releases/cloud/"+file, nil)
			s.put(t, "https://mirrors.edge.kernel.org/alpine/latest-stable/releases/cloud/nocloud_alpine-3.9.0-"+machine[arch]+"-uefi-cloudinit-r0.qcow2", nil)
			s.put(t, "https://mirrors.edge.kernel.org/alpine/latest-stable/releases/cloud/"+file+".sha512", nil)
			s.put(t, "https://mirrors.edge.kernel.org/alpine/latest-stable/releases/cloud/"+strings.Replace(file, "cloudinit", "tiny", 1), nil)
		case "cirros":
			s.put(t, "https://download.cirros-cloud.net/version/released", []byte(version+"\n"))
		}
	}
	switch name {
	case "cirros":
		s.put(t, "https://download.cirros-cloud.net/"+version+"/SHA256SUMS", s.sums(t, urls, "  "))
	case "ubuntu":
		dir := strings.TrimSuffix(urls["amd64"], path.Base(urls["amd64"]))
		sums := s.sums(t, urls, " *")
		s.put(t, dir+"SHA256SUMS", sums)
		s.put(t, dir+"SHA256SUMS.gpg", k.sign(sums))
	case "fedora-coreos":
		s.put(t, "https://builds.coreos.fedoraproject.org/streams/stable.json", s.stream(t, version, urls))
	}
}

// sums are digests in the form of sha256sum.
func (s *site) sums(t *testing.T, urls map[string]string, between string) []byte {
	var b bytes.Buffer
	fmt.Fprintf(&b, "%064d%ssomething-else.img\n", 0, between)
	for _, arch := range archs {
		fmt.Fprintf(&b, "%x%s%s\n", sha256.Sum256(s.get(t, urls[arch])), between, path.Base(urls[arch]))
	}
	return b.Bytes()
}

// stream is Fedora CoreOS' stream metadata, as far as it is about images for QEMU, and a few others.
func (s *site) stream(t *testing.T, version string, urls map[string]string) []byte {
	type object = map[string]any
	architectures := object{}
	for arch, url := range urls {
		disk := func(platform string) object {
			u := strings.Replace(url, "-qemu.", "-"+platform+".", 1)
			return object{"release": version, "formats": object{"qcow2.xz": object{"disk": object{
				"location": u, "signature": u + ".sig", "sha256": digest("fedora-coreos", s.get(t, url)), "uncompressed-sha256": strings.Repeat("0", 64)}}}}
		}
		architectures[machine[arch]] = object{"artifacts": object{"qemu": disk("qemu"), "openstack": disk("openstack")}, "images": object{}}
	}
	b, err := json.MarshalIndent(object{"stream": "stable", "metadata": object{"last-modified": "2026-09-02T16:00:00Z"}, "architectures": architectures}, "", "    ")
	if err != nil {
		t.Fatal(err)
	}
	return b
}
