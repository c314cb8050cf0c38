package dhcp

import (
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// ordinary is a network with prefixes and gateways in them, and some routes more.
func ordinary() Config {
	return Config{
		Guest:    guestMAC,
		Server:   serverMAC,
		HostName: "pod-0",
		Search:   []string{"default.svc.cluster.local", "svc.cluster.local", "bad name", "cluster.local"},
		NTP:      []netip.Addr{netip.MustParseAddr("10.77.0.123"), netip.MustParseAddr("2001:db8:77::123")},
		MTU:      1400,
		V4: &V4{
			Address:   netip.MustParsePrefix("10.77.0.5/24"),
			Server:    netip.MustParseAddr("10.77.0.2"),
			AnswerARP: true,
			Router:    netip.MustParseAddr("10.77.0.1"),
			Routes: []Route{
				{Dst: netip.MustParsePrefix("10.99.0.0/16"), Via: netip.MustParseAddr("10.77.0.254")},
				{Dst: netip.MustParsePrefix("10.98.0.0/16"), Via: netip.MustParseAddr("172.31.0.1")},
				{Dst: netip.MustParsePrefix("192.0.2.0/24")},
			},
			DNS: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("10.96.0.11")},
		},
		V6: &V6{
			Addresses: []netip.Addr{netip.MustParseAddr("2001:db8:77::5")},
			Server:    netip.MustParseAddr("fe80::76:6dff:fe00:1"),
			Router:    netip.MustParseAddr("fe80::1"),
			RouterMAC: routerMAC,
			OnLink:    []netip.Prefix{netip.MustParsePrefix("2001:db8:77::/64")},
			Routes:    []netip.Prefix{netip.MustParsePrefix("2001:db8:99::/48")},
			DNS:       []netip.Addr{netip.MustParseAddr("2001:db8:96::10")},
		},
	}
}

// routed is a network where all goes through a gateway outside of the guest's own network, as with Calico.
func routed() Config {
	return Config{
		Guest:    guestMAC,
		Server:   serverMAC,
		HostName: "pod-1",
		V4: &V4{
			Address: netip.MustParsePrefix("10.77.0.5/32"),
			Server:  netip.MustParseAddr("169.254.1.1"),
			Router:  netip.MustParseAddr("169.254.1.1"),
			DNS:     []netip.Addr{netip.MustParseAddr("10.96.0.10")},
		},
		V6: &V6{
			Addresses: []netip.Addr{netip.MustParseAddr("2001:db8:77::5"), netip.MustParseAddr("fd00:77::5")},
			Server:    netip.MustParseAddr("fe80::76:6dff:fe00:1"),
			Router:    netip.MustParseAddr("fe80::ecee:eeff:feee:eeee"),
		},
	}
}

var (
	addresses4OfOrdinary = []string{"10.77.0.5/24"}
	routes4OfOrdinary    = []string{"10.77.0.0/24", "192.0.2.0/24", "172.31.0.1", "10.99.0.0/16 via 10.77.0.254", "10.98.0.0/16 via 172.31.0.1", "default via 10.77.0.1"}
	routes6OfOrdinary    = []string{"2001:db8:77::/64", "2001:db8:99::/48 via fe80::1", "default via fe80::1"}
	routes4OfRouted      = []string{"169.254.1.1", "default via 169.254.1.1"}
	routes6OfRouted      = []string{"default via fe80::ecee:eeff:feee:eeee"}
	searchOfOrdinary     = "default.svc.cluster.local svc.cluster.local cluster.local"
)

func onlyV4(c Config) Config {
	c.V6 = nil
	return c
}

func join(lists ...[]string) (all []string) {
	for _, l := range lists {
		all = append(all, l...)
	}
	return all
}

// knowing sets what a kernel or a client has to be told to take routes from router advertisements.
func knowing(t *testing.T, m *machine) {
	t.Helper()
	m.run(t, "sh", "-c", "echo 128 >/proc/sys/net/ipv6/conf/eth0/accept_ra_rt_info_max_plen")
}

