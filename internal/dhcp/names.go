package dhcp

import (
	"errors"
	"fmt"
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
// (RFC 1035 §4.1.4, RFC 3397 §2). A pointer has 14 bits; no list here gets that long.
func compressed(names []string) []byte {
	var b []byte
	seen := map[string]int{} // ends of names, and where they are
	for _, name := range names {
		b = appendCompressed(b, seen, name)
	}
	return b
}

func appendCompressed(b []byte, seen map[string]int, name string) []byte {
	for name != "" {
		if at, ok := seen[name]; ok {
			return append(b, 0xc0|byte(at>>8), byte(at))
		}
		if len(b) < 1<<14 {
			seen[name] = len(b)
		}
		label, rest, _ := strings.Cut(name, ".")
		b = append(b, byte(len(label)))
		b = append(b, label...)
		name = rest
	}
	return append(b, 0)
}
