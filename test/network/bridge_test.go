package network

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	diff "github.com/google/go-cmp/cmp"

	"github.com/vmentry/vmentry/test/pod"
)

// TestLayer2: with VM_DHCP=false the guest's own configuration counts, and what the network says of addresses reaches it.
func TestLayer2(t *testing.T) {
	t.Parallel()
	p := pod.New(t, pod.Named(t, "dual stack"))
	g := told(t, p, newBridged(t, p), "VM_DHCP=false")
	v := g.container.start(t)
	v.awaitReady(t, 1)
	g.works(t, v)
	if kinds, all := g.seen(t, v), []string{"dhcp4", "dhcp6", "mark", "ra"}; !slices.Equal(kinds, all) {
		t.Errorf("of the stranger's frames the guest sees %v, want %v", kinds, all)
	}
}

// TestMistakes: each is named, with its variable or with what is missing, and nothing has been touched.
func TestMistakes(t *testing.T) {
	t.Parallel()
	p := pod.New(t, pod.Named(t, "flannel"))
	before := p.Now(t)
	tests := []struct {
		name     string
		rights   pod.Container
		settings []string
		code     int
		says     []string
	}{
		{name: "unknown mode", settings: []string{"VM_NETWORK=brigde"}, code: 78, says: []string{"VM_NETWORK", "brigde"}},
		{name: "forwards in bridge mode", settings: []string{"HOSTFWD=2222:22"}, code: 78, says: []string{"HOSTFWD", "bridge"}},
		{name: "a port twice", settings: []string{"VM_NETWORK=user", "HOSTFWD=2222:22,2222:80"}, code: 78, says: []string{"HOSTFWD", "2222"}},
		{name: "port 0", settings: []string{"VM_NETWORK=user", "HOSTFWD=0:22"}, code: 78, says: []string{"HOSTFWD", "65535"}},
		{name: "port 65536", settings: []string{"VM_NETWORK=user", "HOSTFWD=2222:65536"}, code: 78, says: []string{"HOSTFWD", "65535"}},
		{name: "an interface that is not there", settings: []string{"VM_INTERFACES=eth7"}, code: 78, says: []string{"VM_INTERFACES", "eth7", "eth0"}},
		{name: "an interface twice", settings: []string{"VM_INTERFACES=eth0,eth0"}, code: 78, says: []string{"VM_INTERFACES", "eth0"}},
		{name: "a multicast MAC", settings: []string{"VM_MAC=01:00:5e:00:00:01"}, code: 78, says: []string{"VM_MAC", "01:00:5e:00:00:01"}},
		{name: "not a MAC", settings: []string{"VM_MAC=eth0"}, code: 78, says: []string{"VM_MAC", "eth0"}},
		{name: "without NET_ADMIN", rights: pod.Container{Capabilities: pod.Dockers}, code: 69, says: []string{"NET_ADMIN"}},
		{name: "without tun", rights: pod.Container{Capabilities: pod.NetAdmin, NoTun: true}, code: 69, says: []string{"/dev/net/tun"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newContainer(t, p, bridge, "", tt.settings...)
			c.startAs(t, tt.rights).Wants(t, tt.code, tt.says...)
			if changed := diff.Diff(before, p.Now(t), diff.Comparer(sameCard)); changed != "" {
				t.Errorf("the pod was changed (-before +after):\n%s", changed)
			}
		})
	}
}

func sameCard(a, b pod.Card) bool { return fmt.Sprint(a) == fmt.Sprint(b) }

// TestForeignMAC: in bridge mode the cluster may throw away what comes from another MAC than it gave the pod: vmentry warns, and obeys.
func TestForeignMAC(t *testing.T) {
	t.Parallel()
	p := pod.New(t, pod.Named(t, "flannel"))
	g := asking(t, p, "dhcpcd")
	g.container.settings = append(g.container.settings, "VM_MAC=52:54:00:12:34:56")
	v := g.container.start(t)
	v.awaitReady(t, 1)
	g.want.before.Cards = slices.Clone(g.want.before.Cards)
	g.want.before.Cards[0].MAC = "52:54:00:12:34:56"
	g.configured(t, v)
	if !regexp.MustCompile(`WRN.*VM_MAC`).MatchString(v.Stderr.String()) {
		t.Error("there is no warning about VM_MAC")
	}
}

// TestFiftyStarts: starts in one pod, of which every other is cut off, leave no more behind than the first one did.
func TestFiftyStarts(t *testing.T) {
	t.Parallel()
	p := pod.New(t, pod.Named(t, "dual stack"))
	c := newContainer(t, p, bridge, "", "PATH="+binaries.FakeQEMU+":"+os.Getenv("PATH"))
	var first string
	for i := range 50 {
		if i%2 == 0 {
			c.settings = append(c.settings, "FAKE_QEMU=")
			v := c.start(t)
			v.Stderr.Await(t, "QEMU started")
			v.Signal(t, syscall.SIGKILL)
			v.Exit(t)
		} else {
			c.settings = append(c.settings, "FAKE_QEMU=poweroff=1ms")
			c.start(t).Wants(t, 0)
		}
		if i == 1 {
			first = left(t, c)
		}
	}
	if changed := diff.Diff(first, left(t, c)); changed != "" {
		t.Errorf("what is left after fifty starts is not what was left after two (-two +fifty):\n%s", changed)
	}
}

// left is what vmentry has left in the pod and in its directories, without what is random.
func left(t *testing.T, c *container) string {
	t.Helper()
	out := c.pod.Space.Run(t, "sh", "-c", "ip -o addr; ip route show table all; ip rule; nft list ruleset; bridge link; ss -Hltun")
	out += "processes: " + strings.Join(c.pod.Space.Processes(t), " ")
	for _, dir := range []string{c.data, c.run} {
		files, err := filepath.Glob(dir + "/*")
		if err != nil {
			t.Fatal(err)
		}
		out += strings.Join(files, "\n") + "\n"
	}
	return random.ReplaceAllString(out, "…")
}

// MACs, link-local addresses made of them, and indexes of links.
var random = regexp.MustCompile(`([0-9a-f]{2}:){5}[0-9a-f]{2}|fe80:[0-9a-f:]+|(?m)^\d+: |@if\d+|port_no \S+`)
