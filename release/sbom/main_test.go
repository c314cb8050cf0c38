package main

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/spdx/tools-golang/spdx"
)

const epoch = "1700000000"

// id is an image's.
var id = "sha256:" + strings.Repeat("ab", 32)

// sbom is the document that a command line makes, in the repository, and the packages in it by name.
func sbom(t *testing.T, in []byte, args ...string) (doc spdx.Document, packages map[string]*spdx.Package) {
	t.Helper()
	t.Chdir("../..")
	var out, again bytes.Buffer
	for _, to := range []*bytes.Buffer{&out, &again} {
		if err := run("v1.2.3", args, epoch, bytes.NewReader(in), to); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Error("twice is not the same")
	}
	if err := json.Unmarshal(out.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	if doc.CreationInfo.Created != "2023-11-14T22:13:20Z" {
		t.Errorf("made at %s", doc.CreationInfo.Created)
	}
	packages = map[string]*spdx.Package{}
	for _, p := range doc.Packages {
		packages[p.PackageName] = p
	}
	return doc, packages
}

// related says whether a package is related to another so, by their names.
func related(doc spdx.Document, packages map[string]*spdx.Package, a, relationship, b string) bool {
	for _, r := range doc.Relationships {
		if r.Relationship == relationship && r.RefA.ElementRefID == packages[a].PackageSPDXIdentifier && r.RefB.ElementRefID == packages[b].PackageSPDXIdentifier {
			return true
		}
	}
	return false
}

// self is this test, a Go program as well.
func self(t *testing.T) string {
	t.Helper()
	path, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return path
}

func TestBinary(t *testing.T) {
	doc, packages := sbom(t, nil, "binary", self(t))
	const module = "github.com/spdx/tools-golang"
	for name, licence := range map[string]string{"github.com/google/licensecheck": "BSD-3-Clause", "stdlib": "BSD-3-Clause", "@novnc/novnc": "MPL-2.0", "@xterm/xterm": "MIT"} {
		p := packages[name]
		if p == nil {
			t.Errorf("no %s", name)
		} else if p.PackageVersion == "" || !strings.HasPrefix(p.PackageExternalReferences[0].Locator, "pkg:") {
			t.Errorf("%s: %+v", name, p)
		} else if p.PackageLicenseDeclared != licence {
			t.Errorf("%s: the licence %s", name, p.PackageLicenseDeclared)
		}
	}
	if p := packages[module]; len(p.PackageChecksums) != 1 || len(p.PackageChecksums[0].Value) != 64 {
		t.Errorf("hash: %v", p.PackageChecksums)
	}
	first := doc.Packages[0].PackageName
	if !strings.HasPrefix(first, "vmentry-linux-") || !related(doc, packages, first, "STATIC_LINK", module) || !related(doc, packages, first, "CONTAINS", "@xterm/xterm") {
		t.Errorf("relationships of %s", first)
	}
}

func TestImage(t *testing.T) {
	binary, err := os.ReadFile(self(t))
	if err != nil {
		t.Fatal(err)
	}
	archive := archiveOf(t, map[string]string{
		"usr/bin/vmentry":               string(binary),
		"usr/lib/os-release":            "NAME=x\nVERSION_ID=\"13\"\n",
		"var/lib/dpkg/status":           "Package: one\nVersion: 1:2+b3\nArchitecture: amd64\nBuilt-Using: rustc (= 1.85)\n\nPackage: two\nVersion: 4\nArchitecture: all\nDescription: x\n y\nStatic-Built-Using: rustc (= 1.85),\n rust-libc (= 0.2)\n",
		"usr/share/doc/one/copyright":   "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/\n\nFiles: *\nCopyright: somebody\nLicense: GPL-2+ or Expat\n\nFiles: a\nCopyright: x\nLicense: Odd\n do as you like\n",
		"usr/share/doc/two/copyright":   "Anybody may do anything.\n",
		"usr/share/doc/three/changelog": "not looked at",
	})
	doc, packages := sbom(t, archive, "image", "vmentry", id)
	one, two := packages["one"], packages["two"]
	if one.PackageExternalReferences[0].Locator != "pkg:deb/debian/one@1%3A2%2Bb3?arch=amd64&distro=debian-13" || two.PackageVersion != "4" {
		t.Errorf("%+v", one)
	}
	if one.PackageLicenseDeclared != "(GPL-2.0-or-later OR MIT) AND LicenseRef-one-Odd" || two.PackageLicenseDeclared != noAssertion {
		t.Errorf("licences: %s, %s", one.PackageLicenseDeclared, two.PackageLicenseDeclared)
	}
	if l := doc.OtherLicenses; len(l) != 1 || strings.TrimSpace(l[0].ExtractedText) != "do as you like" {
		t.Errorf("texts: %+v", l)
	}
	for _, r := range [][3]string{{"vmentry", "CONTAINS", "one"}, {"one", "STATIC_LINK", "rustc"}, {"two", "STATIC_LINK", "rustc"}, {"two", "STATIC_LINK", "rust-libc"}} {
		if !related(doc, packages, r[0], r[1], r[2]) {
			t.Errorf("it does not say %v", r)
		}
	}
}

func archiveOf(t *testing.T, files map[string]string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for name, text := range files {
		if err := w.WriteHeader(&tar.Header{Name: "./" + name, Mode: 0o644, Size: int64(len(text))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(text)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestParagraphs(t *testing.T) {
	got := paragraphs([]byte("\n# a comment\nA: 1\nB:\n two\n .\n# within\n\tlines: x\n\n \nA: 3"))
	if want := []map[string]string{{"A": "1", "B": "\ntwo\n.\nlines: x"}, {"A": "3"}}; !slices.EqualFunc(got, want, maps.Equal) {
		t.Errorf("%q", got)
	}
	if got := paragraphs([]byte(" not begun\nno field")); len(got) != 0 {
		t.Errorf("%q", got)
	}
}

func TestFromDebian(t *testing.T) {
	for s, want := range map[string]string{
		"GPL-2":                        "GPL-2.0-only",
		"GPLv3+":                       "GPL-3.0-or-later",
		"LGPL-2.1+":                    "LGPL-2.1-or-later",
		"GFDL-1.3+":                    "GFDL-1.3-or-later",
		"Expat":                        "MIT",
		"BSD-3-clause":                 "BSD-3-Clause",
		"LGPL-3+ or GPL-2+":            "LGPL-3.0-or-later OR GPL-2.0-or-later",
		"ISC and LGPL-2.1+ or Zlib":    "ISC AND LGPL-2.1-or-later OR Zlib",
		"public-domain":                "[public-domain]",
		"GPL-2 with a funny exception": "[GPL-2 with a funny exception]",
		"BSD-MIT or GPL-2":             "[BSD-MIT] OR GPL-2.0-only",
	} {
		if got := fromDebian(s, func(name string) string { return "[" + name + "]" }); got != want {
			t.Errorf("%s: %s, want %s", s, got, want)
		}
	}
}

func TestConjunction(t *testing.T) {
	if got, want := conjunction([]string{"MIT", "ISC AND MIT", "A OR B", "ISC"}), "(A OR B) AND ISC AND MIT"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	if got := conjunction([]string{"A OR B"}); got != "A OR B" {
		t.Error(got)
	}
}

// TestCheck: what is wrong with a document is seen.
func TestCheck(t *testing.T) {
	archive := archiveOf(t, map[string]string{"usr/bin/vmentry": "no program"})
	if err := run("v1", []string{"image", "vmentry", id}, epoch, bytes.NewReader(archive), new(bytes.Buffer)); err == nil {
		t.Error("an image without packages")
	}
	t.Chdir("../..")
	var good bytes.Buffer
	if err := run("v1", []string{"binary", self(t)}, epoch, nil, &good); err != nil {
		t.Fatal(err)
	}
	for what, change := range map[string][2]string{
		"no such licence":    {`"licenseDeclared": "MIT"`, `"licenseDeclared": "FREE"`},
		"a licence's text":   {`"licenseDeclared": "MIT"`, `"licenseDeclared": "LicenseRef-x"`},
		"no such package":    {`"relatedSpdxElement": "SPDXRef-Package-2-`, `"relatedSpdxElement": "SPDXRef-Package-999-`},
		"no known version":   {`"SPDX-2.3"`, `"SPDX-9.9"`},
		"about nothing":      {`"DESCRIBES"`, `"CONTAINS"`},
		"the same name":      {`"SPDXID": "SPDXRef-Package-2-`, `"SPDXID": "SPDXRef-Package-1-`},
		"not a whole object": {"}\n", ""},
	} {
		bad := strings.Replace(good.String(), change[0], change[1], 1)
		if bad == good.String() {
			t.Errorf("%s: nothing was changed", what)
		} else if err := check([]byte(bad)); err == nil {
			t.Errorf("%s: it is taken", what)
		}
	}
}
