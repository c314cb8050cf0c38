package dhcp

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/rfc1035label"
)

func TestValidNames(t *testing.T) {
	long := strings.Repeat(strings.Repeat("a", 49)+".", 5) + "abc" // 253 characters
	tests := map[string]bool{
		"example.com": true, "a": true, "default.svc.cluster.local": true, "_tcp.example": true, "1.2": true, "xn--bcher-kva.example": true,
		strings.Repeat("a", 63) + ".b": true, long: true,
		"": false, ".": false, "a..b": false, ".a": false, "a b": false, "a\nnameserver 6.6.6.6": false, "$(reboot)": false, "-a": false, "a-.b": false,
		"bücher.example": false, strings.Repeat("a", 64): false, long + "d": false, "a\x00": false, "*.a": false,
	}
	for name, want := range tests {
		if err := validName(name); (err == nil) != want {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestBadNamesAreLeftOut(t *testing.T) {
	var log bytes.Buffer
	c := ordinary()
	c.HostName = "a;b"
	c.Search = []string{"example.com.", ".", "bad name", "Example.com", "", "b.example"}
	s, err := New(c, slog.New(slog.NewTextHandler(&log, nil)))
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"example.com", "b.example"}, s.cfg.Search); diff != "" || s.cfg.HostName != "" {
		t.Errorf("host name %q, search domains %s", s.cfg.HostName, diff)
	}
	if n := strings.Count(log.String(), "level=WARN"); n != 4 {
		t.Errorf("%d warnings:\n%s", n, &log)
	}
	if c.Search[0] != "example.com." {
		t.Error("the caller's list was changed")
	}
}

func TestCompressed(t *testing.T) {
	tests := []struct {
		names []string
		want  string
	}{
		{nil, ""},
		{[]string{"a.b"}, "\x01a\x01b\x00"},
		{[]string{"a.b", "c.b", "b", "a.b"}, "\x01a\x01b\x00\x01c\xc0\x02\xc0\x02\xc0\x00"},
		{[]string{"b.c", "a.c", "d.a.c", "e.b.c"}, "\x01b\x01c\x00\x01a\xc0\x02\x01d\x01a\xc0\x02\x01e\xc0\x00"}, // nothing points to a.c: a pointer ends it
		{[]string{"eng.apple.com", "marketing.apple.com"}, "\x03eng\x05apple\x03com\x00\x09marketing\xc0\x04"},   // RFC 3397 §2
	}
	for _, tt := range tests {
		if got := string(compressed(tt.names)); got != tt.want {
			t.Errorf("%q is %q, want %q", tt.names, got, tt.want)
		}
	}
	var many []string
	for i := range 2000 { // longer than pointers reach
		many = append(many, strings.Repeat("a", i%60+1)+"."+strings.Repeat("b", i%50+1)+".c"+strings.Repeat("d", i%40))
	}
	for _, names := range [][]string{many, many[:100]} {
		labels, err := rfc1035label.FromBytes(compressed(names))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(names, labels.Labels); diff != "" {
			t.Error(diff)
		}
	}
}
