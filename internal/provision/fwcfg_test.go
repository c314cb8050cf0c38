package provision

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"io"
	"math/rand/v2"
	"strings"
	"testing"
)

func configOfSize(version string, n int, fill func() byte) string {
	b := make([]byte, n)
	for i := range b {
		b[i] = fill()
	}
	fs := ""
	if version < "3" {
		fs = `"filesystem":"root",`
	}
	return `{"ignition":{"version":"` + version + `"},"storage":{"files":[{` + fs + `"path":"/a","contents":{"source":"data:;base64,` + base64.StdEncoding.EncodeToString(b) + `"}}]}}`
}

func TestLargeConfigs(t *testing.T) {
	zero := func() byte { return 0 }
	rnd := rand.New(rand.NewPCG(1, 2))
	noise := func() byte { return byte(rnd.Uint32()) }
	for _, tc := range []struct {
		name, version, out string
		n                  int
		fill               func() byte
		replaced           bool
		message            string
	}{
		{"small", "3.3.0", "auto", 1000, zero, false, ""},
		{"large", "3.3.0", "auto", 200 << 10, zero, true, "info the Ignition config is 267 KiB: it is handed over as ignition.config.replace, compressed to "},
		{"3.0 has no compression", "3.0.0", "auto", 200 << 10, zero, false, "warning the Ignition config is 267 KiB, and the guest will take about 1s to read it: "},
		{"2.3 has none either", "2.3.0", "2.3", 800 << 10, zero, false, "about 8s to read it: put large files behind a URL, or use a config of spec 3.1 or higher"},
		{"large even so", "3.3.0", "auto", 800 << 10, noise, false, "warning the Ignition config is "},
	} {
		t.Run(tc.name, func(t *testing.T) {
			res := translate(t, Input{Ignition: source("", configOfSize(tc.version, tc.n, tc.fill)), IgnitionVersion: tc.out})
			if res.Ignition.Replaced != tc.replaced {
				t.Errorf("Replaced: %v", res.Ignition.Replaced)
			}
			got := texts(res.Messages)
			if tc.message == "" && len(got) > 0 || !contains(append(got, ""), tc.message) {
				t.Errorf("messages: %q", got)
			}
			if tc.replaced {
				checkStub(t, res.Ignition)
			}
		})
	}
	got := mistakes(t, Input{Ignition: source("", configOfSize("3.3.0", largestConfig, noise))})
	if !contains(got, "the guest would read it for hours; the limit is 8192 KiB") {
		t.Errorf("a config that is too large: %q", got)
	}
}

// checkStub does what the guest's Ignition does.
func checkStub(t *testing.T, ign *Ignition) {
	t.Helper()
	if get(t, ign.FWCfg, "ignition.version") != ign.Version {
		t.Error("the stub has another version than the config")
	}
	url, _ := get(t, ign.FWCfg, "ignition.config.replace.source").(string)
	zipped, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(url, "data:;base64,"))
	if err != nil {
		t.Fatal(err)
	}
	z, err := gzip.NewReader(bytes.NewReader(zipped))
	if err != nil {
		t.Fatal(err)
	}
	config, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(indented(config), ign.JSON) {
		t.Error("the config in the stub is another one")
	}
}
