package test

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vmentry/vmentry/test/cache"
	"github.com/vmentry/vmentry/test/process"
	"github.com/vmentry/vmentry/test/transcript"
)

// sharing is a VM whose guest takes commands, with directories for its volumes.
type sharing struct {
	*machine
	commands int
}

// pathWithVirtiofsd has Debian 13's virtiofsd first.
func pathWithVirtiofsd(t *testing.T) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(cache.Dir(t, "virtiofsd", "virtiofsd"))
	if err != nil {
		t.Fatal(err)
	}
	return "PATH=" + dir + ":" + os.Getenv("PATH")
}

// share starts a VM with volumes. wrap is a command line that starts vmentry; none: it is started as it is.
func share(t *testing.T, data, run, volumes string, wrap ...string) *sharing {
	t.Helper()
	line := append(slices.Clone(wrap), binaries.VMEntry)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = environment(data, run, tiny(t, "vmtest.commands vmtest.dhcp=none", pathWithVirtiofsd(t), "VM_VOLUMES="+volumes)...)
	p := process.StartTyping(t, cmd)
	return &sharing{machine: &machine{t: t, cmd: cmd, process: p, data: data, run: run, stdout: p.Stdout, stderr: p.Stderr}}
}

// ask runs a shell command in the guest and returns what it printed and its exit code.
func (s *sharing) ask(command string) (out string, code int) {
	s.t.Helper()
	s.commands++
	id := fmt.Sprintf("q%d", s.commands)
	if _, err := io.WriteString(s.process.Stdin, id+" "+command+"\n"); err != nil {
		s.t.Fatalf("the guest takes no command: %v", err)
	}
	s.stdout.Await(s.t, "vmtest: "+id+" ended")
	var lines []string
	code = -1
	for line := range strings.Lines(s.stdout.String()) {
		line = strings.TrimRight(line, "\r\n")
		if text, ok := strings.CutPrefix(line, "vmtest: "+id+"| "); ok {
			lines = append(lines, text)
		}
		if text, ok := strings.CutPrefix(line, "vmtest: "+id+" code "); ok {
			code, _ = strconv.Atoi(text)
		}
	}
	return strings.Join(lines, "\n"), code
}

// tell is ask for a command that must succeed.
func (s *sharing) tell(command string) string {
	s.t.Helper()
	out, code := s.ask(command)
	if code != 0 {
		s.t.Fatalf("the guest's %s: %d\n%s", command, code, out)
	}
	return out
}

// fails is ask for a command that must not succeed, and says why.
func (s *sharing) fails(command, reason string) {
	s.t.Helper()
	if out, code := s.ask(command); code == 0 || !strings.Contains(out, reason) {
		s.t.Errorf("the guest's %s: %d\n%s", command, code, out)
	}
}

// daemons are the virtiofsd that run for m, those of the sandbox too, which a namespace's has a process for.
func (s *sharing) daemons() []int { return daemonsOf(s.t, s.run) }

// daemonsOf are the virtiofsd whose command line has the directory in it.
func daemonsOf(t testing.TB, dir string) (pids []int) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range all {
		line, _ := os.ReadFile(file)
		if strings.Contains(string(line), "--shared-dir\x00"+filepath.Dir(dir)+"/") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file)))
			pids = append(pids, pid)
		}
	}
	return pids
}

// write makes a file of the pod.
func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

// configMap fills a directory as the kubelet does: the files are links through a link, which alone is replaced.
func configMap(t *testing.T, dir string) {
	t.Helper()
	version(t, dir, "1", "first")
	if err := os.Symlink("..data/text", filepath.Join(dir, "text")); err != nil {
		t.Fatal(err)
	}
}

// version makes a ConfigMap have another content.
func version(t *testing.T, dir, name, text string) {
	t.Helper()
	if err := os.Mkdir(filepath.Join(dir, ".."+name), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, ".."+name, "text"), text+"\n")
	if err := os.Symlink(".."+name, filepath.Join(dir, "..data_tmp")); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Join(dir, "..data_tmp"), filepath.Join(dir, "..data")); err != nil {
		t.Fatal(err)
	}
}

// tree is everything below a directory: names, modes, owners and contents.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, _ := os.Readlink(path)
			text += " " + target
		case info.Mode().IsRegular():
			data, _ := os.ReadFile(path)
			text += " " + string(data)
		}
		all[path] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// pods are directories for a VM and for its volumes, all below one.
