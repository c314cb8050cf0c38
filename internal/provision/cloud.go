package provision

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"mime/quotedprintable"
	"net/mail"
	"net/textproto"
	"strings"

	"go.yaml.in/yaml/v3"
)

// userData is what the user gave to cloud-init, looked through.
type userData struct {
	*sourceReporter
	kind cloudKind
	// raw is as given, plain without gzip.
	raw, plain []byte
	// configs are the parts that are cloud-config.
	configs []*cloudPart
}

// cloudPart is one cloud-config.
type cloudPart struct {
	root *yaml.Node // the mapping; nil where the part is empty
}

// readUserData recognises user data as cloud-init does, and finds the mistakes that cloud-init would meet in the guest,
// where nobody sees them.
func readUserData(r *sourceReporter) *userData {
	u := &userData{sourceReporter: r, raw: r.source.Data}
	plain, err := unzipped(u.raw)
	if err != nil {
		r.mistake("this begins as gzip does and cannot be unpacked: %v", err)
		return nil
	}
	u.plain, u.kind = plain, cloudKindOf(plain)
	if u.kind == noCloud {
		r.mistake("cloud-init would ignore this: it begins with none of %s%s", legalFirstLines(), hintFor(plain))
		return nil
	}
	if u.kind != cloudMIME && bytes.Contains(bytes.ToLower(plain[:min(len(plain), 4096)]), []byte("mime-version:")) {
		r.mistake("cloud-init would take this for a MIME message, because the words MIME-Version: stand in its first 4096 bytes: " +
			"move them further down")
		return nil
	}
	r.guard("this user data", func() { u.look(u.kind, plain, "") })
	if r.failed {
		return nil
	}
	return u
}

func hintFor(data []byte) string {
	trimmed := bytes.TrimSpace(data)
	switch {
	case isIgnitionJSON(data):
		return ". It is an Ignition config, which belongs in IGNITION_CONFIG_FILE"
	case bytes.HasPrefix(trimmed, []byte("variant:")), bytes.Contains(trimmed, []byte("\nvariant:")):
		return ". It looks like a Butane config, which belongs in CONFIG_FILE"
	case bytes.HasPrefix(trimmed, []byte("\xef\xbb\xbf")):
		return ". It begins with a byte order mark, which has to go"
	case bytes.HasPrefix(bytes.ToLower(trimmed), []byte("content-type: multipart/")):
		return ". The header MIME-Version: 1.0 is missing"
	}
	return ""
}

// look checks one part; where names it, for messages.
func (u *userData) look(kind cloudKind, data []byte, where string) {
	switch kind {
	case cloudConfig:
		u.lookConfig(data, where)
	case cloudArchive:
		u.lookArchive(data, where)
	case cloudMIME:
		u.lookMIME(data)
	case cloudScript, cloudBoothook:
		if line, _, _ := bytes.Cut(data, []byte("\n")); bytes.HasSuffix(line, []byte("\r")) {
			u.warn("%sthe first line ends in a carriage return, which becomes part of the interpreter's name", where)
		}
	}
}

func (u *userData) lookConfig(data []byte, where string) {
	var doc yaml.Node
	dec := yaml.NewDecoder(bytes.NewReader(data))
	if err := dec.Decode(&doc); err != nil {
		if err == io.EOF {
			u.configs = append(u.configs, &cloudPart{})
			return
		}
		u.yamlErrorIn(where, err)
		return
	}
	var second yaml.Node
	if err := dec.Decode(&second); err != io.EOF {
		if err != nil {
			u.yamlErrorIn(where, err)
		} else {
			u.report(Mistake, second.Line, second.Column, where+"there is a second YAML document; cloud-init reads one")
		}
		return
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		u.configs = append(u.configs, &cloudPart{})
		return
	}
	if root.Kind != yaml.MappingNode {
		u.reportIn(Mistake, where, root, "the top level of a cloud-config is a mapping (`key: value`)")
		return
	}
	first := map[string]bool{}
	for i := 0; i+1 < len(root.Content); i += 2 {
		k := root.Content[i]
		if first[k.Value] {
			u.reportIn(Warning, where, k, "the key "+k.Value+" is there twice; cloud-init takes the last one")
		}
		first[k.Value] = true
	}
	u.configs = append(u.configs, &cloudPart{root: root})
}

