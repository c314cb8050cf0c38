package network

import (
	"errors"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestMAC(t *testing.T) {
	seen := map[string]bool{}
	for _, id := range []string{"", "a", "b", "ab"} {
		m := MAC(id)
		if len(m) != 6 || m[0]&1 != 0 || m[0]&2 == 0 {
			t.Errorf("%s of %q is not a unicast, locally administered address", m, id)
		}
		if m.String() != MAC(id).String() {
			t.Errorf("%q has two addresses", id)
		}
		seen[m.String()] = true
	}
	if len(seen) != 4 {
		t.Errorf("four identities have %d addresses", len(seen))
	}
}

// TestOpenVhost: the device is opened once for each queue, where there is one, and else is named.
func TestOpenVhost(t *testing.T) {
	device := filepath.Join(t.TempDir(), "vhost-net")
	if _, err := (Tap{Queues: 2, Vhost: true}).openVhost(device); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), device) {
		t.Errorf("without the device: %v", err)
	}
	if err := os.WriteFile(device, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		tap  Tap
		want int
	}{{Tap{Queues: 3, Vhost: true}, 3}, {Tap{Queues: 3}, 0}} {
		files, err := tt.tap.openVhost(device)
		if err != nil || len(files) != tt.want {
			t.Errorf("%+v has %d descriptors, %v; want %d", tt.tap, len(files), err, tt.want)
		}
		closeAll(files)
	}
}

func TestMakePlan(t *testing.T) {
	forwards := []Forward{{Proto: "tcp", HostPort: 2222, GuestPort: 22}, {Proto: "udp", HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: 53, GuestPort: 53}}
	own := MAC("mine")
	tests := []struct {
		name  string
		in    Input
		want  Plan
		lines []string
	}{
		{"none", Input{Mode: None, NICModel: "virtio"}, Plan{Mode: None}, []string{"none: the guest has no network card"}},
		{"user", Input{Mode: User, HostName: "vm", Identity: "mine", NICModel: "virtio", Forwards: forwards},
			Plan{Mode: User, NICs: []NIC{{Model: "virtio", MAC: own, HostName: "vm", IPv4Only: true, Forwards: forwards}}},
			[]string{"user: one virtio card, " + own.String(), "tcp *:2222 → guest:22", "udp 127.0.0.1:53 → guest:53"}},
		{"user with a MAC of the user's, no ports", Input{Mode: User, Identity: "other", MAC: own, NICModel: "e1000"},
			Plan{Mode: User, NICs: []NIC{{Model: "e1000", MAC: own, IPv4Only: true}}},
			[]string{"user: one e1000 card, " + own.String(), "no port of the pod leads to the guest"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := MakePlan(tt.in)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tt.want, got, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(tt.lines, got.Lines()); diff != "" {
				t.Error(diff)
			}
		})
	}
}