func pods(t *testing.T, names ...string) (data, run string, volumes map[string]string) {
	t.Helper()
	data, run = dirs(t)
	volumes = map[string]string{}
	for _, name := range names {
		volumes[name] = filepath.Join(filepath.Dir(data), name)
		if err := os.Mkdir(volumes[name], 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return data, run, volumes
}

const secret = "very-secret-indeed"

// TestVolumes: files go both ways with their owners; what is read-only stays so, whatever root in the guest does; nothing leads out; a
// ConfigMap's update is seen; and without virtiofsd the VM is brought down.
func TestVolumes(t *testing.T) {
	data, run, v := pods(t, "rw", "ro", "cm", "outside")
	write(t, filepath.Join(v["rw"], "from-pod"), "hello guest\n")
	write(t, filepath.Join(v["ro"], "file"), secret)
	write(t, filepath.Join(v["outside"], "file"), "not for the guest")
	configMap(t, v["cm"])
	for name, target := range map[string]string{"absolute": v["outside"] + "/file", "relative": "../outside/file"} {
		if err := os.Symlink(target, filepath.Join(v["rw"], name)); err != nil {
			t.Fatal(err)
		}
	}
	m := share(t, data, run, "rw="+v["rw"]+",ro="+v["ro"]+":ro,cm="+v["cm"]+":ro")
	m.stdout.Await(t, tinyReady)
	m.tell("mkdir /rw /ro /cm && mount -t virtiofs rw /rw && mount -t virtiofs ro /ro && mount -t virtiofs -o ro cm /cm")

	// both ways
	if got := m.tell("cat /rw/from-pod"); got != "hello guest" {
		t.Errorf("the guest reads %q", got)
	}
	m.tell("echo hello pod >/rw/from-guest && chown 12:34 /rw/from-guest && chmod 640 /rw/from-guest && mkdir -p /rw/a/b && mv /rw/from-guest /rw/a/b/moved")
	moved := filepath.Join(v["rw"], "a", "b", "moved")
	text, err := os.ReadFile(moved)
	info, statErr := os.Stat(moved)
	if err != nil || statErr != nil || string(text) != "hello pod\n" {
		t.Fatalf("the pod reads %q: %v, %v", text, err, statErr)
	}
	if st := info.Sys().(*syscall.Stat_t); st.Uid != 12 || st.Gid != 34 || info.Mode() != 0o640 {
		t.Errorf("owner %d:%d, mode %v", st.Uid, st.Gid, info.Mode())
	}
	write(t, moved, "changed in the pod\n")
	m.sees("cat /rw/a/b/moved", "changed in the pod")

	// read-only
	before := tree(t, v["ro"])
	m.tell("cat /ro/file >/dev/null; mount -o remount,rw /ro")
	for _, attack := range []string{
		"echo x >/ro/new", "echo x >/ro/file", "echo x >>/ro/file", "rm /ro/file", "mkdir /ro/dir", "mv /ro/file /ro/other", "ln /ro/file /ro/link",
		"ln -s file /ro/link", "chmod 777 /ro/file", "chown 1 /ro/file", "touch -d 2000-01-01 /ro/file", "truncate -s 0 /ro/file", "mkfifo /ro/fifo", "mknod /ro/null c 1 3",
	} {
		m.fails(attack, "Read-only file system")
	}
	if after := tree(t, v["ro"]); !maps.Equal(before, after) {
		t.Errorf("what is read-only was changed:\n%v\n%v", before, after)
	}
	m.fails("mknod /rw/null c 1 3", "not permitted") // a device of the node's

	// out
	for _, out := range []string{"/rw/absolute", "/rw/relative", "/rw/../outside/file"} {
		m.fails("cat "+out, "No such file")
	}
	if got := m.tell("ls -a /rw/.. | grep -c outside || true"); got != "0" {
		t.Error("the guest sees the volume's parent")
	}

	// a ConfigMap
	if got := m.tell("cat /cm/text"); got != "first" {
		t.Errorf("the ConfigMap has %q", got)
	}
	version(t, v["cm"], "2", "second")
	m.sees("cat /cm/text", "second")

	m.mustNotSay(secret)
	if pids := m.daemons(); len(pids) < 3 {
		t.Fatalf("there are virtiofsd %v", pids)
	} else if err := syscall.Kill(pids[0], syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	m.wants(69, "virtiofsd of volume ", "signal 9", "pressing the guest's power button")
	if !strings.Contains(m.stdout.String(), "vmtest: power off") {
		t.Error("the guest was not asked to shut down")
	}
	if pids := m.daemons(); len(pids) > 0 {
		t.Errorf("virtiofsd %v is left", pids)
	}
}

// sees waits until a command in the guest prints a text.
func (s *sharing) sees(command, want string) {
	s.t.Helper()
	got := ""
	for began := time.Now(); time.Since(began) < transcript.Patience; time.Sleep(100 * time.Millisecond) {
		if got, _ = s.ask(command); got == want {
			return
		}
	}
	s.t.Errorf("the guest's %s says %q, not %q", command, got, want)
}

func (s *sharing) mustNotSay(secret string) {
	s.t.Helper()
	if strings.Contains(s.stderr.String(), secret) {
		s.t.Errorf("%q is in the log", secret)
	}
}

// dockers are the capabilities that docker gives a container.
const dockers = "-all,+chown,+dac_override,+fsetid,+fowner,+mknod,+net_raw,+setgid,+setuid,+setfcap,+setpcap,+net_bind_service,+sys_chroot,+kill,+audit_write"

// TestVolumesAgain: after a kill no virtiofsd is left, a restart works, and so does a guest's own reboot. All with the capabilities that
// docker gives.
func TestVolumesAgain(t *testing.T) {
	data, run, v := pods(t, "one", "two")
	volumes := "one=" + v["one"] + ",two=" + v["two"] + ":ro"
	docker := []string{"setpriv", "--groups", "0", "--bounding-set", dockers, "--"}
	m := share(t, data, run, volumes, docker...)
	m.stdout.Await(t, tinyReady)
	m.stderr.Await(t, "virtiofsd runs in a chroot")
	m.tell("mkdir /one && mount -t virtiofs one /one && echo kept >/one/file")
	pids := m.daemons()
	if len(pids) != 2 {
		t.Fatalf("there are virtiofsd %v", pids)
	}
	for _, pid := range pids {
		shutIn(t, pid)
	}
	m.signal(syscall.SIGKILL)
	m.exit()
	for began := time.Now(); len(m.daemons()) > 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > transcript.Patience {
			t.Fatalf("virtiofsd %v is left", m.daemons())
		}
	}
	m = share(t, data, run, volumes, docker...)
	m.stdout.Await(t, tinyReady)
	if got := m.tell("mkdir /one && mount -t virtiofs one /one && cat /one/file"); got != "kept" {
		t.Errorf("after a restart the guest reads %q", got)
	}
	io.WriteString(m.process.Stdin, "q reboot -f\n")
	m.stdout.AwaitTimes(t, tinyReady, 2)
	if got := m.tell("mkdir /one && mount -t virtiofs one /one && cat /one/file"); got != "kept" {
		t.Errorf("after a reboot the guest reads %q", got)
	}
	m.signal(syscall.SIGTERM)
	m.wants(0, "shut down as asked")
	if left := contents(t, run); len(left) > 0 {
		t.Errorf("left in the run directory: %v", left)
	}
	if strings.Contains(m.stderr.String(), "WRN virtiofsd") {
		t.Error("virtiofsd has complained of nothing")
	}
}

// shutIn checks that a virtiofsd can become no more than it is.
func shutIn(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"NoNewPrivs:\t1\n", "Seccomp:\t2\n"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("virtiofsd %d: not %q in\n%s", pid, want, status)
		}
	}
}

