package network

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patient is how long anything may take before a test gives up on it. It is no measure of speed.
const patient = time.Minute

// TestMain lets the test binary be the container of a test: see [applier].
func TestMain(m *testing.M) {
	if os.Getenv(applierVariable) != "" {
		runtime.LockOSThread() // what it says to the kernel is counted by thread, see [space.cut]
		if err := beApplier(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// space is a network namespace of the test's own.
type space string

var spaces atomic.Int32

func newSpace(t *testing.T, role string) space {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces, and must run as root")
	}
	s := space(fmt.Sprintf("vmnat-%d-%d-%s", os.Getpid(), spaces.Add(1), role))
	run(t, "ip", "netns", "add", string(s))
	t.Cleanup(func() { exec.Command("ip", "netns", "del", string(s)).Run() })
	s.run(t, "ip", "link", "set", "lo", "up")
	return s
}

func (s space) path() string { return "/run/netns/" + string(s) }

// run runs a command in the namespace that must succeed, and returns what it prints.
func (s space) run(t *testing.T, args ...string) string {
	t.Helper()
	return run(t, "nsenter", append([]string{"--net=" + s.path(), "--"}, args...)...)
}

// script runs lines of shell in the namespace, each of which must succeed.
func (s space) script(t *testing.T, lines string) {
	t.Helper()
	s.run(t, "sh", "-ec", lines)
}

// do runs f in the namespace: the sockets that f opens are the namespace's for as long as they live.
func (s space) do(t *testing.T, f func() error) {
	t.Helper()
	if err := s.try(f); err != nil {
		t.Fatalf("in %s: %v", s, err)
	}
}

func (s space) try(f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends here, and nobody else finds itself in the namespace
		done <- func() error {
			file, err := os.Open(s.path())
			if err != nil {
				return err
			}
			defer file.Close()
			if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWNET); err != nil {
				return err
			}
			return f()
		}()
	}()
	return <-done
}

// echo answers in the namespace, by TCP and by UDP, what it is told, with its own name and the address of whoever speaks
// before it. ":PORT" is every address; what comes by UDP is then answered from the one that the kernel chooses.
func (s space) echo(t *testing.T, name, address string) {
	t.Helper()
	families := []string{""}
	if strings.HasPrefix(address, ":") {
		families = []string{"4", "6"} // Go finds out once whether there is IPv6, and maybe in another namespace
	}
	s.do(t, func() error {
		for _, family := range families {
			tcp, err := net.Listen("tcp"+family, address)
			if err != nil {
				return err
			}
			udp, err := net.ListenPacket("udp"+family, address)
			if err != nil {
				return err
			}
			t.Cleanup(func() {
				tcp.Close()
				udp.Close()
			})
			go serveTCP(tcp, func(conn net.Conn) {
				b := make([]byte, 100)
				n, _ := conn.Read(b)
				fmt.Fprintf(conn, "%s %s %s", name, hostPart(conn.RemoteAddr()), b[:n])
			})
			go serveUDP(udp, name)
		}
		return nil
	})
}

// serveTCP serves each connection until the listener is closed.
func serveTCP(l net.Listener, each func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			each(conn)
		}()
	}
}

func serveUDP(conn net.PacketConn, name string) {
	b := make([]byte, 100)
	for {
		n, from, err := conn.ReadFrom(b)
		if err != nil {
			return
		}
		conn.WriteTo(fmt.Appendf(nil, "%s %s %s", name, hostPart(from), b[:n]), from)
	}
}

func hostPart(a net.Addr) string {
	p, _ := netip.ParseAddrPort(a.String())
	return p.Addr().Unmap().String()
}

// ask says something to an address and returns who answers: the name of the [space.echo] and the address that it sees.
func (s space) ask(t *testing.T, network, address string) (who string) {
	t.Helper()
	err := s.try(func() error {
		var err error
		who, err = ask(network, address, patient)
		return err
	})
	if err != nil {
		return err.Error()
	}
	return who
}

