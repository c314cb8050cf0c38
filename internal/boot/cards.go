package boot

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/network"
)

// card is what cloud-init has to know of a card that is served: DHCP says the rest.
type card struct {
	name   string
	mac    string
	v4, v6 bool
	others []netip.Prefix // addresses that DHCP does not say
}

// networkConfig is cloud-init's network configuration, in the format of the seed, for a guest that would not find out by itself: without one,
// cloud-init configures the first card alone, and nobody says a second address. It is nil where DHCP on one card says all.
func networkConfig(plan network.Plan, seed config.CloudSeed) []byte {
	var cards []card
	needed := false
	for i, b := range plan.Bridges {
		if b.Service == nil {
			continue
		}
		lease := b.Service.Lease
		c := card{name: fmt.Sprint("card", i), mac: b.Guest.String(), v4: lease.V4 != nil, v6: lease.V6 != nil}
		if c.v4 {
			c.others = lease.V4.Others
		}
		needed = needed || i > 0 || len(c.others) > 0
		cards = append(cards, c)
	}
	if !needed {
		return nil
	}
	told := version2(cards)
	if seed == config.SeedConfigDrive {
		told = networkData(cards)
	}
	text, _ := json.MarshalIndent(told, "", "  ") // JSON is YAML
	return append(text, '\n')
}

// version2 is what a NoCloud seed has (https://docs.cloud-init.io, networking config version 2).
func version2(cards []card) any {
	type ethernet struct {
		Match     map[string]string `json:"match"`
		DHCP4     bool              `json:"dhcp4"`
		DHCP6     bool              `json:"dhcp6"`
		Addresses []netip.Prefix    `json:"addresses,omitempty"`
	}
	ethernets := map[string]ethernet{}
	for _, c := range cards {
		ethernets[c.name] = ethernet{map[string]string{"macaddress": c.mac}, c.v4, c.v6, c.others}
	}
	return map[string]any{"version": 2, "ethernets": ethernets}
}

// networkData is what a config drive has: OpenStack's network_data.json (https://docs.openstack.org/nova/latest/user/metadata.html). The other
// format in its place is to cloud-init a machine without a card.
func networkData(cards []card) any {
	type link struct {
		ID   string `json:"id"`
		Type string `json:"type"`
		MAC  string `json:"ethernet_mac_address"`
	}
	type network struct {
		ID      string `json:"id"`
		Type    string `json:"type"`
		Link    string `json:"link"`
		Address string `json:"ip_address,omitempty"`
		Netmask string `json:"netmask,omitempty"`
	}
	links, networks := []link{}, []network{}
	for _, c := range cards {
		links = append(links, link{c.name, "phy", c.mac})
		if c.v4 {
			networks = append(networks, network{ID: c.name + "-ipv4", Type: "ipv4_dhcp", Link: c.name})
		}
		for i, a := range c.others {
			networks = append(networks, network{fmt.Sprintf("%s-ipv4-%d", c.name, i+1), "ipv4", c.name, a.Addr().String(), net.IP(net.CIDRMask(a.Bits(), 32)).String()})
		}
		if c.v6 {
			networks = append(networks, network{ID: c.name + "-ipv6", Type: "ipv6_dhcp", Link: c.name})
		}
	}
	return map[string]any{"links": links, "networks": networks, "services": []any{}}
}