// TestVolumesOfAnotherUser: without root virtiofsd has Landlock around it, and what the guest makes belongs to that user.
func TestVolumesOfAnotherUser(t *testing.T) {
	const nobody = 65534
	data, run, v := pods(t, "rw", "ro")
	for _, dir := range []string{filepath.Dir(data), data, run, v["rw"], v["ro"]} {
		if err := os.Chown(dir, nobody, nobody); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Dir(data), 0o755); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(v["ro"], "file"), "of root\n")
	m := share(t, data, run, "rw="+v["rw"]+",ro="+v["ro"]+":ro", "setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", "--bounding-set", "-all", "--no-new-privs", "--")
	m.stdout.Await(t, tinyReady)
	m.stderr.Await(t, "virtiofsd runs shut in by Landlock")
	m.tell("mkdir /rw /ro && mount -t virtiofs rw /rw && mount -t virtiofs ro /ro")
	m.tell("echo x >/rw/by-root && mkdir /rw/dir && mv /rw/by-root /rw/dir && chown 0:0 /rw/dir && chmod 777 /rw")
	m.tell("echo 'u:x:1000:1000::/:/bin/sh' >/etc/passwd && su u -c 'echo y >/rw/by-user'")
	for _, file := range []string{"dir/by-root", "by-user"} {
		info, err := os.Stat(filepath.Join(v["rw"], file))
		if err != nil {
			t.Fatal(err)
		}
		if st := info.Sys().(*syscall.Stat_t); st.Uid != nobody || st.Gid != nobody {
			t.Errorf("%s belongs to %d:%d", file, st.Uid, st.Gid)
		}
	}
	if got := m.tell("cat /ro/file; stat -c %u:%g /ro/file"); got != "of root\n0:0" {
		t.Errorf("the guest reads %q", got)
	}
	m.fails("echo x >/ro/new", "Read-only file system")
	pids := m.daemons()
	if len(pids) != 2 {
		t.Fatalf("there are virtiofsd %v", pids)
	}
	for _, pid := range pids {
		shutIn(t, pid)
	}
	m.signal(syscall.SIGTERM)
	m.wants(0, "belongs to 65534:65534")
}

