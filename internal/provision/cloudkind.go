package provision

import (
	"bytes"
	"compress/gzip"
	"fmt"
	"io"
	"strings"
)

// cloudKind is what cloud-init takes user data for. It looks at how it begins, without regard to case and leading white
// space: https://docs.cloud-init.io/en/latest/explanation/format.html
type cloudKind string

const (
	noCloud       cloudKind = ""
	cloudConfig   cloudKind = "#cloud-config"
	cloudArchive  cloudKind = "#cloud-config-archive"
	cloudJSONP    cloudKind = "#cloud-config-jsonp"
	cloudScript   cloudKind = "#!"
	cloudBoothook cloudKind = "#cloud-boothook"
	cloudInclude  cloudKind = "#include"
	cloudOnce     cloudKind = "#include-once"
	cloudHandler  cloudKind = "#part-handler"
	cloudJinja    cloudKind = "## template: jinja"
	cloudMIME     cloudKind = "MIME-Version:"
)

// cloudKinds has those that begin with another one before it.
var cloudKinds = []cloudKind{
	cloudArchive, cloudJSONP, cloudConfig, cloudBoothook, cloudOnce, cloudInclude, cloudHandler, cloudJinja, cloudScript,
}

// The MIME types of parts, as cloud-init names them.
var cloudTypes = map[string]cloudKind{
	"text/cloud-config": cloudConfig, "text/cloud-config-archive": cloudArchive, "text/cloud-config-jsonp": cloudJSONP,
	"text/x-shellscript": cloudScript, "text/cloud-boothook": cloudBoothook, "text/x-include-url": cloudInclude,
	"text/x-include-once-url": cloudOnce, "text/part-handler": cloudHandler, "text/jinja2": cloudJinja,
}

// mimeTypeOf is the other way.
func mimeTypeOf(k cloudKind) string {
	for t, kind := range cloudTypes {
		if kind == k {
			return t
		}
	}
	return "text/plain"
}

// largestUserData bounds what a gzip may unpack to.
const largestUserData = 64 << 20

// unzipped undoes gzip, as cloud-init does before it looks at anything.
func unzipped(data []byte) ([]byte, error) {
	if !bytes.HasPrefix(data, []byte{0x1f, 0x8b}) {
		return data, nil
	}
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, err
	}
	out, err := io.ReadAll(io.LimitReader(z, largestUserData+1))
	if err != nil {
		return nil, err
	}
	if len(out) > largestUserData {
		return nil, fmt.Errorf("it unpacks to more than %d MiB", largestUserData>>20)
	}
	return out, nil
}

// cloudKindOf looks through gzip, too.
func cloudKindOf(data []byte) cloudKind {
	plain, err := unzipped(data)
	if err != nil {
		return noCloud
	}
	// cloud-init searches the header for MIME in the first 4096 bytes; in YAML or JSON these words are somebody's file.
	head := bytes.ToLower(plain[:min(len(plain), 4096)])
	if k := kindByStart(plain); k != noCloud {
		return k
	}
	if header, _, _ := bytes.Cut(bytes.ReplaceAll(head, []byte("\r\n"), []byte("\n")), []byte("\n\n")); hasHeader(header, "mime-version:") {
		return cloudMIME
	}
	return noCloud
}

func kindByStart(data []byte) cloudKind {
	start := bytes.TrimSpace(data[:min(len(data), 4096)])
	lower := strings.ToLower(string(start[:min(len(start), 32)]))
	for _, k := range cloudKinds {
		if strings.HasPrefix(lower, string(k)) {
			return k
		}
	}
	return noCloud
}

func hasHeader(header []byte, name string) bool {
	for line := range bytes.Lines(header) {
		if bytes.HasPrefix(line, []byte(name)) {
			return true
		}
	}
	return false
}

func legalFirstLines() string {
	var list []string
	for _, k := range cloudKinds {
		list = append(list, string(k))
	}
	return strings.Join(list, ", ") + ", or the header of a MIME message with MIME-Version: 1.0"
}
