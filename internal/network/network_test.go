package network

import (
	"net/netip"
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