// TestVolumesThatCannotBe: all mistakes at once, with what to do, and nothing was touched.
func TestVolumesThatCannotBe(t *testing.T) {
	data, run, v := pods(t, "good")
	write(t, filepath.Join(v["good"], "file"), "")
	tests := []struct {
		name     string
		settings []string
		wrap     []string
		code     int
		says     []string
	}{
		{"mistakes", []string{"VM_VOLUMES=a=/no/such,b=" + v["good"] + "/file,c=" + data + ",d=" + filepath.Dir(data) + ":ro,e=/proc/self,f=" + run + "/x,g=" + v["good"]}, nil, 78,
			[]string{"6 mistakes", "/no/such is not there; mount", "is not a directory", "its own disk", "vmentry's sockets", "the container's processes", "/x is not there"}},
		{"twice", []string{"VM_VOLUMES=a=/x,a=/y,b=/x@/m,c=/y@/m"}, nil, 78, []string{"another volume has the tag a", "b is mounted at /m too"}},
		{"unsupervised", []string{"VM_VOLUMES=a=" + v["good"], "VM_SUPERVISE=false"}, nil, 78, []string{"VM_SUPERVISE", "virtiofsd"}},
		{"a disk's name for cloud-init", []string{"VM_VOLUMES=sda=" + v["good"] + "@/mnt"}, nil, 78, []string{"the tag sda", "sda-files"}},
		{"not installed", []string{"VM_VOLUMES=a=" + v["good"]}, []string{"unshare", "-m", "sh", "-ec",
			`for f in /usr/libexec /usr/lib/qemu; do [ ! -d $f ] || mount -t tmpfs none $f; done; PATH=${PATH#*:}; exec "$@"`, "sh"}, 69, []string{"virtiofsd is not installed", "package virtiofsd"}},
		{"root without rights", []string{"VM_VOLUMES=a=" + v["good"]}, []string{"setpriv", "--bounding-set", "-all", "--"}, 69, []string{"SETPCAP", "runAsUser"}},
		{"root in groups", []string{"VM_VOLUMES=a=" + v["good"]}, []string{"setpriv", "--groups", "0", "--bounding-set", "-all,+setpcap", "--"}, 69, []string{"without the capability SETGID", "runAsUser"}},
		{"no virtiofsd of Debian 13", []string{"VM_VOLUMES=a=" + v["good"], "PATH=" + otherVirtiofsd(t) + ":" + os.Getenv("PATH")}, nil, 69, []string{"QEMU before 8.0"}},
	}
	before := tree(t, filepath.Dir(data))
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			line := append(slices.Clone(tt.wrap), binaries.VMEntry)
			cmd := exec.Command(line[0], line[1:]...)
			cmd.Env = environment(data, run, tiny(t, "", append([]string{pathWithVirtiofsd(t)}, tt.settings...)...)...)
			process.Start(t, cmd).Wants(t, tt.code, tt.says...)
			if after := tree(t, filepath.Dir(data)); !maps.Equal(before, after) {
				t.Errorf("something was touched: %v", after)
			}
		})
	}
}

// otherVirtiofsd is a directory with a program of that name that is another.
func otherVirtiofsd(t *testing.T) string {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "virtiofsd"), []byte("#!/bin/sh\necho 'virtiofsd version 7.2.22 (Debian 1:7.2)'\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// TestVolumesAsShell: the script that plan prints shares them as well.
func TestVolumesAsShell(t *testing.T) {
	data, run, v := pods(t, "a")
	write(t, filepath.Join(v["a"], "file"), "shared\n")
	settings := tiny(t, "vmtest.commands vmtest.dhcp=none", pathWithVirtiofsd(t), "VM_VOLUMES=a="+v["a"]+"@/a:ro")
	script, code := command(t, environment(data, run, settings...), "plan", "-o", "shell")
	if code != 0 {
		t.Fatal(script)
	}
	cmd := exec.Command("sh", "-c", script)
	cmd.Env = append(environment(data, run, settings...), "PATH="+filepath.Dir(binaries.VMEntry)+":"+strings.TrimPrefix(pathWithVirtiofsd(t), "PATH="))
	p := process.StartTyping(t, cmd)
	m := &sharing{machine: &machine{t: t, cmd: cmd, process: p, data: data, run: run, stdout: p.Stdout, stderr: p.Stderr}}
	m.stdout.Await(t, tinyReady)
	if got := m.tell("mkdir /a && mount -t virtiofs a /a && cat /a/file"); got != "shared" {
		t.Errorf("the guest reads %q", got)
	}
	io.WriteString(p.Stdin, "q poweroff -f\n")
	m.exit()
}
