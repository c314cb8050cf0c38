package dhcp

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// validName checks a domain name, or a host name: labels of 1 to 63 letters, digits, hyphens and underscores, not more than
// 255 octets on the wire (RFC 1035 §2.3.4), which is 253 characters. Underscores are no host name's, but they are in use in
// search lists. Names are put into files by the guest's scripts, so nothing else gets through.
func validName(name string) error {
	if len(name) > 253 {
		return errors.New("longer than 253 characters")
	}
	for label := range strings.SplitSeq(name, ".") {
		switch {
		case label == "":
			return errors.New("an empty label")
		case len(label) > 63:
			return fmt.Errorf("label %q is longer than 63 characters", label)
		case label[0] == '-' || label[len(label)-1] == '-':
			return fmt.Errorf("label %q begins or ends with a hyphen", label)
		case strings.ContainsFunc(label, notInNames):
			return fmt.Errorf("label %q has other characters than letters, digits, - and _", label)
		}
	}
	return nil
}

func notInNames(r rune) bool {
	return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' && r != '_'
}

// validNames are the names that can be told to a guest, each once and without the dot at its end, and what is wrong with the
// others. A bad name in the pod's resolv.conf is not the guest's fault, and not worth its network.
func validNames(names []string) (valid []string, bad []error) {
	for _, name := range names {
		name = strings.TrimSuffix(name, ".")
		if err := validName(name); err != nil {
			bad = append(bad, fmt.Errorf("%q: %w", name, err))
			continue
		}
		if !slices.ContainsFunc(valid, func(v string) bool { return strings.EqualFold(v, name) }) {
			valid = append(valid, name)
		}
	}
	return valid, bad
}

// compressed is a list of names as in DNS messages, where the end of a name may point to where the same end stood before
// (RFC 1035 §4.1.4, RFC 3397 §2). It only ever points to what is written in full: not all who read it follow a pointer from
// behind another one.
func compressed(names []string) []byte {
	var b []byte
	seen := map[string]int{} // ends of names that are written in full, and where
	for _, name := range names {
		b = appendName(b, name, seen)
	}
	return b
}

// appendName appends a name, up to an end of it that was seen before. The ends of one that has none are seen from now on.
func appendName(b []byte, name string, seen map[string]int) []byte {
	const reach = 1 << 14 // of a pointer
	ends := map[string]int{}
	for name != "" {
		if at, ok := seen[name]; ok {
			return append(b, 0xc0|byte(at>>8), byte(at))
		}
		if len(b) < reach {
			ends[name] = len(b)
		}
		label, rest, _ := strings.Cut(name, ".")
		b = append(b, byte(len(label)))
		b = append(b, label...)
		name = rest
	}
	maps.Copy(seen, ends)
	return append(b, 0)
}

// uncompressed is a list of names as DHCPv6 has it (RFC 8415 §10).
func uncompressed(names []string) []byte {
	var b []byte
	for _, name := range names {
		b = appendName(b, name, map[string]int{})
	}
	return b
}
