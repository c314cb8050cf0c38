package network

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vmentry/vmentry/test/pod"
)

// bridged says how a guest differs from what the pod had: all that a guest in bridge mode takes over.
type bridged struct {
	before   pod.State
	gateways map[netip.Addr]bool // the addresses of the real gateway, on the wire of each card
}

// newBridged is what a guest in p is measured by.
func newBridged(t *testing.T, p *pod.Pod) bridged {
	t.Helper()
	b := bridged{before: p.Before, gateways: map[netip.Addr]bool{}}
	for _, c := range pod.Cards(t, p.Peer) {
		for _, a := range c.Addresses {
			b.gateways[a.Prefix.Addr()] = true
		}
	}
	return b
}

// differences lists all that is not as it should be. Names are none of it where nobody serves the guest.
func (b bridged) differences(guest pod.State, served bool) []string {
	if len(guest.Cards) != len(b.before.Cards) {
		return []string{fmt.Sprintf("%d cards, want %d", len(guest.Cards), len(b.before.Cards))}
	}
	var all []string
	for i := range b.before.Cards {
		all = append(all, b.card(b.before.Cards[i], guest.Cards[i])...)
	}
	all = append(all, b.routes4(guest)...)
	all = append(all, b.routes6(guest)...)
	if served {
		all = append(all, b.names(guest)...)
	}
	return all
}

func (b bridged) card(pods, guests pod.Card) []string {
	var all []string
	wrong := func(format string, args ...any) {
		all = append(all, fmt.Sprintf("%s: ", guests.Name)+fmt.Sprintf(format, args...))
	}
	if guests.MAC != pods.MAC {
		wrong("MAC %s, want %s", guests.MAC, pods.MAC)
	}
	// A smaller MTU of the default route is the room that the network really has.
	if guests.MTU != pods.MTU && guests.MTU != b.before.MTUTo(pods, false) {
		wrong("MTU %d, want %d", guests.MTU, pods.MTU)
	}
	for _, want := range pods.Global() {
		i := slices.IndexFunc(guests.Addresses, func(a pod.Address) bool { return a.Prefix.Addr() == want.Addr() })
		switch {
		case i < 0:
			wrong("no address %s", want)
		case len(guests.Addresses[i].Flags) > 0:
			wrong("%s is %v", want, guests.Addresses[i].Flags)
		case want.Addr().Is4() && guests.Addresses[i].Prefix != want && b.onLink(want):
			wrong("%s, want %s", guests.Addresses[i].Prefix, want)
		}
	}
	for _, got := range guests.Global() {
		if !slices.ContainsFunc(pods.Global(), func(p netip.Prefix) bool { return p.Addr() == got.Addr() }) {
			wrong("%s is not the pod's", got)
		}
	}
	return all
}

// onLink says whether the pod reached its subnet without the gateway. Where it did not, its guest may have a longer prefix.
func (b bridged) onLink(subnet netip.Prefix) bool {
	return subnet.IsSingleIP() || slices.ContainsFunc(b.before.Routes, func(r pod.Route) bool {
		return r.Destination == subnet.Masked() && !r.Via.IsValid()
	})
}

// routes4: the guest has the pod's routes, and no others but those to vmentry's own addresses, which are link-local.
func (b bridged) routes4(guest pod.State) []string {
	if !slices.ContainsFunc(b.before.Global(), netip.Addr.Is4) {
		return nil // a client that nobody serves makes itself a link-local address in the end (RFC 3927), and a default route with it
	}
	guest.Routes = slices.DeleteFunc(slices.Clone(guest.Routes), func(r pod.Route) bool {
		own := r.Destination.IsSingleIP() && r.Destination.Addr().IsLinkLocalUnicast() && !r.Via.IsValid()
		return own && !slices.ContainsFunc(b.before.Routes, func(pods pod.Route) bool { return pods.Destination == r.Destination })
	})
	want, got := routes(b.before, false), routes(guest, false)
	return append(lacks(want, got, "no route"), lacks(got, want, "a route that the pod had not:")...)
}

// routes6: a guest learns from a router advertisement what is on the link, and its default router by that one's link-local address.
func (b bridged) routes6(guest pod.State) []string {
	want, got := onLink6(b.before), onLink6(guest)
	all := append(lacks(want, got, "not on the link:"), lacks(got, want, "on the link, which it was not for the pod:")...)
	pods, wanted := b.before.Default(true)
	guests, is := guest.Default(true)
	switch {
	case wanted && !is:
		all = append(all, "no default route of IPv6")
	case !wanted && is:
		all = append(all, fmt.Sprintf("the pod had no route like %s", guests))
	case wanted && guests.Via != pods.Via && !b.gateways[guests.Via]:
		all = append(all, fmt.Sprintf("%s is not the pod's gateway, %s", guests, pods.Via))
	}
	return all
}

// routes are the routes of a family with the cards by number, as the guest has names of its own for them.
func routes(s pod.State, six bool) []string {
	var all []string
	for _, r := range s.Routes {
		if r.Destination.Addr().Is6() == six {
			r.Card = fmt.Sprint("#", slices.IndexFunc(s.Cards, func(c pod.Card) bool { return c.Name == r.Card }))
			all = append(all, r.String())
		}
	}
	return all
}

// onLink6 are the subnets that IPv6 reaches without a gateway.
func onLink6(s pod.State) []string {
	s.Routes = slices.DeleteFunc(slices.Clone(s.Routes), func(r pod.Route) bool {
		return r.Via.IsValid() || r.Destination.IsSingleIP() || r.IsDefault()
	})
	return routes(s, true)
}

// names: name servers and search domains, and the host name. A server that only the pod reaches was replaced by another.
func (b bridged) names(guest pod.State) []string {
	var all []string
	if b.unreachableServer() {
		if len(guest.Servers) != 1 || guest.Servers[0].IsLoopback() {
			all = append(all, fmt.Sprintf("name servers %v", guest.Servers))
		}
	} else {
		all = append(all, lacks(words(b.before.Servers), words(guest.Servers), "no name server")...)
		all = append(all, lacks(words(guest.Servers), words(b.before.Servers), "the pod has no name server")...)
	}
	if !slices.Equal(guest.Search, b.before.Search) {
		all = append(all, fmt.Sprintf("search domains %v, want %v", guest.Search, b.before.Search))
	}
	// dhcpcd adds the domain to the name by itself.
	if name, _, _ := strings.Cut(guest.Hostname, "."); name != b.before.Hostname {
		all = append(all, fmt.Sprintf("host name %q, want %q", guest.Hostname, b.before.Hostname))
	}
	return all
}

// unreachableServer says whether the pod's name server is one that a guest cannot reach.
func (b bridged) unreachableServer() bool {
	return slices.ContainsFunc(b.before.Servers, netip.Addr.IsLoopback)
}

// lacks says what of want is not in got.
func lacks(want, got []string, what string) []string {
	var all []string
	for _, w := range want {
		if !slices.Contains(got, w) {
			all = append(all, what+" "+w)
		}
	}
	return all
}

func words[T fmt.Stringer](values []T) []string {
	var all []string
	for _, v := range values {
		all = append(all, v.String())
	}
	return all
}
