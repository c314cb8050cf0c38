package k8s

import (
	"fmt"
	"net"
	"testing"
)

// TestStatefulSet: what the guest has written is there when its pod was deleted, and when it was killed.
func TestStatefulSet(t *testing.T) {
	c := newCluster(t)
	c.startOutside()
	k := c.secretKey("vm")
	c.volume("data-vm-0", "statefulset/vm")
	c.apply("statefulset.yaml")

	var machine, uid string
	for round, end := range []struct {
		how  []string
		says string // by the log
	}{
		{how: nil, says: "shut down as asked"},
		{how: []string{"--grace-period", "0", "--force"}},
		{how: nil, says: "shut down as asked"},
	} {
		c.awaitAnother("vm-0", uid)
		uid = c.field("pod/vm-0", ".metadata.uid")
		guest := c.login(net.JoinHostPort(c.field("pod/vm-0", ".status.podIP"), "2222"), "core", k)
		if id := guest.Says("cat /etc/machine-id"); machine == "" {
			machine = id
		} else if id != machine {
			t.Errorf("round %d: another machine: %s, then %s", round, machine, id)
		}
		guest.Wants("cat written-* 2>/dev/null | wc -l", fmt.Sprint(round))
		guest.Says(fmt.Sprintf("echo %d > written-%d && sync", round, round))
		guest.Close()
		log := c.follow("vm-0")
		c.kubectl(append([]string{"delete", "pod", "vm-0"}, end.how...)...)
		if end.says != "" {
			log.Await(t, end.says)
		}
	}
}
