package image

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
)

// maxSums is the most that is read of a file of digests, in bytes.
const maxSums = 4 << 20

// sumsNames are the names under which digests are published beside a file of that name, in the order in which they are tried.
func sumsNames(name string) []string {
	return []string{
		name + ".sha256", name + ".sha256sum", name + ".SHA256SUM", name + ".SHA256", "SHA256SUMS", "SHA256SUM", "sha256sum.txt",
		name + ".CHECKSUM", "CHECKSUM", "CHECKSUM.SHA256",
	}
}

// noSums is what to do about a digest that was not found.
const noSums = "write the digest itself (64 hexadecimal digits) into VM_IMAGE_SHA256, or leave it unset"

// errNoSum says that a file of digests has none for the file in question.
var errNoSum = errors.New("no SHA-256 digest for it")

var (
	gnuSum = pattern(`^([0-9A-Fa-f]{64}) [ *](.+)$`)
	bsdSum = pattern(`^SHA256 ?\((.+)\) ?= ?([0-9A-Fa-f]{64})$`)
	oneSum = pattern(`^([0-9A-Fa-f]{64})$`)
)

// pattern is a regular expression that is compiled when it is first used: of all of them a run needs few.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}

// findSum finds the SHA-256 of the file of that name in a file of digests: as sha256sum writes them, as BSD's and Fedora's are, or, where
// alone says that the file is about this one alone, nothing but the digest. Other lines (signatures, other digests, comments) do not
// count. Two digests for one name are an error.
func findSum(text []byte, name string, alone bool) (string, error) {
	found := ""
	lines := bufio.NewScanner(bytes.NewReader(text))
	lines.Buffer(nil, maxSums)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		sum, of := "", ""
		if m := gnuSum().FindStringSubmatch(line); m != nil {
			sum, of = m[1], m[2]
		} else if m := bsdSum().FindStringSubmatch(line); m != nil {
			sum, of = m[2], m[1]
		} else if m := oneSum().FindStringSubmatch(line); m != nil && alone {
			sum, of = m[1], name
		}
		if sum == "" || path.Base(strings.TrimSpace(of)) != name {
			continue
		}
		sum = strings.ToLower(sum)
		if found != "" && found != sum {
			return "", fmt.Errorf("two different digests for %s", name)
		}
		found = sum
	}
	if found == "" {
		return "", errNoSum
	}
	return found, nil
}

// sumBeside finds the digest of the file at path in the files beside it.
func sumBeside(file string) (string, error) {
	op := "verify " + file
	dir, name := filepath.Split(file)
	for _, beside := range sumsNames(name) {
		info, err := os.Stat(filepath.Join(dir, beside))
		if errors.Is(err, fs.ErrNotExist) || err == nil && (!info.Mode().IsRegular() || info.Size() > maxSums) {
			continue
		}
		if err != nil {
			return "", ioError(op, err)
		}
		text, err := os.ReadFile(filepath.Join(dir, beside))
		if err != nil {
			return "", ioError(op, err)
		}
		sum, err := findSum(text, name, strings.HasPrefix(beside, name))
		if errors.Is(err, errNoSum) {
			continue
		}
		if err != nil {
			return "", refusal(op, noSums, "%s: %w", filepath.Join(dir, beside), err)
		}
		return sum, nil
	}
	return "", configError(op, noSums, "VM_IMAGE_SHA256 is auto, and there is no digest of it beside it (%s, SHA256SUMS, CHECKSUM, …)", name+".sha256")
}

// isDigest says that s is a SHA-256 in lower-case hex.
func isDigest(s string) bool {
	b, err := hex.DecodeString(s)
	return err == nil && len(b) == 32
}
