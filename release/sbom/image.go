package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
)

// Where the image has what is read of it.
const (
	entrypoint = "usr/bin/vmentry"
	status     = "var/lib/dpkg/status"
	release    = "etc/os-release"
)

// image adds the container image of that name and ID and what is in it. Its files are a tar archive.
func (d *document) image(version, name, id string, archive io.Reader) error {
	sum, err := hex.DecodeString(strings.TrimPrefix(id, "sha256:"))
	if err != nil || len(sum) != sha256.Size {
		return fmt.Errorf("%q is not an image's ID", id)
	}
	files, err := read(archive)
	if err != nil {
		return fmt.Errorf("the image's files: %w", err)
	}
	self := d.add(spdx.Package{
		PackageName:           name,
		PackageVersion:        version,
		PackageChecksums:      checksum(common.SHA256, sum),
		PackageComment:        "checksum: the image's ID",
		PrimaryPackagePurpose: "CONTAINER",
	}, "", "")
	if err := d.binary(version, files[entrypoint], self); err != nil {
		return err
	}
	packages := paragraphs(files[status])
	if len(packages) == 0 {
		return fmt.Errorf("the image has no packages in %s", status)
	}
	distro := ""
	if m := regexp.MustCompile(`(?m)^VERSION_ID="?([^"\n]*)`).FindSubmatch(files[release]); m != nil {
		distro = "&distro=debian-" + string(m[1])
	}
	sources := map[string]common.ElementID{}
	for _, p := range packages {
		d.debian(p, files, self, distro, sources)
	}
	return nil
}

// read takes from an archive what is read of an image.
func read(archive io.Reader) (map[string][]byte, error) {
	files := map[string][]byte{}
	for t := tar.NewReader(archive); ; {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return files, nil
		} else if err != nil {
			return nil, err
		}
		name := path.Clean(h.Name)
		if copyright, _ := path.Match("usr/share/doc/*/copyright", name); !copyright && !slices.Contains([]string{entrypoint, status, release, "usr/lib/os-release"}, name) {
			continue
		}
		if files[strings.Replace(name, "usr/lib/os-release", release, 1)], err = io.ReadAll(t); err != nil {
			return nil, err
		}
	}
}

// debian adds a package of Debian's, and the sources that its programs have parts of. Sources are added once.
func (d *document) debian(p map[string]string, files map[string][]byte, image common.ElementID, distro string, sources map[string]common.ElementID) {
	name, version := p["Package"], p["Version"]
	file := "usr/share/doc/" + name + "/copyright"
	licence := d.copyright(name, file, files[file])
	comment := "from " + file
	switch {
	case len(files[file]) == 0:
		comment = "the image has no " + file
	case licence == "":
		comment = file + " is not machine-readable"
	}
	self := d.add(spdx.Package{
		PackageName:               name,
		PackageVersion:            version,
		PackageSupplier:           &common.Supplier{SupplierType: "Organization", Supplier: "Debian"},
		PackageHomePage:           p["Homepage"],
		PackageLicenseDeclared:    licence,
		PackageLicenseComments:    comment,
		PackageExternalReferences: purl("pkg:deb/debian/" + name + "@" + escape(version) + "?arch=" + p["Architecture"] + distro),
	}, image, common.TypeRelationshipContains)
	for _, field := range []string{"Built-Using", "Static-Built-Using"} {
		for _, m := range regexp.MustCompile(`(\S+) \(= (\S+)\)`).FindAllStringSubmatch(p[field], -1) {
			if id, ok := sources[m[0]]; ok {
				d.Relationships = append(d.Relationships, &spdx.Relationship{
					RefA: common.DocElementID{ElementRefID: self}, RefB: common.DocElementID{ElementRefID: id}, Relationship: common.TypeRelationshipStaticLink,
				})
				continue
			}
			sources[m[0]] = d.add(spdx.Package{
				PackageName:               m[1],
				PackageVersion:            m[2],
				PackageSupplier:           &common.Supplier{SupplierType: "Organization", Supplier: "Debian"},
				PackageExternalReferences: purl("pkg:deb/debian/" + m[1] + "@" + escape(m[2]) + "?arch=source" + distro),
			}, self, common.TypeRelationshipStaticLink)
		}
	}
}

// escape is a version as a purl has it.
func escape(version string) string {
	return strings.NewReplacer("+", "%2B", ":", "%3A").Replace(version)
}

// copyright is what a copyright file says, "" if it is not in the form that can be read. Texts that SPDX has no name for are added.
func (d *document) copyright(name, file string, text []byte) string {
	if !bytes.Contains(text, []byte("copyright-format/1.0")) {
		return ""
	}
	texts := map[string]string{} // of licences, by name
	for _, p := range paragraphs(text) {
		head, body, _ := strings.Cut(strings.TrimSpace(p["License"]), "\n")
		if head = strings.TrimSpace(head); head != "" && texts[head] == "" {
			texts[head] = body
		}
	}
	refs := map[string]string{}
	var expressions []string
	for _, head := range slices.Sorted(maps.Keys(texts)) {
		expressions = append(expressions, fromDebian(head, func(s string) string {
			id := "LicenseRef-" + regexp.MustCompile(`[^A-Za-z0-9.-]+`).ReplaceAllString(name+"-"+strings.ReplaceAll(s, "+", "-or-later"), "-")
			if _, ok := refs[id]; !ok {
				refs[id] = "see " + file
				if texts[s] != "" {
					refs[id] = texts[s]
				}
				d.OtherLicenses = append(d.OtherLicenses, &spdx.OtherLicense{LicenseIdentifier: id, LicenseName: s, ExtractedText: refs[id]})
			}
			return id
		}))
	}
	return conjunction(expressions)
}

// paragraphs reads the form that Debian's files have (deb822(5)): fields, whose further lines are indented.
func paragraphs(text []byte) []map[string]string {
	var all []map[string]string
	var field string
	for line := range strings.Lines(string(text) + "\n\n") {
		line = strings.TrimRight(line, " \t\r\n")
		name, value, named := strings.Cut(line, ":")
		switch {
		case line == "":
			field = "" // and with the next one a paragraph begins
		case line[0] == '#':
		case line[0] == ' ' || line[0] == '\t':
			if field != "" {
				all[len(all)-1][field] += "\n" + strings.TrimSpace(line)
			}
		case named:
			if field == "" {
				all = append(all, map[string]string{})
			}
			field = name
			all[len(all)-1][field] = strings.TrimSpace(value)
		}
	}
	return all
}
