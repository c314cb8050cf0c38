package network

import "net/netip"

// refusedNetworks are the networks that the guest does not reach in user and nat mode: what means the pod itself, or its node, to a socket of the pod's, and
// where clouds answer for what a machine is and may do. The guest is not that machine.
var refusedNetworks = append(refused("127.0.0.0/8", "0.0.0.0/8",
	"169.254.0.0/16",     // link-local: 169.254.169.254 of most clouds, and what else there is for the node alone
	"100.100.100.200/32", // Alibaba
	"168.63.129.16/32",   // Azure, beside 169.254.169.254: keys and certificates of the machine
	"192.0.0.192/32",     // Oracle, of old
), refused("::1/128", "::/128", "fe80::/10",
	"fd00:ec2::/64",          // Amazon's link-local addresses once more: ::254, ::23 of pods' identities
	"fd20:ce::254/128",       // Google
	"fd00:c1::a9fe:a9fe/128", // Oracle
	"fd00:a9fe:a9fe::1/128",  // Akamai
	"fd00:100::100:200/128",  // Alibaba
	"fd00:42::42/128",        // Scaleway
)...)

// refused are networks, and those of IPv4 also as the network writes them in IPv6: mapped (RFC 4291, section 2.5.5.2), and translated (NAT64: RFC 6052, section 2.1).
func refused(networks ...string) (all []netip.Prefix) {
	for _, n := range networks {
		p := netip.MustParsePrefix(n)
		all = append(all, p)
		if !p.Addr().Is4() {
			continue
		}
		for _, around := range []string{"::ffff:0:0", "64:ff9b::"} {
			b := netip.MustParseAddr(around).As16()
			copy(b[12:], p.Addr().AsSlice())
			all = append(all, netip.PrefixFrom(netip.AddrFrom16(b), 96+p.Bits()))
		}
	}
	return all
}

// IsRefused says whether an address is one that the guest does not reach in user and nat mode: the pod itself to a socket of the pod's, its node, and what answers
// for a cloud.
func IsRefused(a netip.Addr) bool {
	for _, p := range refusedNetworks {
		if p.Contains(a.WithZone("")) { // it contains none with a zone
			return true
		}
	}
	return false
}
