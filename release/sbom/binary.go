package main

import (
	"bytes"
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"

	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
)

// What the binary's page has of JavaScript, and where the repository says in which version.
const (
	lockFile    = "internal/web/js/package-lock.json"
	pakoLicence = "internal/web/lib/novnc/vendor/pako/LICENSE"
)

var licenceFile = regexp.MustCompile(`(?i)^(un)?(licen[cs]e|copying)`)

// binaryFile makes the document one about a binary of vmentry's.
func (d *document) binaryFile(version, path string) error {
	file, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	return d.binary(version, file, "")
}

// binary adds a binary of vmentry's and all that is in it; within is what it is in, if it is not the document's own.
func (d *document) binary(version string, file []byte, within common.ElementID) error {
	info, err := buildinfo.Read(bytes.NewReader(file))
	if err != nil {
		return fmt.Errorf("vmentry's binary: %w", err)
	}
	arch := setting(info, "GOARCH")
	sum := sha256.Sum256(file)
	self := d.add(spdx.Package{
		PackageName:               "vmentry-linux-" + arch,
		PackageVersion:            version,
		PackageChecksums:          checksum(common.SHA256, sum[:]),
		PrimaryPackagePurpose:     "APPLICATION",
		PackageSourceInfo:         "built with " + info.GoVersion,
		PackageLicenseDeclared:    licenceIn("."),
		PackageExternalReferences: purl("pkg:golang/" + info.Main.Path + "@" + version + "?goos=linux&goarch=" + arch),
	}, within, common.TypeRelationshipContains)

	root, err := exec.Command("go", "env", "GOROOT").Output()
	if err != nil {
		return fmt.Errorf("go env GOROOT: %w", err)
	}
	number := strings.TrimPrefix(info.GoVersion, "go")
	d.add(spdx.Package{
		PackageName:               "stdlib",
		PackageVersion:            number,
		PackageLicenseDeclared:    licenceIn(strings.TrimSpace(string(root))),
		PackageSummary:            "Go's own library",
		PackageExternalReferences: purl("pkg:golang/stdlib@" + number),
	}, self, common.TypeRelationshipStaticLink)
	if err := d.modules(info.Deps, self); err != nil {
		return err
	}
	return d.javaScript(self)
}

func setting(info *debug.BuildInfo, key string) string {
	for _, s := range info.Settings {
		if s.Key == key {
			return s.Value
		}
	}
	return ""
}

// modules adds Go modules. Their folders, which have the licences, are in Go's cache, or are fetched as go.sum says.
func (d *document) modules(deps []*debug.Module, self common.ElementID) error {
	args := []string{"mod", "download", "-json"}
	for i, m := range deps {
		if m.Replace != nil {
			deps[i] = m.Replace
		}
		args = append(args, deps[i].Path+"@"+deps[i].Version)
	}
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		return fmt.Errorf("cannot download the modules: %w\n%s", err, out)
	}
	dirs := map[string]string{} // by module and hash
	for dec := json.NewDecoder(bytes.NewReader(out)); dec.More(); {
		var m struct{ Path, Dir, Sum string }
		if err := dec.Decode(&m); err != nil {
			return err
		}
		dirs[m.Path+" "+m.Sum] = m.Dir
	}
	for _, m := range deps {
		dir, ok := dirs[m.Path+" "+m.Sum]
		if !ok {
			return fmt.Errorf("%s@%s is in the binary with the hash %s, and is not what there is to download", m.Path, m.Version, m.Sum)
		}
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(m.Sum, "h1:"))
		if err != nil {
			return fmt.Errorf("%s: the hash %q: %w", m.Path, m.Sum, err)
		}
		d.add(spdx.Package{
			PackageName:               m.Path,
			PackageVersion:            m.Version,
			PackageChecksums:          checksum(common.SHA256, sum),
			PackageLicenseDeclared:    licenceIn(dir),
			PackageComment:            "checksum: go.sum's h1, in hexadecimal",
			PackageExternalReferences: purl("pkg:golang/" + m.Path + "@" + m.Version),
		}, self, common.TypeRelationshipStaticLink)
	}
	return nil
}

// javaScript adds what internal/web/fetch.sh puts into the binary.
func (d *document) javaScript(self common.ElementID) error {
	b, err := os.ReadFile(lockFile)
	if err != nil {
		return err
	}
	var lock struct {
		Packages map[string]struct{ Version, Integrity, License string }
	}
	if err := json.Unmarshal(b, &lock); err != nil {
		return fmt.Errorf("%s: %w", lockFile, err)
	}
	var paths []string
	for path := range lock.Packages {
		if path != "" { // the list itself
			paths = append(paths, path)
		}
	}
	slices.Sort(paths)
	for _, path := range paths {
		p, name := lock.Packages[path], strings.TrimPrefix(path, "node_modules/")
		sum, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(p.Integrity, "sha512-"))
		if err != nil {
			return fmt.Errorf("%s: %s: the hash %q: %w", lockFile, name, p.Integrity, err)
		}
		id := d.add(spdx.Package{
			PackageName:               name,
			PackageVersion:            p.Version,
			PackageChecksums:          checksum(common.SHA512, sum),
			PackageLicenseDeclared:    p.License,
			PackageExternalReferences: purl("pkg:npm/" + strings.Replace(name, "@", "%40", 1) + "@" + p.Version),
		}, self, common.TypeRelationshipContains)
		if name == "@novnc/novnc" {
			d.add(spdx.Package{PackageName: "pako", PackageLicenseDeclared: licenceOf(pakoLicence), PackageSummary: "the part of it that noVNC has in vendor/"},
				id, common.TypeRelationshipContains)
		}
	}
	return nil
}

// licenceIn is what the licence files at the top of a folder say.
func licenceIn(dir string) string {
	entries, _ := os.ReadDir(dir) // none: nothing is known
	var files []string
	for _, e := range entries {
		if e.Type().IsRegular() && licenceFile.MatchString(e.Name()) {
			files = append(files, filepath.Join(dir, e.Name()))
		}
	}
	return licenceOf(files...)
}
