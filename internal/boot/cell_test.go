package boot

import (
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/vmentry/vmentry/internal/config"
	"github.com/vmentry/vmentry/internal/confine"
	"github.com/vmentry/vmentry/internal/network"
	"github.com/vmentry/vmentry/internal/qemu"
)

// cellOf is the cell of a machine whose files are in a directory that everybody, or root alone, may read.
func cellOf(t *testing.T, everybody bool, extra ...string) (cell Cell, dir string) {
	t.Helper()
	dir, err := os.MkdirTemp("", "vm-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if everybody {
		if err := os.Chmod(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	kernel := filepath.Join(dir, "kernel")
	if err := os.WriteFile(kernel, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	p := Plan{Config: config.Config{RunDir: filepath.Join(dir, "run")}, Identity: "one", QEMU: Program{Path: "/bin/true"}}
	p.Network.Mode = network.Bridge
	p.Machine = qemu.Machine{Accel: qemu.TCG, Kernel: &qemu.Kernel{Image: kernel}, ExtraArgs: extra}
	return p.planCell(), dir
}

// TestPlanCell: QEMU gets the narrowest cell in which it can do its work, and VM_ARGS widens it.
func TestPlanCell(t *testing.T) {
	if os.Geteuid() != 0 || len(confine.Has(rightsForUser...)) < len(rightsForUser) {
		t.Skip("this user cannot start programs as others")
	}
	numbers := numbersOfUsers[0]
	if os.Getenv(inNamespace) != "" {
		numbers = numbersOfUsers[1]
	}
	cell, dir := cellOf(t, true)
	if cell.User == nil || cell.User.UID < numbers.first || cell.User.UID >= numbers.first+numbers.count || !cell.Strip || len(cell.Keep) > 0 || !cell.NoNetwork {
		t.Errorf("%s: %+v", cell, cell)
	}
	if confine.Landlock() > 0 && (!slices.Contains(cell.Read, dir+"/kernel") || !slices.Contains(cell.Write, dir+"/run/qemu") || slices.Contains(cell.Write, dir+"/run")) {
		t.Errorf("it reaches %q, %q", cell.Read, cell.Write)
	}
	if again, _ := cellOf(t, true); again.User.UID != cell.User.UID {
		t.Errorf("the same VM has the users %d and %d", cell.User.UID, again.User.UID)
	}
	if cell, _ := cellOf(t, false); cell.User != nil || !cell.Strip || len(cell.Keep) > 0 || !strings.Contains(cell.Why, "/kernel") {
		t.Errorf("with a kernel that is root's alone: %s", cell)
	}
	if cell, _ := cellOf(t, true, "-sandbox", "off"); !cell.Open {
		t.Errorf("with the sandbox off: %s", cell)
	}
	data, log, socket := dir+"/data", dir+"/log", dir+"/sockets/vnc"
	if err := errors.Join(os.WriteFile(data, nil, 0o666), os.Chmod(data, 0o666), os.Mkdir(filepath.Dir(socket), 0o700)); err != nil {
		t.Fatal(err)
	}
	cell, _ = cellOf(t, true, "-drive", "file="+data, "-D", log, "-append", "root=/dev/none")
	if cell.NoNetwork || cell.User == nil || confine.Landlock() > 0 && (!slices.Contains(cell.Write, data) || !slices.Contains(cell.Write, log) ||
		slices.Contains(cell.Write, dir) || slices.Contains(cell.Write, "/dev") || slices.Contains(cell.Write, "/var/tmp")) {
		t.Errorf("with files of the user's: %s: %+v", cell, cell)
	}
	if cell, _ = cellOf(t, true, "-vnc", "unix:"+socket); cell.User != nil || confine.Landlock() > 0 && !slices.Equal(cell.Sockets, []string{filepath.Dir(socket)}) {
		t.Errorf("with a socket that root alone can make: %s: %+v", cell, cell)
	}
}

// inNamespace is set in a user namespace that has as many numbers as most have.
const inNamespace = "TEST_USER_NAMESPACE"

// TestPlanCellInNamespace: where the usual numbers are nobody, QEMU's user has another.
func TestPlanCellInNamespace(t *testing.T) {
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestPlanCell$", "-test.v")
	cmd.Env = append(os.Environ(), inNamespace+"=1")
	all := []syscall.SysProcIDMap{{Size: 65536}}
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: all, GidMappings: all, GidMappingsEnableSetgroups: true}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, fs.ErrPermission) {
		t.Skipf("there can be no user namespaces here: %v", err)
	}
	if err != nil || !strings.Contains(string(out), "--- PASS") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestMissingFiles: what VM_ARGS names and is not there QEMU finds, as its own, and nothing else is made.
func TestMissingFiles(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give files away")
	}
	dir := t.TempDir()
	p := Plan{Cell: Cell{Cell: confine.Cell{User: &confine.User{UID: 70000, GID: 70000}}}}
	p.Machine.ExtraArgs = []string{"-D", dir + "/log", "-pidfile", dir + "/log", "-serial", "file:" + dir + "/no/such/directory", "-monitor", "unix:" + dir + "/socket,server"}
	for range 2 {
		if err := p.makeMissing(); err != nil {
			t.Fatal(err)
		}
	}
	list, err := os.ReadDir(dir)
	if err != nil || len(list) != 1 || list[0].Name() != "log" {
		t.Fatalf("there are %v, %v", list, err)
	}
	info, err := list[0].Info()
	if err != nil || info.Mode() != 0o600 || info.Sys().(*syscall.Stat_t).Uid != 70000 {
		t.Errorf("%v, %v", info, err)
	}
}

// TestShutInIsSaid: who has asked QEMU for a file that it may not have, is told why.
func TestShutInIsSaid(t *testing.T) {
	w := &lastWords{log: slog.New(slog.DiscardHandler), name: "QEMU", last: "qemu: -drive file=x: Could not open 'x': Permission denied"}
	if said := w.or(nil); !strings.Contains(said, "-sandbox off") {
		t.Error(said)
	}
}
