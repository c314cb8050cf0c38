package network

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

	"github.com/vmentry/vmentry/test/pod"
	"github.com/vmentry/vmentry/test/process"
)

const passt mode = "passt"

// TestPasst: the guest has the pod's addresses, is reached at the ports of HOSTFWD by IPv4 and IPv6, and to others it is the pod.
func TestPasst(t *testing.T) {
	t.Parallel()
	p, four, six := dualStack(t)
	c := newContainer(t, p, passt, "vmtest.services=7 vmtest.dhcp=dhcpcd", "HOSTFWD=2222:7,2222:7/udp,127.0.0.1:2223:7,[::1]:2224:7", "VM_READY=tcp:7", "VM_NAME=shared")
	v := c.start(t)
	v.Stderr.Await(t, "INF ready")
	v.settled(t, func(s pod.State) (wrong []string) {
		for _, want := range []netip.Addr{four, six} {
			if !slices.ContainsFunc(s.Cards[0].Addresses, func(a pod.Address) bool { return a.Prefix.Addr() == want && len(a.Flags) == 0 }) {
				wrong = append(wrong, "the guest does not have "+want.String())
			}
		}
		for _, six := range []bool{false, true} {
			if !slices.ContainsFunc(s.Routes, func(r pod.Route) bool { return r.Destination.Bits() == 0 && r.Destination.Addr().Is6() == six }) {
				wrong = append(wrong, fmt.Sprintf("no default route (IPv6: %v)", six))
			}
		}
		return wrong
	})
	loopback4, loopback6 := netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()
	for _, tt := range []struct {
		from pod.Space
		at   netip.AddrPort
	}{
		{p.Client, netip.AddrPortFrom(four, 2222)},
		{p.Client, netip.AddrPortFrom(six, 2222)},
		{p.Peer, netip.AddrPortFrom(four, 2222)},
		{p.Space, netip.AddrPortFrom(loopback4, 2222)},
		{p.Space, netip.AddrPortFrom(loopback4, 2223)},
		{p.Space, netip.AddrPortFrom(loopback6, 2224)},
	} {
		if _, err := converseAt(tt.from, tt.at); err != nil {
			t.Errorf("%s: %v", tt.at, err)
		}
	}
	datagramAt(t, p.Client, netip.AddrPortFrom(four, 2222))
	datagramAt(t, p.Client, netip.AddrPortFrom(six, 2222))
	for _, at := range []netip.AddrPort{netip.AddrPortFrom(four, 2223), netip.AddrPortFrom(six, 2224), netip.AddrPortFrom(four, 7)} {
		refused(t, p.Client, at)
	}
	v.calls(t, p.Client, pod.Client4, four)
	v.calls(t, p.Client, pod.Client6, six)
	if out, code := v.call(t, "probe", "ready"); code != 0 {
		t.Errorf("probe ready: %d: %s", code, out)
	}
	v.Signal(t, syscall.SIGTERM)
	v.Wants(t, 0, "shut down as asked")
	if left, err := os.ReadDir(c.run); err != nil || len(left) > 0 {
		t.Errorf("left in the run directory: %v, %v", left, err)
	}
}

// TestPasstReady: passt accepts before the guest does, and nobody is taken in by that; a guest that accepts and waits for its client to
// speak is ready. With one capability only, because passt must not need to become another user.
func TestPasstReady(t *testing.T) {
	t.Parallel()
	shape := pod.Named(t, "NET_ADMIN alone")
	v := newContainer(t, pod.New(t, shape), passt, "", "HOSTFWD=2222:22", "VM_READY=tcp:22").start(t)
	v.Stderr.Await(t, "QEMU started")
	if out, code := v.call(t, "probe", "ready"); code != 1 {
		t.Errorf("before the guest has booted: %d: %s", code, out)
	}
	v.awaitReady(t, 1)
	if out, code := v.call(t, "probe", "ready"); code != 1 || !strings.Contains(out, "port 22") {
		t.Errorf("nothing listens: %d: %s", code, out)
	}
	if want := " mtu 65520 hostname web-0 "; !strings.Contains(v.Stdout.String(), want) {
		t.Errorf("the guest's lease does not say %q", want)
	}
	v.tell(t, "nc -ll -p 22 -e /bin/cat >/dev/null 2>&1 &") // says nothing of itself
	v.Stderr.Await(t, "INF ready")
	if out, code := v.call(t, "probe", "ready"); code != 0 || !strings.Contains(out, "accepts") {
		t.Errorf("it listens: %d: %s", code, out)
	}
	v.call(t, "pause")
	if out, code := v.call(t, "probe", "ready"); code != 1 || !strings.Contains(out, "paused") {
		t.Errorf("it is paused: %d: %s", code, out)
	}
	v.Signal(t, syscall.SIGTERM)
	v.Wants(t, 0)
}