// Lines in a part count from the part's beginning, so they are told in the text, not as places in the file.
func (u *userData) reportIn(s Severity, where string, n *yaml.Node, text string) {
	if where == "" {
		u.report(s, n.Line, n.Column, text)
		return
	}
	u.report(s, 0, 0, fmt.Sprintf("%sline %d, column %d: %s", where, n.Line, n.Column, text))
}

func (u *userData) yamlErrorIn(where string, err error) {
	if where == "" {
		u.yamlError(Mistake, err.Error())
		return
	}
	u.report(Mistake, 0, 0, where+strings.TrimPrefix(err.Error(), "yaml: "))
}

// lookArchive: a list of parts, each a text or a mapping with content and type.
func (u *userData) lookArchive(data []byte, where string) {
	var doc yaml.Node
	if err := yaml.Unmarshal(data, &doc); err != nil {
		u.yamlErrorIn(where, err)
		return
	}
	if len(doc.Content) == 0 || doc.Content[0].Kind != yaml.SequenceNode {
		u.mistake("%s#cloud-config-archive is followed by a list of parts", where)
		return
	}
	for i, n := range doc.Content[0].Content {
		content, kind := n.Value, noCloud
		if n.Kind == yaml.MappingNode {
			content = ""
			for j := 0; j+1 < len(n.Content); j += 2 {
				switch n.Content[j].Value {
				case "content":
					content = n.Content[j+1].Value
				case "type":
					kind = cloudTypes[n.Content[j+1].Value]
				}
			}
		}
		if kind == noCloud {
			kind = kindByStart([]byte(content))
		}
		if kind == noCloud {
			kind = cloudConfig // as cloud-init takes an entry without a type
		}
		u.look(kind, []byte(content), fmt.Sprintf("%spart %d: ", where, i+1))
	}
}

func (u *userData) lookMIME(data []byte) {
	msg, err := mail.ReadMessage(bytes.NewReader(data))
	if err != nil {
		u.warn("the header of this MIME message is unusual, so its parts were not checked")
		return
	}
	count := 0
	u.lookEntity(textproto.MIMEHeader(msg.Header), msg.Body, 0, &count)
}

// lookEntity goes through nested multi-parts, as cloud-init does.
func (u *userData) lookEntity(h textproto.MIMEHeader, body io.Reader, depth int, count *int) {
	mediaType, params, err := mime.ParseMediaType(h.Get("Content-Type"))
	if err != nil {
		mediaType = "text/plain"
	}
	if strings.HasPrefix(mediaType, "multipart/") && depth < 10 {
		if params["boundary"] == "" {
			u.mistake("the MIME message is multi-part and its Content-Type has no boundary")
			return
		}
		parts := multipart.NewReader(body, params["boundary"])
		for {
			p, err := parts.NextRawPart()
			if err == io.EOF {
				return
			}
			if err != nil {
				u.mistake("the MIME message ends before its last boundary, or a part of it cannot be read")
				return
			}
			u.lookEntity(p.Header, p, depth+1, count)
		}
	}

	*count++
	where := fmt.Sprintf("part %d: ", *count)
	content, err := io.ReadAll(decoded(h.Get("Content-Transfer-Encoding"), body))
	if err != nil {
		u.mistake("%sits Content-Transfer-Encoding cannot be undone", where)
		return
	}
	if content, err = unzipped(content); err != nil {
		u.mistake("%sthis begins as gzip does and cannot be unpacked: %v", where, err)
		return
	}
	kind := cloudTypes[mediaType]
	if kind == noCloud || kind == cloudScript {
		if k := kindByStart(content); k != noCloud {
			kind = k
		}
	}
	if kind == noCloud && mediaType == "text/plain" {
		u.warn("%sits Content-Type is text/plain and it begins with none of %s: cloud-init ignores it", where, legalFirstLines())
	}
	u.look(kind, content, where)
}

func decoded(encoding string, r io.Reader) io.Reader {
	switch strings.ToLower(strings.TrimSpace(encoding)) {
	case "base64":
		return base64.NewDecoder(base64.StdEncoding, r)
	case "quoted-printable":
		return quotedprintable.NewReader(r)
	}
	return r
}
