package container

import (
	"net"
	"testing"

	"github.com/vmentry/vmentry/test/login"
)

// TestBridge is the command line of RancherVM: the container's address is the guest's, before and after a restart.
func TestBridge(t *testing.T) {
	t.Parallel()
	k := login.NewKey(t)
	options := append([]string{"--cap-add", "NET_ADMIN", "--device", "/dev/net/tun", "--volume", anybodys(t) + ":/ranchervm"},
		settings("RANCHER_VM=true", "VM_SSH_AUTHORIZED_KEYS="+k.Line)...)
	m := run(t, append(options, volume(t)...), "-m", "1024m", "-smp", "1")
	for start := range 2 {
		if start > 0 {
			m = m.again()
		}
		m.stderr.Await(t, "INF ready")
		address := m.engine("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", m.name)
		guest := m.loginAt(net.JoinHostPort(address, "22"), "core", k.Auth())
		guest.Mentions("ip -4 -o addr show", " "+address+"/")
		guest.Wants("cat /sys/class/net/e*/address", m.engine("inspect", "--format", "{{range .NetworkSettings.Networks}}{{.MacAddress}}{{end}}", m.name))
		if code, reason := m.probe(); code != 0 {
			t.Errorf("not ready: %s", reason)
		}
		guest.settled()
		m.stop()
	}
}
