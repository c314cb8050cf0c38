package provision

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
)

// Whatever the bytes are, there is a result that ignition accepts, or an *Error; never a panic.
func FuzzTranslate(f *testing.F) {
	entries, err := os.ReadDir(examples)
	if err != nil {
		f.Fatal(err)
	}
	for _, e := range entries {
		b, err := os.ReadFile(filepath.Join(examples, e.Name()))
		if err != nil {
			f.Fatal(err)
		}
		for kind := range byte(3) {
			f.Add(b, kind, "auto")
			f.Add(b, kind, "2.3")
			f.Add(b, kind, "3.0")
		}
	}
	for _, c := range fieldsByVersion {
		f.Add([]byte(`{"ignition":{"version":"3.6.0"},`+c.config+`}`), byte(1), "3.3")
	}
	f.Fuzz(func(t *testing.T, data []byte, kind byte, version string) {
		in := extras(Input{IgnitionVersion: version})
		s := &Source{Name: "x", Data: data}
		switch kind % 3 {
		case 0:
			in.Config = s
		case 1:
			in.Ignition = s
		case 2:
			in.Cloud = s
		}
		res, err := Translate(in)
		var e *Error
		if err != nil && !errors.As(err, &e) {
			t.Fatalf("an error that is no *Error: %v", err)
		}
		if res.Ignition != nil {
			checkIgnition(t, res.Ignition)
		}
		if res.Seed != nil {
			if _, err := res.Seed.ISO(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func FuzzISO(f *testing.F) {
	f.Add("user-data", "meta-data", []byte("x"))
	f.Add("a/b", "a/B", []byte(nil))
	f.Fuzz(func(t *testing.T, a, b string, data []byte) {
		_, _ = writeISO("cidata", []File{{a, data}, {b, data}})
	})
}
