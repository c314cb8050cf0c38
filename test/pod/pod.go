// Package pod makes pods as the networks of the world make them, each in a network namespace of the test's own, with a node on the
// other side and a client behind it. Some are made by the real CNI plugins of Debian's containernetworking-plugins, the others by
// hand as their makers do it.
package pod

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/transcript"
)

// The client's addresses. It is behind the node: a pod reaches it by its default route only.
var (
	Client4 = netip.MustParseAddr("198.51.100.2")
	Client6 = netip.MustParseAddr("2001:db8:100::2")
)

// Pod is a pod's network, and what it is connected to.
type Pod struct {
	Shape  Shape
	Before State    // what the pod had when it was made
	Space  Space    // the pod's namespace
	Peer   Space    // who has the gateway's addresses, and reaches the pod without a router between them
	Client Space    // who is reached through the gateway, with Client4 and Client6
	Wires  []string // the other ends of the pod's interfaces, in Peer and in the order of Before.Cards: where a test may listen and speak

	resolvConf string
	node       Space // where CNI plugins run; Peer, but where the host cannot speak to its pods
}

// New makes a pod that is there until the test has ended.
func New(t testing.TB, shape Shape) *Pod {
	t.Helper()
	p := &Pod{Shape: shape, Space: newSpace(t, "pod"), Peer: newSpace(t, "node"), Client: newSpace(t, "client")}
	p.node = p.Peer
	p.connectClient(t)
	p.resolvConf = filepath.Join(t.TempDir(), "resolv.conf")
	p.writeResolvConf(t, shape.DNS)
	shape.build(t, p)
	p.settle(t)
	p.Before = inspect(t, p.Space, p.Hostname(), p.resolvConf)
	if p.Wires == nil {
		p.Wires = p.otherEnds(t)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the pod's namespace:\n%s\nits node's:\n%s", p.Space.Describe(), p.Peer.Describe())
		}
	})
	return p
}

// Hostname is the pod's host name.
func (p *Pod) Hostname() string { return "web-0" }

// connectClient joins the client to the node, which forwards as every node of a cluster does.
func (p *Pod) connectClient(t testing.TB) {
	p.Peer.script(t, fmt.Sprintf(`
		sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1
		ip link add client mtu 9000 type veth peer name eth0 mtu 9000 netns %s
		ip addr add 198.51.100.1/24 dev client
		ip addr add 2001:db8:100::1/64 dev client nodad
		ip link set client up`, p.Client))
	p.Client.script(t, `
		ip addr add 198.51.100.2/24 dev eth0
		ip addr add 2001:db8:100::2/64 dev eth0 nodad
		ip link set eth0 up
		ip route add default via 198.51.100.1
		ip route add default via 2001:db8:100::1`)
	// A route out of the node that is not the pods': proxy ARP answers for what is reached by another link alone.
	p.Peer.script(t, "ip route add default via 198.51.100.2; ip route add default via 2001:db8:100::2")
}

func (p *Pod) writeResolvConf(t testing.TB, text string) {
	t.Helper()
	if err := os.WriteFile(p.resolvConf, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// settle waits until the pod's and the node's addresses have been found to be nobody else's, as runtimes do before a container starts.
func (p *Pod) settle(t testing.TB) {
	t.Helper()
	for _, s := range []Space{p.Space, p.Peer} {
		Eventually(t, func() error {
			for _, c := range Cards(t, s) {
				for _, a := range c.Addresses {
					if len(a.Flags) > 0 {
						return fmt.Errorf("%s of %s is %v", a.Prefix, c.Name, a.Flags)
					}
				}
			}
			return nil
		})
	}
}

// otherEnds are the names of the veths' other ends.
func (p *Pod) otherEnds(t testing.TB) []string {
	t.Helper()
	there := links(t, p.Peer)
	var names []string
	for _, l := range links(t, p.Space) {
		i := slices.IndexFunc(there, func(o ipLink) bool { return o.Index == l.PeerIndex })
		if i < 0 {
			t.Fatalf("%s of the pod has no other end in its node", l.Name)
		}
		names = append(names, there[i].Name)
	}
	return names
}

// Now is what the pod's interfaces are by now.
func (p *Pod) Now(t testing.TB) []Card {
	t.Helper()
	return Cards(t, p.Space)
}

// Capabilities are those that a container has.
type Capabilities string

const (
	Default  Capabilities = ""          // the runtime's default set, and NET_ADMIN
	NetAdmin Capabilities = "NET_ADMIN" // that one alone
	Dockers  Capabilities = "default"   // the runtime's default set
	None     Capabilities = "none"      // none at all
	All      Capabilities = "all"       // of a privileged container: it can also write to /sys and /proc/sys
)

// bounds are the capabilities in the words of setpriv. The default set is that of Docker and containerd.
func (c Capabilities) bounds() string {
	const dockers = ",+chown,+dac_override,+fowner,+fsetid,+kill,+setgid,+setuid,+setpcap,+net_bind_service,+net_raw,+sys_chroot,+mknod,+audit_write,+setfcap"
	return map[Capabilities]string{Default: "-all,+net_admin" + dockers, NetAdmin: "-all,+net_admin", Dockers: "-all" + dockers, None: "-all", All: "+all"}[c]
}

// Container is how a container runs in a pod.
type Container struct {
	Capabilities Capabilities
	NoTun        bool // there is no /dev/net/tun
	User         int  // who is in the group root (0), as OpenShift has it; 0: root
}

// Command is a command that will run as process 1 of a container in the pod: with namespaces of its own for processes, mounts and the
// host name, and with the pod's resolv.conf.
func (p *Pod) Command(c Container, args ...string) *exec.Cmd {
	script := []string{
		"mount --make-rprivate /",
		"mount -t proc proc /proc",
		"mount -t sysfs sysfs /sys",
		"echo " + p.Hostname() + " >/proc/sys/kernel/hostname",
		"mount --bind '" + p.resolvConf + "' /etc/resolv.conf",
	}
	if c.NoTun {
		script = append(script, "mount -t tmpfs none /dev/net")
	}
	if c.Capabilities != All {
		script = append(script, "mount -o remount,bind,ro /sys", "mount --bind /proc/sys /proc/sys", "mount -o remount,bind,ro /proc/sys")
	}
	user := ""
	if c.User != 0 {
		user = fmt.Sprintf("--reuid=%d --regid=0 --clear-groups ", c.User)
	}
	script = append(script, "exec setpriv "+user+"--inh-caps=-all --bounding-set="+c.Capabilities.bounds()+` "$@"`)
	cmd := p.Space.Command("sh", append([]string{"-ec", strings.Join(script, "\n"), "sh"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS | syscall.CLONE_NEWUTS}
	return cmd
}

// Exec is a command that will run in the container whose process 1 has the given number, as `kubectl exec` runs one.
func Exec(pid int, args ...string) *exec.Cmd {
	return exec.Command("nsenter", append([]string{"--target", fmt.Sprint(pid), "--mount", "--uts", "--net", "--pid", "--"}, args...)...)
}

// Eventually waits until try succeeds. It is for what the kernel does in its own time and tells nobody of.
func Eventually(t testing.TB, try func() error) {
	t.Helper()
	var err error
	for give := time.Now().Add(transcript.Patience); time.Now().Before(give); time.Sleep(100 * time.Millisecond) {
		if err = try(); err == nil {
			return
		}
	}
	t.Fatalf("it never came about: %v", err)
}

// ClientAddr is the client's address, of IPv4 or IPv6.
func (p *Pod) ClientAddr(six bool) netip.Addr {
	if six {
		return Client6
	}
	return Client4
}
