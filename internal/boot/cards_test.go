package boot

import (
	"net"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/network"
	"github.com/vmentry/vmentry/internal/provision"
)

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
			if diff := cmp.Diff(tt.want, string(networkConfig(network.Plan{Bridges: tt.bridges}, config.SeedNoCloud))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestNetworkData: a config drive has the same in OpenStack's words.
func TestNetworkData(t *testing.T) {
	var bridges []network.BridgePlan
	for i, lease := range []network.Lease{
		{V4: &network.Lease4{Others: []netip.Prefix{netip.MustParsePrefix("10.9.0.5/16")}}},
		{V4: &network.Lease4{}, V6: &network.Lease6{}},
	} {
		bridges = append(bridges, network.BridgePlan{Guest: net.HardwareAddr{2, 0, 0, 0, 0, byte(i)}, Service: &network.Service{Lease: lease}})
	}
	const want = `{
  "links": [
    {
      "id": "card0",
      "type": "phy",
      "ethernet_mac_address": "02:00:00:00:00:00"
    },
    {
      "id": "card1",
      "type": "phy",
      "ethernet_mac_address": "02:00:00:00:00:01"
    }
  ],
  "networks": [
    {
      "id": "card0-ipv4",
      "type": "ipv4_dhcp",
      "link": "card0"
    },
    {
      "id": "card0-ipv4-1",
      "type": "ipv4",
      "link": "card0",
      "ip_address": "10.9.0.5",
      "netmask": "255.255.0.0"
    },
    {
      "id": "card1-ipv4",
      "type": "ipv4_dhcp",
      "link": "card1"
    },
    {
      "id": "card1-ipv6",
      "type": "ipv6_dhcp",
      "link": "card1"
    }
  ],
  "services": []
}
`
	if diff := cmp.Diff(want, string(networkConfig(network.Plan{Bridges: bridges}, config.SeedConfigDrive))); diff != "" {
		t.Error(diff)
	}
}

// TestSeedTellsOfCards: what is written for cloud-init's cards reaches the guest in either format of the seed.
func TestSeedTellsOfCards(t *testing.T) {
	for seed, file := range map[config.CloudSeed]string{config.SeedNoCloud: "network-config", config.SeedConfigDrive: "openstack/latest/network_data.json"} {
		cfg := config.Config{CloudSeed: seed, Cloud: config.Source{Text: "#cloud-config\n{}\n"}, Network: config.ModeBridge}
		var mistakes config.Mistakes
		result, err := guestConfiguration(cfg, "vm", "i-1", []byte("of the cards"), &mistakes)
		if err != nil || len(mistakes) > 0 {
			t.Fatal(err, mistakes)
		}
		i := slices.IndexFunc(result.Seed.Files, func(f provision.File) bool { return f.Path == file })
		if i < 0 || string(result.Seed.Files[i].Data) != "of the cards" {
			t.Errorf("%s: there is no %s that says so: %v", seed, file, result.Seed.Files)
		}
	}
}
