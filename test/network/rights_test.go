package network

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/vmentry/vmentry/test/pod"
)

// rightsOf is how a container is started for the table of docs/security.md.
type rightsOf struct {
	name      string
	container pod.Container
	modes     []mode
}

// arbitrary is a user as OpenShift makes one up.
const arbitrary = 1000680000

var containers = []rightsOf{
	{"runtime's default", pod.Container{Capabilities: pod.Dockers}, []mode{user, passt}},
	{"default and NET_ADMIN", pod.Container{Capabilities: pod.Default}, []mode{nat, bridge}},
	{"NET_ADMIN alone", pod.Container{Capabilities: pod.NetAdmin}, []mode{nat, bridge}},
	{"none, root", pod.Container{Capabilities: pod.None}, []mode{user, passt}},
	{"none, arbitrary user", pod.Container{Capabilities: pod.None, User: arbitrary}, []mode{user, passt}},
}

// TestRights reads from /proc what every process of a container may do, before QEMU starts and while it runs, and holds the table of
// docs/security.md against it.
func TestRights(t *testing.T) {
	var table strings.Builder
	table.WriteString("| mode | container | process | user | capabilities | bounding set | ambient | no_new_privs | seccomp filter | files and devices |\n|---|---|---|---|---|---|---|---|---|---|\n")
	p := pod.New(t, pod.Named(t, "dual stack"))
	starts := 0
	for _, m := range []mode{user, passt, nat, bridge} {
		for _, rights := range containers {
			if !slices.Contains(rights.modes, m) {
				continue
			}
			t.Run(fmt.Sprintf("%s, %s", m, rights.name), func(t *testing.T) {
				starts++
				for _, row := range watchRights(t, p, m, rights.container) {
					fmt.Fprintf(&table, "| `%s` | %s | %s |\n", m, rights.name, row)
				}
			})
		}
	}
	if t.Failed() || starts < 3*2+2*2 { // some of it was not run
		return
	}
	documented(t, "../../docs/security.md", "rights", "\n"+table.String()+"\n")
}

