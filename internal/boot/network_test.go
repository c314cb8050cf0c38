package boot

import (
	"net"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmentry/vmentry/internal/network"
	"github.com/vmentry/vmentry/internal/qemu"
)

// TestNICs: the descriptors are numbered in the order in which QEMU inherits them.
func TestNICs(t *testing.T) {
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	got := nics(network.Plan{NICs: []network.NIC{
		{Model: "virtio", MAC: mac, MTU: 9000, Tap: &network.Tap{Queues: 2, Vhost: true}},
		{Model: "e1000", MAC: mac, Tap: &network.Tap{Queues: 1}},
	}})
	want := []qemu.NIC{
		{Model: "virtio", MAC: mac, MTU: 9000, Tap: &qemu.Tap{FDs: []int{3, 4}, VhostFDs: []int{5, 6}}},
		{Model: "e1000", MAC: mac, Tap: &qemu.Tap{FDs: []int{7}}},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

func TestNetworkConfig(t *testing.T) {
	card := func(last byte, others ...netip.Prefix) network.BridgePlan {
		return network.BridgePlan{Guest: net.HardwareAddr{2, 0, 0, 0, 0, last}, Service: &network.Service{Lease: network.Lease{V4: &network.Lease4{Others: others}}}}
	}
	tests := []struct {
		name    string
		bridges []network.BridgePlan
		want    string
	}{
		{"one card", []network.BridgePlan{card(1)}, ""},
		{"none that is served", []network.BridgePlan{{}, {}}, ""},
		{"a second address", []network.BridgePlan{card(1, netip.MustParsePrefix("10.9.0.5/16"))}, `{
  "ethernets": {
    "card0": {
      "match": {
        "macaddress": "02:00:00:00:00:01"
      },
      "dhcp4": true,
      "dhcp6": false,
      "addresses": [
        "10.9.0.5/16"
      ]
    }
  },
  "version": 2
}
`},
		{"two cards", []network.BridgePlan{card(1), card(2)}, `{
  "ethernets": {
    "card0": {
      "match": {
        "macaddress": "02:00:00:00:00:01"
      },
      "dhcp4": true,
      "dhcp6": false
    },
    "card1": {
      "match": {
        "macaddress": "02:00:00:00:00:02"
      },
      "dhcp4": true,
      "dhcp6": false
    }
  },
  "version": 2
}
`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if diff := cmp.Diff(tt.want, string(networkConfig(network.Plan{Bridges: tt.bridges}))); diff != "" {
				t.Error(diff)
			}
		})
	}
}