// TestPasstDies: a VM without its network is brought down, and the exit code says that it was not the guest's doing.
func TestPasstDies(t *testing.T) {
	t.Parallel()
	p, _, _ := dualStack(t)
	c := newContainer(t, p, passt, "", "HOSTFWD=2222:22")
	v := c.start(t)
	v.awaitReady(t, 1)
	pid, err := os.ReadFile(filepath.Join(c.run, "passt.pid")) // in the container's own PID namespace
	if err != nil {
		t.Fatal(err)
	}
	if out, err := pod.Exec(v.PID, "kill", "-9", strings.TrimSpace(string(pid))).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	v.Wants(t, 69, "passt has ended", "signal 9", "pressing the guest's power button")
	if !strings.Contains(v.Stdout.String(), "vmtest: power off") {
		t.Error("the guest was not asked to shut down")
	}
}

// TestPasstCannotRun: each reason, and the way out.
func TestPasstCannotRun(t *testing.T) {
	t.Parallel()
	p, _, _ := dualStack(t)
	without := t.TempDir() // a path with QEMU alone
	qemu, err := exec.LookPath("qemu-system-x86_64")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(qemu, filepath.Join(without, "qemu-system-x86_64")); err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	tests := []struct {
		name     string
		settings []string
		wrap     string // a script that starts vmentry, "$@"
		says     []string
	}{
		{"no passt", nil, "export PATH=" + without + `; exec "$@"`, []string{"passt is not installed in this image", "VM_NETWORK=user"}},
		// a process that has changed its root may make no user namespace (user_namespaces(7)): what it is told is what seccomp's default profile says
		{"no user namespace", []string{"HOSTFWD=2222:22"}, "mount --rbind / " + root + ` && exec chroot ` + root + ` "$@"`,
			[]string{"passt has ended", "user namespace", "seccomp=unconfined", "seccompProfile", "VM_NETWORK=user"}},
		{"too many ports", nil, `exec prlimit --nofile=4096:4096 "$@"`, []string{"passt has ended", "enough sockets", "HOSTFWD", "nofile"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := newContainer(t, p, passt, "", tt.settings...)
			cmd := p.Command(pod.Container{Capabilities: pod.All}, "/bin/sh", "-ec", tt.wrap, "sh", binaries.VMEntry)
			cmd.Env = c.environment(t)
			process.Start(t, cmd).Wants(t, 69, tt.says...)
		})
	}
}

// TestPasstPlan: what plan says, and that its script boots the VM.
func TestPasstPlan(t *testing.T) {
	t.Parallel()
	p, _, _ := dualStack(t)
	c := newContainer(t, p, passt, "vmtest.services=7 vmtest.poweroff=0", "HOSTFWD=2222:7", "VM_READY=tcp:80")
	v := c.start(t, "plan")
	v.Wants(t, 0)
	for _, want := range []string{"passt: one virtio card", "tcp *:2222 → guest:7", "--tcp-ports 2222:7", "-netdev stream,", "warning: VM_READY=tcp:80 can never be"} {
		if !strings.Contains(v.Stdout.String(), want) {
			t.Errorf("the plan does not say %q:\n%s", want, v.Stdout)
		}
	}
	script := c.start(t, "plan", "-o", "shell")
	script.Wants(t, 0)
	cmd := p.Command(p.Shape.Container, "sh", "-c", script.Stdout.String())
	cmd.Env = append(c.environment(t), "PATH="+filepath.Dir(binaries.VMEntry)+":"+os.Getenv("PATH"))
	pasted := process.Start(t, cmd)
	if code := pasted.Exit(t); code != 0 || !strings.Contains(pasted.Stdout.String(), "vmtest: ready") {
		t.Errorf("the pasted script: %d\n%s", code, script.Stdout)
	}
}

// TestPasstStops: a stop ends a start that waits for passt, too.
func TestPasstStops(t *testing.T) {
	t.Parallel()
	p, _, _ := dualStack(t)
	c := newContainer(t, p, passt, "", "HOSTFWD=2222:22")
	bin := t.TempDir()
	slow := "#!/bin/sh\n[ \"$1\" = --help ] || { echo here >" + bin + "/began; exec sleep 1000; }\n"
	if err := os.WriteFile(filepath.Join(bin, "passt"), []byte(slow), 0o755); err != nil {
		t.Fatal(err)
	}
	c.settings = append(c.settings, "PATH="+bin+":"+os.Getenv("PATH"))
	v := c.start(t)
	pod.Eventually(t, func() error {
		_, err := os.Stat(filepath.Join(bin, "began"))
		return err
	})
	v.Signal(t, syscall.SIGTERM)
	v.Wants(t, 143)
}
