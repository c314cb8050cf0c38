package config

// Secret is text that is never printed: formatting, encoding and logging a Secret, or a value that contains one, gives
// only whether there is one. string(s) is the text.
type Secret string

// String says that there is a secret, and not which.
func (s Secret) String() string {
	if s == "" {
		return ""
	}
	return "(secret)"
}

// GoString is String, for %#v.
func (s Secret) GoString() string {
	return s.String()
}

// MarshalText is String, for JSON and slog.
func (s Secret) MarshalText() ([]byte, error) {
	return []byte(s.String()), nil
}