func TestUdhcpc(t *testing.T) {
	t.Parallel()
	t.Run("ordinary", func(t *testing.T) {
		t.Parallel()
		guest, port := guestOn(t, onlyV4(ordinary()))
		startUdhcpc(t, guest)
		// Debian's script for udhcpc knows neither classless routes nor search lists: what udhcpc read shows in its environment.
		want := state{
			Addresses: addresses4OfOrdinary,
			Routes:    []string{"10.77.0.0/24", "default via 10.77.0.1"},
			MTU:       1400,
			Resolv:    []string{"domain default.svc.cluster.local", "nameserver 10.96.0.10", "nameserver 10.96.0.11"},
			HostName:  "localhost",
		}
		guest.await(t, want)
		lease := []string{
			"broadcast=10.77.0.255", "dns=10.96.0.10 10.96.0.11", "domain=default.svc.cluster.local", "hostname=pod-0", "ip=10.77.0.5",
			"lease=4294967295", "mask=24", "mtu=1400", "ntpsrv=10.77.0.123", "router=10.77.0.1", "search=" + searchOfOrdinary, "serverid=10.77.0.2",
			"staticroutes=172.31.0.1/32 0.0.0.0 192.0.2.0/24 0.0.0.0 10.99.0.0/16 10.77.0.254 10.98.0.0/16 172.31.0.1 0.0.0.0/0 10.77.0.1",
		}
		guest.awaitLease(t, "bound", lease)
		guest.signalUdhcpc(t, "USR1") // renew, by a unicast for which it asks with ARP where the server is
		guest.awaitLease(t, "renew", lease)
		guest.signalUdhcpc(t, "USR2") // release
		guest.await(t, state{MTU: 1400, Resolv: want.Resolv, HostName: "localhost"})
		awaitEqual(t, 1, func() (int, error) {
			return strings.Count(port.tcpdump(t, "udp dst port 67"), "DHCP-Message (53), length 1: Release"), nil
		})
		port.checkSent(t)
	})
	t.Run("routed", func(t *testing.T) {
		t.Parallel()
		guest, port := guestOn(t, onlyV4(routed()))
		startUdhcpc(t, guest, "-B") // answers to be broadcast
		guest.await(t, state{
			Addresses: []string{"10.77.0.5/32"},
			Routes:    []string{"default via 169.254.1.1"},
			MTU:       1500,
			Resolv:    []string{"nameserver 10.96.0.10"},
			HostName:  "localhost",
		})
		guest.awaitLease(t, "bound", []string{
			"dns=10.96.0.10", "hostname=pod-1", "ip=10.77.0.5", "lease=4294967295", "mask=32", "router=169.254.1.1", "serverid=169.254.1.1",
			"staticroutes=169.254.1.1/32 0.0.0.0 0.0.0.0/0 169.254.1.1",
		})
		port.checkSent(t)
	})
	t.Run("another guest", func(t *testing.T) {
		t.Parallel()
		guest, tap := link(t, routerMAC)
		port := &capture{File: tap}
		serve(t, onlyV4(ordinary()), port)
		guest.run(t, "ip", "link", "set", "eth0", "up")
		if out, err := guest.try("udhcpc", "-i", "eth0", "-f", "-n", "-q", "-t", "2", "-T", "1", "-s", "/bin/true"); err == nil {
			t.Errorf("another MAC than the guest's got a lease: %s", out)
		}
		if got := port.tcpdump(t, "udp dst port 67"); !strings.Contains(got, "Discover") {
			t.Errorf("the server has not seen its discovery: %s", got)
		}
		if got := port.tcpdump(t, "udp port 68 and ether src "+serverMAC.String()); got != "" {
			t.Errorf("the server has answered: %s", got)
		}
	})
}

// startUdhcpc starts udhcpc, which writes its environment, with the lease in it, to /run/EVENT.
func startUdhcpc(t *testing.T, m *machine, args ...string) {
	t.Helper()
	const script = "#!/bin/sh\nenv >/run/$1.new\nmv /run/$1.new /run/$1\nexec /etc/udhcpc/default.script \"$@\"\n"
	if err := os.WriteFile(filepath.Join(m.dir, "etc/lease"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"udhcpc", "-i", "eth0", "-f", "-p", "/run/udhcpc.pid", "-s", "/etc/lease"}, args...)
	for _, o := range []string{"staticroutes", "search", "ntpsrv", "mtu"} {
		args = append(args, "-O", o)
	}
	m.run(t, "ip", "link", "set", "eth0", "up")
	m.start(t, args...)
}

func (m *machine) signalUdhcpc(t *testing.T, name string) {
	t.Helper()
	m.run(t, "sh", "-c", "kill -"+name+" $(cat /run/udhcpc.pid)")
}

