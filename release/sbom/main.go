// Command sbom prints what is in a binary of vmentry, or in the container image, as an SPDX 2.3 document in JSON.
//
//	sbom -version VERSION binary FILE
//	podman export CONTAINER | sbom -version VERSION image NAME ID
//
// It runs in the repository that the binary was built from, which has the versions of the JavaScript libraries in it. The document's time is
// SOURCE_DATE_EPOCH, so that the same input gives the same bytes.
package main

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strconv"
	"time"

	spdxjson "github.com/spdx/tools-golang/json"
	"github.com/spdx/tools-golang/spdx"
	"github.com/spdx/tools-golang/spdx/v2/common"
	"github.com/spdx/tools-golang/spdxlib"
)

const noAssertion = "NOASSERTION" // SPDX's word for what is not known

func main() {
	version := flag.String("version", "", "vmentry's version")
	flag.Parse()
	if err := run(*version, flag.Args(), os.Getenv("SOURCE_DATE_EPOCH"), os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(version string, args []string, epoch string, in io.Reader, out io.Writer) error {
	if version == "" || !(len(args) == 2 && args[0] == "binary" || len(args) == 3 && args[0] == "image") {
		return errors.New("usage: sbom -version VERSION binary FILE | image NAME ID")
	}
	seconds, err := strconv.ParseInt(epoch, 10, 64)
	if err != nil {
		return fmt.Errorf("SOURCE_DATE_EPOCH=%q: it has to be a number of seconds", epoch)
	}
	var d document
	if args[0] == "image" {
		err = d.image(version, args[1], args[2], in)
	} else {
		err = d.binaryFile(version, args[1])
	}
	if err != nil {
		return err
	}
	b, err := d.json(time.Unix(seconds, 0).UTC())
	if err == nil {
		_, err = out.Write(b)
	}
	return err
}

// document is one that grows. Its first package is what it is about.
type document struct{ spdx.Document }

// add adds a package, and says how another is related to it. The first has no other: "".
func (d *document) add(p spdx.Package, other common.ElementID, relationship string) common.ElementID {
	name := regexp.MustCompile(`[^A-Za-z0-9.-]+`).ReplaceAllString(p.PackageName+"-"+p.PackageVersion, "-")
	p.PackageSPDXIdentifier = common.ElementID(fmt.Sprintf("Package-%d-%s", len(d.Packages), name)) // two names may look the same
	p.PackageDownloadLocation = noAssertion
	p.PackageCopyrightText = noAssertion
	p.PackageLicenseConcluded = noAssertion // what is declared is what was looked at
	if p.PackageLicenseDeclared == "" {
		p.PackageLicenseDeclared = noAssertion
	}
	p.IsFilesAnalyzedTagPresent = true // and false: the packages' files are not listed
	d.Packages = append(d.Packages, &p)
	if other == "" {
		other, relationship = "DOCUMENT", common.TypeRelationshipDescribe
	}
	d.Relationships = append(d.Relationships, &spdx.Relationship{
		RefA:         common.DocElementID{ElementRefID: other},
		RefB:         common.DocElementID{ElementRefID: p.PackageSPDXIdentifier},
		Relationship: relationship,
	})
	return p.PackageSPDXIdentifier
}

// purl is a package's name in all the world (https://github.com/package-url/purl-spec).
func purl(locator string) []*spdx.PackageExternalReference {
	return []*spdx.PackageExternalReference{{Category: common.CategoryPackageManager, RefType: common.TypePackageManagerPURL, Locator: locator}}
}

func checksum(algorithm common.ChecksumAlgorithm, sum []byte) []common.Checksum {
	return []common.Checksum{{Algorithm: algorithm, Value: fmt.Sprintf("%x", sum)}}
}

// json is the whole document, valid.
func (d *document) json(created time.Time) ([]byte, error) {
	d.SPDXVersion = spdx.Version
	d.DataLicense = spdx.DataLicense
	d.SPDXIdentifier = "DOCUMENT"
	d.DocumentName = d.Packages[0].PackageName + "-" + d.Packages[0].PackageVersion
	d.CreationInfo = &spdx.CreationInfo{
		Creators: []common.Creator{{CreatorType: "Tool", Creator: "vmentry-sbom"}},
		Created:  created.Format(time.RFC3339),
	}
	b, err := d.encode()
	if err != nil {
		return nil, err
	}
	// A namespace is of one document alone: its own contents make it so.
	d.DocumentNamespace = fmt.Sprintf("https://github.com/vmentry/vmentry/spdx/%s-%x", d.DocumentName, sha256.Sum256(b))
	if b, err = d.encode(); err != nil {
		return nil, err
	}
	return b, check(b)
}

func (d *document) encode() ([]byte, error) {
	var b bytes.Buffer
	err := spdxjson.Write(&d.Document, &b, spdxjson.Indent("  "), spdxjson.EscapeHTML(false))
	return b.Bytes(), err
}

// check reads a document as others will, and says what is wrong with it.
func check(b []byte) error {
	var doc spdx.Document
	if err := spdxjson.ReadInto(bytes.NewReader(b), &doc); err != nil {
		return err
	}
	if err := spdxlib.ValidateDocument(&doc); err != nil {
		return err
	}
	if about, err := spdxlib.GetDescribedPackageIDs(&doc); err != nil || len(about) != 1 {
		return fmt.Errorf("the document is about %v: %v", about, err)
	}
	texts := map[string]bool{}
	for _, l := range doc.OtherLicenses {
		if texts[l.LicenseIdentifier] || l.ExtractedText == "" {
			return fmt.Errorf("%s is there twice, or without a text", l.LicenseIdentifier)
		}
		texts[l.LicenseIdentifier] = true
	}
	seen := map[common.ElementID]bool{}
	for _, p := range doc.Packages {
		if seen[p.PackageSPDXIdentifier] {
			return fmt.Errorf("%s is there twice", p.PackageSPDXIdentifier)
		}
		seen[p.PackageSPDXIdentifier] = true
		if err := checkLicence(p.PackageLicenseDeclared, texts); err != nil {
			return fmt.Errorf("%s: %w", p.PackageName, err)
		}
	}
	return nil
}
