package test

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/transcript"
	"golang.org/x/sys/unix"
)

// The pod of the test and its gateway.
const natPod, natPeer = "10.244.1.7", "10.244.1.1"

// natSpaces makes the network namespaces of a pod and of its gateway. Nothing is forwarded in the pod.
func natSpaces(t *testing.T) (pod, peer string) {
	t.Helper()
	pod, peer = fmt.Sprintf("vmnat-%d-pod", os.Getpid()), fmt.Sprintf("vmnat-%d-peer", os.Getpid())
	for _, s := range []string{pod, peer} {
		t.Cleanup(func() { exec.Command("ip", "netns", "del", s).Run() })
	}
	script := strings.NewReplacer("POD", pod, "PEER", peer).Replace(`
		ip netns add POD
		ip netns add PEER
		ip -n PEER link set lo up
		ip -n PEER link add pod type veth peer name eth0 netns POD
		ip -n PEER addr add ` + natPeer + `/24 dev pod
		ip -n PEER link set pod up
		ip netns exec POD sysctl -qw net.ipv4.ip_forward=0
		ip -n POD link set lo up
		ip -n POD addr add ` + natPod + `/24 dev eth0
		ip -n POD link set eth0 up
		ip -n POD route add default via ` + natPeer)
	if out, err := exec.Command("sh", "-ec", script).CombinedOutput(); err != nil {
		t.Fatalf("the namespaces cannot be made: %v\n%s", err, out)
	}
	return pod, peer
}

// within runs f in a network namespace: sockets and processes that it makes are there.
func within(t *testing.T, space string, f func()) {
	t.Helper()
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer home.Close()
	there, err := os.Open("/run/netns/" + space)
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic(err) // no other test may run on this thread
		}
	}()
	f()
}

// says is what an address says until it hangs up, as a process in the namespace reads it.
func says(t *testing.T, space, address string) (text string) {
	t.Helper()
	within(t, space, func() {
		conn, err := net.DialTimeout("tcp", address, transcript.Patience)
		if err != nil {
			text = err.Error()
			return
		}
		defer conn.Close()
		conn.SetDeadline(time.Now().Add(transcript.Patience))
		b, err := io.ReadAll(conn)
		if err != nil {
			t.Errorf("%s in %s: %v", address, space, err)
		}
		text = string(b)
	})
	return text
}

// inPod is a command in the pod with the rights of a container that has NET_ADMIN alone: /proc/sys is read-only.
func inPod(pod string, env []string, args ...string) *exec.Cmd {
	const script = `mount --make-rprivate / && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys &&
		exec setpriv --inh-caps=-all --bounding-set=-all,+net_admin "$@"`
	cmd := exec.Command("nsenter", append([]string{"--net=/run/netns/" + pod, "--", "unshare", "--mount", "sh", "-ec", script, "sh"}, args...)...)
	cmd.Env = env
	return cmd
}

// natVM is a start of vmentry in the pod.
type natVM struct {
	cmd            *exec.Cmd
	keys           io.Writer // of the guest's console
	stdout, stderr *transcript.Transcript
	done           chan struct{}
}

func startInPod(t *testing.T, pod string, env []string) *natVM {
	t.Helper()
	v := &natVM{cmd: inPod(pod, env, vmentry), stdout: transcript.New(), stderr: transcript.New(), done: make(chan struct{})}
	var err error
	if v.keys, err = v.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	v.cmd.Stdout, v.cmd.Stderr = v.stdout, v.stderr
	if err := v.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		v.cmd.Wait()
		v.stdout.Close()
		v.stderr.Close()
		close(v.done)
	}()
	t.Cleanup(func() {
		v.kill()
		if t.Failed() {
			t.Logf("vmentry's log:\n%s\nthe console:\n%s", v.stderr, v.stdout)
		}
	})
	return v
}

// kill ends vmentry without a word.
func (v *natVM) kill() {
	v.cmd.Process.Kill()
	<-v.done
}

// TestNAT: a guest behind the pod's address is reached and reaches others, with NET_ADMIN alone; and again after vmentry was killed.
func TestNAT(t *testing.T) {
	pod, peer := natSpaces(t)
	data, run := dirs(t)
	settings := func(more ...string) []string {
		env := environment(data, run, tiny(t, "vmtest.listen=22 vmtest.shell", "VM_NETWORK=nat", "VM_READY=tcp:22")...)
		return append(env, more...)
	}
	var listener net.Listener
	within(t, peer, func() {
		var err error
		if listener, err = net.Listen("tcp", natPeer+":9"); err != nil {
			t.Fatal(err)
		}
	})
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			fmt.Fprintf(conn, "the peer has met %s\n", conn.RemoteAddr().(*net.TCPAddr).IP)
			conn.Close()
		}
	}()

	forwards := settings("HOSTFWD=2222:22")
	v := startInPod(t, pod, forwards)
	v.stderr.Await(t, "INF ready")
	for space, address := range map[string]string{peer: natPod + ":2222", pod: "127.0.0.1:2222"} {
		if got := says(t, space, address); got != "vmtest\n" {
			t.Errorf("%s in %s says %q", address, space, got)
		}
	}
	if got := says(t, peer, natPod+":22"); !strings.Contains(got, "refused") {
		t.Errorf("a port that is not forwarded says %q", got)
	}
	if out, err := inPod(pod, forwards, vmentry, "probe", "ready").CombinedOutput(); err != nil {
		t.Errorf("probe ready: %v: %s", err, out)
	}
	fmt.Fprintf(v.keys, "nc %s 9 </dev/null\n", natPeer)
	v.stdout.Await(t, "the peer has met "+natPod)

	v.kill()
	v = startInPod(t, pod, settings("HOSTFWD=")) // empty is unset: every port
	v.stderr.Await(t, "INF ready")
	if got := says(t, peer, natPod+":22"); got != "vmtest\n" {
		t.Errorf("after a restart the guest's port says %q", got)
	}
	v.cmd.Process.Signal(syscall.SIGTERM)
	<-v.done
	if code := v.cmd.ProcessState.ExitCode(); code != 0 {
		t.Errorf("exit code %d", code)
	}

	// the pod is its own again in another mode
	env := append(settings("HOSTFWD=none", "VM_READY=none"), "VM_NETWORK=none")
	v = startInPod(t, pod, env)
	v.stdout.Await(t, tinyReady)
	out, err := exec.Command("nsenter", "--net=/run/netns/"+pod, "--", "sh", "-c", "nft list ruleset; ip -o link | grep vm-; sysctl -n net.ipv4.conf.eth0.forwarding").Output()
	if got := strings.TrimSpace(string(out)); err != nil || got != "0" {
		t.Errorf("left in the pod: %v\n%s", err, got)
	}
}

// TestNATIsNotPasted: what vmentry holds as long as it runs cannot be a script.
func TestNATIsNotPasted(t *testing.T) {
	pod, _ := natSpaces(t)
	data, run := dirs(t)
	out, err := inPod(pod, environment(data, run, append(tiny(t, ""), "VM_NETWORK=nat", "HOSTFWD=")...), vmentry, "plan", "-o", "shell").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "VM_NETWORK=nat") {
		t.Errorf("%v: %s", err, out)
	}
}