// awaitLease waits for an event and compares what udhcpc says of the lease.
func (m *machine) awaitLease(t *testing.T, event string, want []string) {
	t.Helper()
	const leaseOnly = `^(broadcast|dns|domain|hostname|ip|lease|mask|mtu|ntpsrv|router|search|serverid|staticroutes)=`
	awaitEqual(t, strings.Join(want, "\n"), func() (string, error) {
		out, err := m.try("sh", "-c", "grep -E '"+leaseOnly+"' /run/"+event+" | LC_ALL=C sort")
		return strings.TrimSpace(out), err
	})
}

// wholeOrdinary is the state of a guest on ordinary whose client does all that it is told.
func wholeOrdinary() state {
	return state{
		Addresses: join(addresses4OfOrdinary, []string{"2001:db8:77::5/128"}),
		Routes:    join(routes4OfOrdinary, routes6OfOrdinary),
		MTU:       1400,
		HostName:  "pod-0",
	}
}

// wholeRouted is the same on routed.
func wholeRouted() state {
	return state{
		Addresses: []string{"10.77.0.5/32", "2001:db8:77::5/128", "fd00:77::5/128"},
		Routes:    join(routes4OfRouted, routes6OfRouted),
		MTU:       1500,
		HostName:  "pod-1",
	}
}

// dhclient leaves router advertisements to the kernel. Each of -4 and -6 writes resolv.conf anew, so they run one after the other.
func TestDhclient(t *testing.T) {
	t.Parallel()
	t.Run("ordinary", func(t *testing.T) {
		t.Parallel()
		guest, port := guestOn(t, ordinary())
		knowing(t, guest)
		guest.run(t, "dhclient", "-4", "-1", "-v", "eth0")
		want := wholeOrdinary()
		want.Addresses = addresses4OfOrdinary
		want.Resolv = []string{"domain default.svc.cluster.local", "search default.svc.cluster.local. svc.cluster.local. cluster.local.", "nameserver 10.96.0.10", "nameserver 10.96.0.11"}
		guest.await(t, want)
		guest.awaitLinkLocal(t)
		guest.run(t, "dhclient", "-6", "-1", "-v", "-pf", "/run/dhclient6.pid", "eth0")
		want = wholeOrdinary()
		want.Resolv = []string{"search default.svc.cluster.local. svc.cluster.local. cluster.local.", "nameserver 2001:db8:96::10"}
		guest.await(t, want)
		port.checkSent(t)
	})
	t.Run("routed", func(t *testing.T) {
		t.Parallel()
		guest, port := guestOn(t, routed())
		guest.run(t, "dhclient", "-4", "-1", "-v", "eth0")
		guest.awaitLinkLocal(t)
		guest.run(t, "dhclient", "-6", "-1", "-v", "-pf", "/run/dhclient6.pid", "eth0")
		want := wholeRouted()
		want.Resolv = []string{"nameserver 10.96.0.10"}
		guest.await(t, want)
		port.checkSent(t)
	})
}

// moved is ordinary after the guest has got other addresses: its lease file, or its memory, is from another pod.
func moved() Config {
	c := ordinary()
	c.V4.Address = netip.MustParsePrefix("10.77.0.6/24")
	c.V6.Addresses = []netip.Addr{netip.MustParseAddr("2001:db8:77::6")}
	return c
}

var (
	before = []string{"10.77.0.5/24", "2001:db8:77::5/128"}
	after  = []string{"10.77.0.6/24", "2001:db8:77::6/128"}
)

func (m *machine) awaitAddresses(t *testing.T, want []string) {
	t.Helper()
	awaitEqual(t, want, func() ([]string, error) {
		s, err := m.look()
		return s.Addresses, err
	})
}