// watchRights starts a VM, and returns the table's rows from the process on.
func watchRights(t *testing.T, p *pod.Pod, m mode, rights pod.Container) (rows []string) {
	settings := []string{"VM_DISKS=data=64M"}
	if m != bridge {
		settings = append(settings, "HOSTFWD=2222:22")
	}
	c := newContainer(t, p, m, "", settings...)
	for _, d := range []string{c.data, c.run} {
		if err := os.Chmod(d, 0o775); err != nil { // and root's, whose group the arbitrary user is in
			t.Fatal(err)
		}
	}
	// a start waits for as long as somebody has its run directory
	held, err := os.Open(c.run)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := unix.Flock(int(held.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	v := c.startAs(t, rights)
	pod.Eventually(t, func() error {
		exe, err := os.Readlink(fmt.Sprintf("/proc/%d/exe", v.PID))
		if err == nil && exe != binaries.VMEntry {
			err = fmt.Errorf("%s runs", exe)
		}
		return err
	})
	rows = append(rows, "vmentry, before QEMU starts | "+look(t, v.PID, c))
	held.Close()
	v.Stderr.Await(t, "QEMU started")
	pod.Eventually(t, func() error { // it is the last that happens
		if status := statusOf(t, v.PID); status["NoNewPrivs"] != "1" {
			return fmt.Errorf("vmentry has given nothing up")
		}
		return nil
	})
	rows = append(rows, "vmentry | "+look(t, v.PID, c))
	for name, program := range map[string]string{"QEMU": "/qemu-system-x86_64\x00", "passt": "\x00--one-off\x00"} {
		pids := childrenOf(t, v.PID, program)
		if want := name == "QEMU" || m == passt; (len(pids) == 1) != want {
			t.Errorf("%s: the processes %d", name, pids)
		}
		for _, pid := range pids {
			rows = append(rows, name+" | "+look(t, pid, c))
		}
	}
	slices.Sort(rows[2:])
	return rows
}

// childrenOf are the processes that a process has started, with a program on their command line.
func childrenOf(t *testing.T, parent int, program string) (pids []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/status")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err == nil && statusOf(t, pid)["PPid"] == strconv.Itoa(parent) && strings.Contains(string(line), program) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// statusOf is /proc/PID/status, empty where there is no such process any more.
func statusOf(t *testing.T, pid int) map[string]string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil
	}
	found := map[string]string{}
	for line := range strings.Lines(string(text)) {
		name, value, _ := strings.Cut(line, ":")
		found[name] = strings.Join(strings.Fields(value), " ")
	}
	return found
}

// look is a process' row of the table, from the user on. What no process may have is an error.
func look(t *testing.T, pid int, c *container) string {
	t.Helper()
	s := statusOf(t, pid)
	user := strings.Fields(s["Uid"])[0]
	if s["Uid"] != strings.Join([]string{user, user, user, user}, " ") {
		t.Errorf("process %d (%s) has the users %s", pid, s["Name"], s["Uid"])
	}
	switch n, _ := strconv.Atoi(user); {
	case n == 0:
		user = "root"
	case n == arbitrary:
		user = "arbitrary"
	case 65536 <= n && n < 100000:
		user = "its own"
	}
	if s["CapEff"] != s["CapPrm"] {
		t.Errorf("process %d (%s) has the capabilities %s, and may have %s", pid, s["Name"], s["CapEff"], s["CapPrm"])
	}
	if s["CapInh"] != s["CapAmb"] {
		t.Errorf("process %d (%s) can hand on %s, and its ambient ones are %s", pid, s["Name"], s["CapInh"], s["CapAmb"])
	}
	return strings.Join([]string{user, capabilities(s["CapEff"]), capabilities(s["CapBnd"]), capabilities(s["CapAmb"]), yesNo(s["NoNewPrivs"] == "1"), yesNo(s["Seccomp"] == "2"), files(t, pid, c)}, " | ")
}

func yesNo(b bool) string { return map[bool]string{true: "yes", false: "no"}[b] }

// The runtimes' default set, with and without NET_ADMIN.
const (
	defaultMask  = "00000000a80425fb"
	withNetAdmin = "00000000a80435fb"
)

func capabilities(mask string) string {
	switch mask {
	case "0000000000000000":
		return "none"
	case defaultMask:
		return "default"
	case withNetAdmin:
		return "default, NET_ADMIN"
	}
	bits, err := strconv.ParseUint(mask, 16, 64)
	if err != nil {
		return mask
	}
	if bits > 1<<32 && bits&(bits+1) == 0 { // each of the kernel's
		return "all, of its own user namespace"
	}
	names := map[int]string{unix.CAP_NET_ADMIN: "NET_ADMIN", unix.CAP_KILL: "KILL", unix.CAP_DAC_OVERRIDE: "DAC_OVERRIDE", unix.CAP_NET_BIND_SERVICE: "NET_BIND_SERVICE"}
	var all []string
	for n := range 64 {
		if bits&(1<<n) == 0 {
			continue
		}
		name, ok := names[n]
		if !ok {
			return mask
		}
		all = append(all, name)
	}
	return strings.Join(all, ", ")
}

// files are those of interest that a process has open.
func files(t *testing.T, pid int, c *container) string {
	t.Helper()
	found := map[string]bool{}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range links {
		target, err := os.Readlink(l)
		switch {
		case err != nil:
		case target == "/dev/net/tun":
			found["tap"] = true
		case target == "anon_inode:seccomp notify":
			found["QEMU's connections"] = true
		case strings.HasPrefix(target, c.data+"/disks/"):
			found["disk"] = true
		case strings.HasPrefix(target, c.data), strings.HasPrefix(target, c.run):
			found["locks"] = true
		}
	}
	var all []string
	for name := range found {
		all = append(all, name)
	}
	slices.Sort(all)
	if len(all) == 0 {
		return "–"
	}
	return strings.Join(all, ", ")
}

// TestArbitraryUser: a VM boots, is reached and shuts down as a user that nobody has heard of, in directories that belong to root and are writable
// for root's group, as OpenShift has it; and again with the disk that it has left.
func TestArbitraryUser(t *testing.T) {
	t.Parallel()
	p := pod.New(t, pod.Named(t, "dual stack"))
	c := newContainer(t, p, user, "vmtest.services=7", "VM_DISKS=data=64M", "HOSTFWD=2222:7", "VM_READY=tcp:7", "CLOUD_CONFIG=#cloud-config\n{}\n")
	for _, d := range []string{c.data, c.run} {
		if err := os.Chmod(d, 0o775); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		v := c.startAs(t, pod.Container{Capabilities: pod.None, User: arbitrary})
		v.Stderr.Await(t, "INF ready")
		if _, err := converseAt(p.Space, netip.MustParseAddrPort("127.0.0.1:2222")); err != nil {
			t.Error(err)
		}
		if out, code := v.call(t, "probe", "ready"); code != 0 {
			t.Errorf("probe ready: %d: %s", code, out)
		}
		v.Signal(t, syscall.SIGTERM)
		v.Wants(t, 0, "shut down as asked")
	}
}
