package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"

	"github.com/github/go-spdx/v2/spdxexp"
	"github.com/google/licensecheck"
)

// A text is taken for a licence's if so much of it, in percent, is that licence's. The rest are names and years.
const wholeEnough = 75

// tag is how a file says it in SPDX's own words.
var tag = regexp.MustCompile(`SPDX-License-Identifier: ([A-Za-z0-9.+() -]*[A-Za-z0-9.+)])`)

// licenceOf is what licence files say: all of what they are recognized as, "" for nothing.
func licenceOf(files ...string) string {
	var all []string
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			continue
		}
		if m := tag.FindSubmatch(text); m != nil {
			all = append(all, string(m[1]))
			continue
		}
		found := licensecheck.Scan(text)
		if found.Percent < wholeEnough {
			continue
		}
		for _, m := range found.Match {
			if ok, id := spdxexp.ActiveLicense(m.ID); ok {
				all = append(all, id)
			}
		}
	}
	return conjunction(all)
}

// conjunction is the expression for all of them, each once.
func conjunction(all []string) string {
	var expressions []string
	for _, e := range all {
		if strings.Contains(e, " OR ") {
			expressions = append(expressions, e)
		} else {
			expressions = append(expressions, strings.Split(e, " AND ")...)
		}
	}
	slices.Sort(expressions)
	expressions = slices.Compact(expressions)
	if len(expressions) > 1 {
		for i, e := range expressions {
			if strings.Contains(e, " OR ") {
				expressions[i] = "(" + e + ")"
			}
		}
	}
	return strings.Join(expressions, " AND ")
}

var (
	// debianNames are those short names of Debian's that are neither SPDX's nor of one of the families below.
	debianNames = map[string]string{"expat": "MIT", "cc0": "CC0-1.0", "openldap": "OLDAP-2.8", "gfdl-niv-1.3": "GFDL-1.3-no-invariants-only"}

	gnu = regexp.MustCompile(`(?i)^(A?GPL|LGPL|GFDL)(?:-|v)(\d)(?:\.(\d))?(\+?)$`)
)

// fromDebian translates what the License field of a copyright file says into an expression; what SPDX has no name for, ref names.
// https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/#license-short-name
func fromDebian(s string, ref func(name string) string) string {
	for _, word := range []string{" or ", " and "} { // "and" binds closer
		parts := regexp.MustCompile(`(?i)`+word).Split(s, -1)
		if len(parts) == 1 {
			continue
		}
		for i, p := range parts {
			parts[i] = fromDebian(p, ref)
		}
		return strings.Join(parts, strings.ToUpper(word))
	}
	s = strings.TrimSpace(s)
	if m := gnu.FindStringSubmatch(s); m != nil {
		minor := m[3]
		if minor == "" {
			minor = "0"
		}
		end := map[string]string{"": "-only", "+": "-or-later"}[m[4]]
		s = strings.ToUpper(m[1]) + "-" + m[2] + "." + minor + end
	} else if name := debianNames[strings.ToLower(s)]; name != "" {
		s = name
	}
	if ok, id := spdxexp.ActiveLicense(s); ok {
		return id
	}
	return ref(s)
}

// checkLicence says what is wrong with a declared licence, whose own texts are those given.
func checkLicence(expression string, texts map[string]bool) error {
	if expression == noAssertion {
		return nil
	}
	ids, err := spdxexp.ExtractLicenses(expression)
	if err != nil {
		return fmt.Errorf("the licence %q: %w", expression, err)
	}
	for _, id := range ids {
		if strings.HasPrefix(id, "LicenseRef-") && !texts[id] {
			return fmt.Errorf("the licence %q: there is no text of %s", expression, id)
		}
	}
	return nil
}