// dhclient asks for the address of its last lease when it starts: init-reboot, and confirm.
func TestDhclientStartsAgain(t *testing.T) {
	t.Parallel()
	guest, tap := link(t, guestMAC)
	port := &capture{File: tap}
	stop := serve(t, ordinary(), port)
	start := func() string {
		v4 := guest.run(t, "dhclient", "-4", "-1", "-v", "eth0")
		guest.awaitLinkLocal(t)
		return v4 + guest.run(t, "dhclient", "-6", "-1", "-v", "-pf", "/run/dhclient6.pid", "eth0")
	}
	end := func(how string) {
		guest.run(t, "dhclient", "-4", how, "eth0")
		guest.run(t, "dhclient", "-6", how, "-pf", "/run/dhclient6.pid", "eth0")
	}
	start()
	guest.awaitAddresses(t, before)
	end("-x") // its leases stay
	guest.run(t, "ip", "-4", "addr", "flush", "dev", "eth0")
	if said := start(); strings.Contains(said, "DHCPDISCOVER") || strings.Contains(said, "XMT: Solicit") {
		t.Errorf("its old leases were not good enough for dhclient:\n%s", said)
	}
	guest.awaitAddresses(t, before)

	stop()
	serve(t, moved(), port)
	end("-x")
	guest.run(t, "ip", "-4", "addr", "flush", "dev", "eth0")
	if said := start(); !strings.Contains(said, "DHCPNAK") || !strings.Contains(said, "XMT: Solicit") {
		t.Errorf("dhclient was not refused its old leases:\n%s", said)
	}
	guest.awaitAddresses(t, after)

	end("-r")
	guest.awaitAddresses(t, nil)
	if sent := port.tcpdump(t, "port 67 or port 547"); !strings.Contains(sent, "length 1: Release") || !strings.Contains(sent, "dhcp6 release") {
		t.Errorf("dhclient has not released its leases:\n%s", sent)
	}
	port.checkSent(t)
}

// dhcpcd is told to rebind on behalf of another pod: it is refused, and takes what it is given instead.
func TestDhcpcdRebinds(t *testing.T) {
	t.Parallel()
	guest, tap := link(t, guestMAC)
	port := &capture{File: tap}
	stop := serve(t, ordinary(), port)
	startDhcpcd(t, guest)
	guest.awaitAddresses(t, before)
	if all := port.tcpdump(t, "udp port 547"); !strings.Contains(all, "dhcp6 solicit") || strings.Contains(all, "dhcp6 advertise") {
		t.Errorf("dhcpcd asks for a rapid commit, and did not get it:\n%s", all)
	}
	stop()
	serve(t, moved(), port)
	var told time.Time
	awaitEqual(t, true, func() (bool, error) { // dhcpcd misses the signal at times
		if time.Since(told) > 10*time.Second {
			guest.run(t, "dhcpcd", "-n", "eth0")
			told = time.Now()
		}
		return strings.Contains(port.tcpdump(t, "udp port 547"), "dhcp6 rebind"), nil
	})
	awaitEqual(t, true, func() (bool, error) { // it may keep the IPv6 address that it had for good, beside the new one
		s, err := guest.look()
		return len(s.Addresses) > 1 && s.Addresses[0] == after[0] && slices.Contains(s.Addresses, after[1]), err
	})
	port.checkSent(t)
}

// awaitLinkLocal waits until eth0 has a link-local address that can be bound to: dhclient -6 ends if it has not.
func (m *machine) awaitLinkLocal(t *testing.T) {
	t.Helper()
	awaitEqual(t, true, func() (bool, error) {
		out, err := m.try("ip", "-6", "addr", "show", "dev", "eth0", "scope", "link")
		return strings.Contains(out, "fe80::") && !strings.Contains(out, "tentative"), err
	})
}

func TestDhcpcd(t *testing.T) {
	t.Parallel()
	t.Run("ordinary", func(t *testing.T) {
		t.Parallel()
		guest, port := guestOn(t, ordinary())
		startDhcpcd(t, guest)
		want := wholeOrdinary()
		// dhcpcd 9 takes each on-link route for one to a host, knows no routes in router advertisements, and sets the MTU on
		// its routes and not on the card.
		want.Routes = join([]string{"10.77.0.0/24", "192.0.2.0", "172.31.0.1", "10.99.0.0/16 via 10.77.0.254", "10.98.0.0/16 via 172.31.0.1", "default via 10.77.0.1"},
			[]string{"2001:db8:77::/64", "default via fe80::1"})
		want.MTU = 1500
		want.Resolv = []string{"domain default.svc.cluster.local", "search " + searchOfOrdinary, "nameserver 10.96.0.10", "nameserver 10.96.0.11", "nameserver 2001:db8:96::10"}
		guest.await(t, want)
		port.checkSent(t)
	})
	t.Run("routed", func(t *testing.T) {
		t.Parallel()
		guest, port := guestOn(t, routed())
		startDhcpcd(t, guest)
		want := wholeRouted()
		want.Resolv = []string{"nameserver 10.96.0.10"}
		guest.await(t, want)
		port.checkSent(t)
	})
}

