package network

import (
	"fmt"
	"net"
	"net/netip"
	"strings"
	"syscall"
	"testing"

	"github.com/vmentry/vmentry/test/pod"
)

const user mode = "user"

// dualStack is a pod with IPv4 and IPv6, whose container has the rights that every container has.
func dualStack(t *testing.T) (p *pod.Pod, four, six netip.Addr) {
	t.Helper()
	shape := pod.Named(t, "dual stack")
	shape.Container.Capabilities = pod.Dockers
	p = pod.New(t, shape)
	for _, a := range p.Before.Cards[0].Addresses {
		switch {
		case a.Prefix.Addr().Is4():
			four = a.Prefix.Addr()
		case !a.Prefix.Addr().IsLinkLocalUnicast():
			six = a.Prefix.Addr()
		}
	}
	return p, four, six
}

// TestUserIPv6: in user mode ports on IPv6 lead to the guest, by TCP and UDP; one on IPv6 alone is not on IPv4, nor on another address.
func TestUserIPv6(t *testing.T) {
	t.Parallel()
	p, four, six := dualStack(t)
	forwards := fmt.Sprintf("HOSTFWD=2222:7,[::1]:2223:7,0.0.0.0:2223:8,127.0.0.1:2224:7,[::1]:2225:7/udp,[%s]:2225:7/udp", six)
	c := newContainer(t, p, user, "vmtest.services=7 vmtest.dhcp=dhcpcd", forwards, "VM_READY=tcp:7")
	v := c.start(t)
	v.Stderr.Await(t, "INF ready")
	if out, code := v.call(t, "probe", "ready"); code != 0 {
		t.Errorf("probe ready: %d: %s", code, out)
	}
	for _, tt := range []struct {
		from pod.Space
		host netip.Addr
		port uint16
	}{
		{p.Client, four, 2222},
		{p.Client, six, 2222},
		{p.Space, netip.IPv6Loopback(), 2222},
		{p.Space, netip.IPv6Loopback(), 2223},
		{p.Space, netip.MustParseAddr("127.0.0.1"), 2224},
	} {
		if _, err := converseAt(tt.from, netip.AddrPortFrom(tt.host, tt.port)); err != nil {
			t.Errorf("%s port %d: %v", tt.host, tt.port, err)
		}
	}
	datagramAt(t, p.Space, netip.AddrPortFrom(netip.IPv6Loopback(), 2225))
	datagramAt(t, p.Client, netip.AddrPortFrom(six, 2225))
	for _, port := range []uint16{2223, 2224} {
		refused(t, p.Client, netip.AddrPortFrom(six, port))
	}
	// out by IPv6: the guest has a router, and is the pod to others
	v.settled(t, func(s pod.State) []string {
		for _, r := range s.Routes {
			if r.Destination.Addr().Is6() && r.Destination.Bits() == 0 {
				return nil
			}
		}
		return []string{"there is no default route of IPv6"}
	})
	v.calls(t, p.Client, pod.Client6, six)
	v.Signal(t, syscall.SIGTERM)
	v.Wants(t, 0)
}

// refused checks that nobody listens.
func refused(t *testing.T, from pod.Space, at netip.AddrPort) {
	t.Helper()
	err := from.Do(func() error {
		conn, err := net.Dial("tcp", at.String())
		if err == nil {
			conn.Close()
		}
		return err
	})
	if err == nil {
		t.Errorf("%s accepts", at)
	}
}

// TestUserIPv6Plan: a plan says what vmentry relays, and a script that it cannot.
func TestUserIPv6Plan(t *testing.T) {
	t.Parallel()
	p, _, _ := dualStack(t)
	c := newContainer(t, p, user, "", "HOSTFWD=2222:7,[::1]:2223:7")
	for args, says := range map[string][]string{
		"plan":          {"tcp [::]:2222 → guest:7, relayed by vmentry", "tcp [::1]:2223 → guest:7, relayed by vmentry"},
		"plan -o shell": {"# not in this script, because vmentry does it: tcp [::1]:2223 → guest:7"},
		"plan -o json":  {`"Relays"`},
	} {
		v := c.start(t, strings.Fields(args)...)
		v.Wants(t, 0)
		for _, s := range says {
			if !strings.Contains(v.Stdout.String(), s) {
				t.Errorf("%s does not say %q", args, s)
			}
		}
	}
}

// TestUserIPv4Pod: where the pod has no IPv6, the guest is offered none.
func TestUserIPv4Pod(t *testing.T) {
	t.Parallel()
	c := newContainer(t, pod.New(t, pod.Named(t, "Docker's bridge")), user, "", "HOSTFWD=2222:7")
	v := c.start(t, "plan")
	v.Wants(t, 0)
	if plan := v.Stdout.String(); !strings.Contains(plan, ",ipv6=off,") || strings.Contains(plan, "relayed") {
		t.Errorf("the plan is\n%s", plan)
	}
}

// TestUserIPv6Mistakes: a start that cannot have its ports ends before QEMU runs, and says which port of which variable it was.
func TestUserIPv6Mistakes(t *testing.T) {
	t.Parallel()
	p, _, _ := dualStack(t)
	var taken net.Listener
	if err := p.Space.Do(func() (err error) {
		taken, err = net.Listen("tcp", "[::1]:2223")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	tests := []struct {
		name     string
		settings []string
		code     int
		says     []string
	}{
		{"taken", []string{"HOSTFWD=[::1]:2223:7"}, 69, []string{"HOSTFWD", "[::1]:2223", "another process of this pod has the port"}},
		{"taken on one of all addresses", []string{"HOSTFWD=2223:7"}, 69, []string{"HOSTFWD", "[::]:2223", "another process of this pod has the port"}},
		{"not an address of the pod", []string{"HOSTFWD=[2001:db8::dead]:2224:7"}, 69, []string{"HOSTFWD", "none of this pod's"}},
		{"nobody to relay", []string{"HOSTFWD=[::1]:2224:7", "VM_SUPERVISE=false"}, 78, []string{"VM_SUPERVISE", "HOSTFWD", "IPv6"}},
		{"nobody to relay what was not asked for by name", []string{"HOSTFWD=2224:7", "VM_SUPERVISE=false"}, 0, []string{"by IPv4 alone", "VM_SUPERVISE=false"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v := newContainer(t, p, user, "vmtest.poweroff=0", tt.settings...).start(t)
			v.Wants(t, tt.code, tt.says...)
		})
	}
}
