package config

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

// Source is one of the three configurations a user can give: a file or the text itself, or neither. Never both.
type Source struct {
	Path string
	Text Secret
}

// IsZero tells that there is no such configuration.
func (s Source) IsZero() bool {
	return s == Source{}
}

// IgnitionVersion is VM_IGNITION_VERSION as Ignition configs write it, with three numbers.
type IgnitionVersion string

// The values of VM_IGNITION_VERSION. Auto is the highest among the sources.
const (
	IgnitionAuto IgnitionVersion = "auto"
	Ignition2_3  IgnitionVersion = "2.3.0"
	Ignition3_0  IgnitionVersion = "3.0.0"
	Ignition3_1  IgnitionVersion = "3.1.0"
	Ignition3_2  IgnitionVersion = "3.2.0"
	Ignition3_3  IgnitionVersion = "3.3.0"
	Ignition3_4  IgnitionVersion = "3.4.0"
	Ignition3_5  IgnitionVersion = "3.5.0"
	Ignition3_6  IgnitionVersion = "3.6.0"
)

func parseIgnitionVersion(s string) (IgnitionVersion, error) {
	if strings.EqualFold(s, string(IgnitionAuto)) {
		return IgnitionAuto, nil
	}
	v := IgnitionVersion(s)
	if strings.Count(s, ".") == 1 {
		v += ".0"
	}
	switch v {
	case Ignition2_3, Ignition3_0, Ignition3_1, Ignition3_2, Ignition3_3, Ignition3_4, Ignition3_5, Ignition3_6:
		return v, nil
	}
	return "", errors.New("not a version that can be made; write auto, 2.3 or 3.0 to 3.6")
}

// ParseKeys reads VM_SSH_AUTHORIZED_KEYS: the lines of an authorized_keys file, without its comments and empty lines. With
// an error it gives the keys that are right. The error never repeats a line: who pastes the wrong file pastes a private key.
func ParseKeys(s string) ([]string, error) {
	if isNone(s) {
		return nil, nil
	}
	if strings.Contains(s, "PRIVATE KEY-----") {
		return nil, errors.New("holds a private key; write the public key, the content of the .pub file")
	}
	var keys []string
	var errs []error
	n := 0
	for line := range strings.Lines(s) {
		n++
		line = strings.TrimSpace(line)
		switch {
		case line == "" || strings.HasPrefix(line, "#"):
		case !hasPublicKey(line):
			errs = append(errs, fmt.Errorf("line %d is not a public key; write one a line, as in an authorized_keys file: ssh-ed25519 AAAA…", n))
		default:
			keys = append(keys, line)
		}
	}
	return keys, errors.Join(errs...)
}

// hasPublicKey finds the key's type and, after it, the key that names the same type within (RFC 4253, 6.6). Options may
// stand before them (sshd(8), AUTHORIZED_KEYS FILE FORMAT).
func hasPublicKey(line string) bool {
	fields := strings.Fields(line)
	for i := range len(fields) - 1 {
		blob, err := base64.StdEncoding.DecodeString(fields[i+1])
		if err != nil || len(blob) < 4 {
			continue
		}
		length := uint64(binary.BigEndian.Uint32(blob))
		if blob = blob[4:]; length > 0 && length < uint64(len(blob)) && string(blob[:length]) == fields[i] {
			return true
		}
	}
	return false
}