// startDhcpcd has it take the host name as it is told: it would else depend on which protocol is first.
func startDhcpcd(t *testing.T, m *machine) {
	t.Helper()
	m.start(t, "dhcpcd", "-B", "-d", "-e", "hostname_fqdn=server", "eth0")
}

func TestKernelRouterAdvertisements(t *testing.T) {
	t.Parallel()
	t.Run("ordinary", func(t *testing.T) {
		t.Parallel()
		guest, port := guestOn(t, ordinary())
		knowing(t, guest)
		guest.run(t, "ip", "link", "set", "eth0", "up")
		guest.await(t, state{Routes: routes6OfOrdinary, MTU: 1500, HostName: "localhost"})
		guest.awaitLinkLocal(t)
		for address, mac := range map[string]string{"fe80::1": routerMAC.String(), "fe80::76:6dff:fe00:1": serverMAC.String()} {
			if got := guest.run(t, "ndisc6", "-q", "-r", "10", address, "eth0"); !strings.EqualFold(strings.TrimSpace(got), mac) {
				t.Errorf("%s is at %s, want %s", address, got, mac)
			}
		}
		port.checkSent(t)
	})
	t.Run("routed", func(t *testing.T) {
		t.Parallel()
		guest, port := guestOn(t, routed())
		guest.run(t, "ip", "link", "set", "eth0", "up")
		guest.await(t, state{Routes: routes6OfRouted, MTU: 1500, HostName: "localhost"})
		port.checkSent(t)
	})
}

// systemd-networkd runs as it does in a container: without udev, and here without a bus.
func TestNetworkd(t *testing.T) {
	t.Parallel()
	t.Run("ordinary", func(t *testing.T) {
		t.Parallel()
		guest, port := guestOn(t, ordinary())
		startNetworkd(t, guest)
		want := wholeOrdinary()
		want.HostName = "localhost"                                   // systemd-hostnamed would set it
		want.Routes = append(want.Routes, "10.77.0.1", "10.77.0.254") // its own way to gateways
		guest.await(t, want)
		awaitEqual(t, map[string][]string{ // what it knows for systemd-resolved and -timesyncd, from all three sources
			"DNS":     {"10.96.0.10", "10.96.0.11", "2001:db8:96::10"},
			"DOMAINS": {"cluster.local", "default.svc.cluster.local", "svc.cluster.local"},
			"NTP":     {"10.77.0.123", "2001:db8:77::123"},
		}, func() (map[string][]string, error) {
			out, err := guest.try("sh", "-c", "grep -h -E '^(DNS|NTP|DOMAINS)=' /run/systemd/netif/links/*")
			known := map[string][]string{}
			for line := range strings.Lines(out) {
				key, words, _ := strings.Cut(line, "=")
				known[key] = strings.Fields(words)
				slices.Sort(known[key])
				known[key] = slices.Compact(known[key])
			}
			return known, err
		})
		lease := guest.run(t, "sh", "-c", "cat /run/systemd/netif/leases/*")
		for _, line := range []string{"HOSTNAME=pod-0", "MTU=1400", "LIFETIME=4294967295", "SERVER_ADDRESS=10.77.0.2"} {
			if !strings.Contains("\n"+lease, "\n"+line+"\n") {
				t.Errorf("no %s in the lease of systemd-networkd:\n%s", line, lease)
			}
		}
		port.checkSent(t)
	})
	t.Run("routed", func(t *testing.T) {
		t.Parallel()
		guest, port := guestOn(t, routed())
		startNetworkd(t, guest)
		want := wholeRouted()
		want.HostName = "localhost"
		guest.await(t, want)
		port.checkSent(t)
	})
}

func startNetworkd(t *testing.T, m *machine) {
	t.Helper()
	const network = `[Match]
Name=eth0
[Network]
DHCP=yes
IPv6AcceptRA=yes
[DHCPv4]
UseDomains=yes
UseMTU=yes
RoutesToDNS=no
RoutesToNTP=no
[IPv6AcceptRA]
UseDomains=yes
`
	m.run(t, "sh", "-c", "mkdir -p /run/systemd/network && cat >/run/systemd/network/eth0.network <<'END'\n"+network+"END")
	m.start(t, "/lib/systemd/systemd-networkd")
}