func ask(network, address string, patience time.Duration) (string, error) {
	give := time.Now().Add(patience)
	conn, err := net.DialTimeout(network, address, patience)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	b := make([]byte, 200)
	for time.Now().Before(give) {
		if _, err := conn.Write([]byte("hello")); err != nil {
			return "", err
		}
		conn.SetReadDeadline(give)
		if network == "udp" { // a datagram may get lost
			conn.SetReadDeadline(time.Now().Add(min(patience, 5*time.Second)))
		}
		n, err := conn.Read(b)
		if network == "udp" && errors.Is(err, os.ErrDeadlineExceeded) {
			continue
		}
		if err != nil {
			return "", err
		}
		who, ok := strings.CutSuffix(string(b[:n]), " hello")
		if !ok {
			return "", fmt.Errorf("the answer is %q", b[:n])
		}
		return who, nil
	}
	return "", os.ErrDeadlineExceeded
}

// refused checks that nobody answers at any of the addresses. Who is only slow is taken for nobody: this cannot fail on a busy machine.
func (s space) refused(t *testing.T, network string, addresses ...string) {
	t.Helper()
	var asking sync.WaitGroup
	for _, address := range addresses {
		asking.Go(func() {
			who := ""
			err := s.try(func() (err error) {
				who, err = ask(network, address, time.Second)
				return err
			})
			if err == nil {
				t.Errorf("%s reaches %s by %s: %s", s, address, network, who)
			}
		})
	}
	asking.Wait()
}

// applierVariable holds what an applier is to do.
const applierVariable = "VMENTRY_TEST_APPLIER"

// order is what an applier does: look at the pod and apply the mode's plan up to a step.
type order struct {
	Input      Input
	ResolvConf string
	Keep       bool   // do not undo what an earlier start has left
	Step       string // the last to be done: "filter", "make", "" for all of them
}

// applier is a process in a pod, with the rights of a container that has NET_ADMIN alone and a /proc/sys that is read-only. It
// holds the guest's taps until it is killed.
type applier struct {
	Plan Plan
	cmd  *exec.Cmd
}

// apply starts an applier and waits until it has done what it was told.
func (s space) apply(t *testing.T, o order) *applier {
	t.Helper()
	if o.ResolvConf == "" {
		o.ResolvConf = "/nonexistent"
	}
	text, err := json.Marshal(o)
	if err != nil {
		t.Fatal(err)
	}
	const script = `mount --make-rprivate / && mount --bind /proc/sys /proc/sys && mount -o remount,bind,ro /proc/sys &&
		exec setpriv --inh-caps=-all --bounding-set=-all,+net_admin "$0"`
	a := &applier{cmd: exec.Command("nsenter", "--net="+s.path(), "--", "unshare", "--mount", "sh", "-ec", script, os.Args[0])}
	a.cmd.Env = append(os.Environ(), applierVariable+"="+string(text))
	var stderr bytes.Buffer
	a.cmd.Stderr = &stderr
	stdout, err := a.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := a.cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := a.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		a.kill()
	})
	if err := json.NewDecoder(stdout).Decode(&a.Plan); err != nil {
		a.kill()
		t.Fatalf("the plan was not applied: %v\n%s", err, &stderr)
	}
	return a
}

// kill ends it as nothing else does: without a chance to tidy up. When it is gone its taps are.
func (a *applier) kill() {
	if a.cmd.ProcessState == nil {
		a.cmd.Process.Kill()
		a.cmd.Wait()
	}
}

func beApplier() error {
	var o order
	if err := json.Unmarshal([]byte(os.Getenv(applierVariable)), &o); err != nil {
		return err
	}
	var err error
	if o.Input.Pod, err = Inspect(o.Input.Mode, Files{ResolvConf: o.ResolvConf}); err != nil {
		return err
	}
	plan, err := MakePlan(o.Input)
	if err != nil {
		return err
	}
	if plan.Release && !o.Keep {
		if err := Release(); err != nil {
			return err
		}
	}
	j, err := o.apply(plan)
	if err != nil {
		return err
	}
	defer j.Close()
	for i, b := range plan.Bridges {
		if b.Intercept != nil {
			go b.StandIn().Serve(context.Background(), j.StandIns[i])
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(plan); err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, os.Stdin) // until the test ends
	return err
}

func (o order) apply(plan Plan) (*Joined, error) {
	if o.Step != "filter" && o.Step != "make" {
		return plan.Apply()
	}
	rules, err := begin()
	if err != nil {
		return nil, err
	}
	defer rules.end()
	j := &Joined{}
	if err := plan.filter(rules); err != nil || o.Step == "filter" {
		return j, err
	}
	return j, plan.Bridges[0].make(j)
}
