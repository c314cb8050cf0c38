package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// cut runs an applier that is killed at its n-th message to the kernel, and says whether it came to its end before. strace counts them by thread:
// an applier has one.
func (s space) cut(t *testing.T, o order, n int) (whole bool) {
	t.Helper()
	o.ResolvConf = "/nonexistent"
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	const calls = "sendto,sendmsg,ioctl"
	script := fmt.Sprintf(`mount --make-rprivate / && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys &&
		exec setpriv --inh-caps=-all --bounding-set=-all,+net_admin strace -f -qq -o /dev/null -e trace=%s -e inject=%s:signal=SIGKILL:when=%d "$0"`, calls, calls, n)
	cmd := exec.Command("nsenter", "--net="+s.path(), "--", "unshare", "--mount", "sh", "-ec", script, os.Args[0])
	cmd.Env = append(os.Environ(), applierVariable+"="+string(text))
	out, err := cmd.Output() // without a standard input it ends when it is done
	var exit *exec.ExitError
	if errors.As(err, &exit) && len(exit.Stderr) > 0 { // it does not say anything when it is killed
		t.Fatalf("%v: %s", err, exit.Stderr)
	}
	if (err == nil) != (len(out) > 0) {
		t.Fatalf("%v, and it says %q", err, out)
	}
	return err == nil
}

// TestCutAnywhere: starts that are killed, each a little later than the one before, and each in what that one has left, in both modes that
// change the pod. The next start makes what the first would have made, and one in another mode finds the pod as it was.
func TestCutAnywhere(t *testing.T) {
	t.Parallel()
	p := newNATPod(t, 1500, true)
	before := p.snapshot(t)
	order := func(m Mode) order { return natOrder(func(in *Input) { in.Mode, in.AllPorts = m, m == NAT }) }
	nat, bridge := p.whole(t, order(NAT), ""), p.whole(t, order(Bridge), "")
	const stride = 7 // no multiple of what a step takes: the places differ from one step to the next
	for n, whole := 1, false; !whole; n += stride {
		if n > 1000 {
			t.Fatal("a start has no end")
		}
		whole = p.pod.cut(t, order(NAT), n)
		whole = p.pod.cut(t, order(Bridge), n) && whole
	}
	p.whole(t, order(NAT), nat)
	p.whole(t, order(Bridge), bridge)
	p.whole(t, order(None), before)
}

// whole carries out an order, and returns what the pod is when that is done: want, or without one what there is when the kernel has seen
// that the bridge has ports.
func (p natPod) whole(t *testing.T, o order, want string) (got string) {
	t.Helper()
	a := p.pod.apply(t, o)
	defer a.kill()
	is := func() bool {
		got = p.snapshot(t)
		if want == "" {
			return strings.Contains(got, "local "+a.Plan.Bridges[0].Reach.V6.String())
		}
		return got == want
	}
	if !eventually(is) {
		t.Fatalf("%s: (-want +got)\n%s", o.Input.Mode, cmp.Diff(strings.Split(want, "\n"), strings.Split(got, "\n")))
	}
	return got
}
