package tpm

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestVersion(t *testing.T) {
	for _, tt := range []struct {
		name, says, want string
		err              error
	}{
		{"OK Debian's", `{ "type": "swtpm", "features": [ "tpm-1.2", "tpm-2.0", "cmdarg-seccomp" ], "version": "0.7.1" }`, "0.7.1", nil},
		{"bad TPM 1.2 alone", `{ "type": "swtpm", "features": [ "tpm-1.2" ], "version": "0.7.1" }`, "", ErrNoTPM2},
		{"bad old", `{ "type": "swtpm", "features": [ "tpm-send-command-header" ] }`, "", ErrNoTPM2},
		{"bad something else", "Usage: swtpm", "", ErrNoTPM2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got, err := version([]byte(tt.says)); got != tt.want || !errors.Is(err, tt.err) {
				t.Errorf("%q, %v", got, err)
			}
		})
	}
}

func TestMakePlan(t *testing.T) {
	in := Input{State: "/data/tpm", RunDir: "/run/vm", Swtpm: Program{"/usr/bin/swtpm", "0.7.1"}}
	swtpm := func(channel string) []string {
		return []string{"/usr/bin/swtpm", "socket", "--tpm2", "--tpmstate", "dir=/data/tpm,mode=0600", "--ctrl", "type=unixio," + channel, "--terminate"}
	}
	p := MakePlan(in)
	if diff := cmp.Diff(swtpm("fd=3"), p.Command); diff != "" || p.Confined {
		t.Error(diff)
	}
	if diff := cmp.Diff(swtpm("path=/run/vm/tpm.sock"), p.Unsupervised()); diff != "" {
		t.Error(diff)
	}
	in.Landlock = true
	in.Confine = func(read, write, command []string) []string { // it reaches its state alone
		return append(append(append([]string{"confine"}, read...), write...), command...)
	}
	p = MakePlan(in)
	if diff := cmp.Diff(append([]string{"confine", "/data/tpm"}, swtpm("fd=3")...), p.Command); diff != "" || !p.Confined {
		t.Error(diff)
	}
	if !p.Wanted() || (Plan{}).Wanted() {
		t.Error("it is not known whether there is a TPM")
	}
}

// TestTwice: what a start has made is there for the next one, and a socket that was left is none to it.
func TestTwice(t *testing.T) {
	dir := t.TempDir()
	p := MakePlan(Input{State: filepath.Join(dir, "tpm"), RunDir: dir})
	for range 2 {
		if err := p.Prepare(); err != nil {
			t.Fatal(err)
		}
		socket, err := p.Listen()
		if err != nil {
			t.Fatal(err)
		}
		socket.Close() // what lies there has nobody behind it
	}
	for path, mode := range map[string]os.FileMode{p.State: 0o700, p.Socket: 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != mode {
			t.Errorf("%s: %v, %v", path, info, err)
		}
	}
}
