package confine

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// TestConfine: a program that is shut in reads and writes where it may, and nowhere else.
func TestConfine(t *testing.T) {
	if Landlock() == 0 {
		t.Fatal("this kernel has no Landlock, which these tests are about")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	for _, name := range []string{"read", "write", "sockets", "outside"} {
		sub := filepath.Join(dir, name)
		if err := os.Mkdir(sub, 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(sub, "file"), []byte("x\n"), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "single"), []byte("x\n"), 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(filepath.Join(dir, "outside", "file"), filepath.Join(dir, "write", "link")); err != nil {
		t.Fatal(err)
	}
	r := Reach{Read: []string{filepath.Join(dir, "read"), "/no/such/place", "/proc"}, Write: []string{filepath.Join(dir, "write"), filepath.Join(dir, "single"), os.DevNull}, Sockets: []string{filepath.Join(dir, "sockets")}}
	for script, allowed := range map[string]bool{
		"read x <read/file":  true,
		"read x <write/file": true,
		"echo >write/new":    true,
		"rm -rf write/a && mkdir write/a && echo >write/m && mv write/m write/a/moved": true,
		"read x <single && echo >single":                                               true,
		"rm single":                                                                    false,
		"echo >beside":                                                                 false,
		"read x <outside/file":                                                         false,
		"read x <write/link":                                                           false,
		"read x <write/../outside/file":                                                false,
		"echo >read/new":                                                               false,
		"echo >>read/file":                                                             false,
		"rm read/file":                                                                 false,
		"mv read/file write/stolen":                                                    false,
		`perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0) && bind(S, sockaddr_un("sockets/a")) || die' && rm sockets/a`: true,
		"echo >sockets/new":                   false,
		"read x <sockets/file":                false,
		"echo >sockets/file":                  false,
		"ls sockets":                          false,
		"ls /etc":                             false,
		`[ -n "$(cat /proc/$PPID/environ)" ]`: false,
		"kill -0 $PPID":                       Landlock() < 6,
		"grep -q 'NoNewPrivs:.*1' /proc/self/status":       true,
		`[ "$(ulimit -Sn)" = "$(ulimit -Hn)" ]`:            true,
		"true && sh -c 'sh -c true'":                       true,
		"setpriv --no-new-privs sh -c 'read x <read/file'": true,
	} {
		program, cell := []string{"/bin/sh", "-c", script}, Cell{Reach: r, ManyFiles: true}
		for way, command := range map[string][]string{"by a command": cell.Around(self, program), "by a thread": append([]string{self}, program...)} {
			// without root's capabilities, as virtiofsd is in the end: with CAP_PERFMON it could read of any process what is in /proc
			cmd := exec.Command("setpriv", append([]string{"--bounding-set", "-all", "--"}, command...)...)
			cmd.Dir = dir
			if way == "by a thread" {
				if strings.Contains(script, "ulimit") {
					continue
				}
				cmd.Env = append(os.Environ(), "TEST_START="+strings.Join(cell.words(), " "))
			}
			out, err := cmd.CombinedOutput()
			if (err == nil) != allowed {
				t.Errorf("%s, %s: %v\n%s", script, way, err, out)
			}
		}
	}
	if _, err := startIn(Cell{Reach: r}, []string{"/no/such/program"}, nil); !errors.Is(err, unix.ENOENT) {
		t.Errorf("a program that is not there: %v", err)
	}
	nothing := Cell{}.Around(self, []string{"/no/such/program"})
	if out, err := exec.Command(nothing[0], nothing[1:]...).CombinedOutput(); err == nil || !strings.Contains(string(out), "cannot execute /no/such/program") {
		t.Errorf("%v: %s", err, out)
	}
}

// TestMain is also a process that starts a program in a cell, and one that gives up its own rights, and says what it has then.
func TestMain(m *testing.M) {
	if cell, ok := os.LookupEnv("TEST_START"); ok {
		if err := startHere(cell, os.Args[1:]); err != nil {
			fatal(err)
		}
		os.Exit(0)
	}
	if keep, ok := os.LookupEnv("TEST_GIVE_UP"); ok {
		for range 20 { // threads that have less come and go, the first one of the process not among them
			if err := (Cell{User: &User{UID: 60001, GID: 60001}, Strip: true}).Try([]string{"/"}, nil, []string{"/"}); err != nil {
				fatal(err)
			}
		}
		list, err := parseNumbers(keep)
		var own, same *started
		if err == nil { // one that becomes another user is made by a thread that has what the others have
			own, err = startIn(Cell{User: &User{UID: 60001, GID: 60001}, Strip: true}, []string{"/bin/sleep", "1000"}, nil)
		}
		if err == nil {
			err = GiveUp(list)
		}
		if err == nil { // and one that does not, by a thread that has less
			same, err = startIn(Cell{Strip: true}, []string{"/bin/sleep", "1000"}, nil)
		}
		if err != nil {
			fatal(err)
		}
		same.kill()
		own.kill()
		for len(rightsOfThreads()) > 1 { // the thread of one ends a little later
			time.Sleep(time.Millisecond)
		}
		tasks, err := filepath.Glob("/proc/self/task/*/status")
		if err != nil {
			fatal(err)
		}
		for _, task := range tasks {
			text, err := os.ReadFile(task)
			if err == nil {
				os.Stdout.Write(text)
			}
		}
		os.Exit(0)
	}
	if os.Getenv("TEST_NO_LANDLOCK") != "" {
		os.Unsetenv("TEST_NO_LANDLOCK")
		fatal(withoutLandlock(os.Args[1:]))
	}
	os.Exit(m.Run())
}

// started is a program that was started in a cell of this process.
type started struct {
	pid   int
	ended chan struct{}
	wait  syscall.WaitStatus
}

// startIn starts a program in a cell. Its outputs are out, or this process's.
func startIn(c Cell, command []string, out *os.File) (*started, error) {
	s := &started{ended: make(chan struct{})}
	files := []uintptr{0, 1, 2}
	if out != nil {
		files = []uintptr{0, out.Fd(), out.Fd()}
	}
	var failed error
	err := c.Start(command[0], func(sys *syscall.SysProcAttr) {
		sys.Pdeathsig = syscall.SIGKILL
		s.pid, failed = syscall.ForkExec(command[0], command, &syscall.ProcAttr{Env: os.Environ(), Files: files, Sys: sys})
	}, s.ended)
	if err = errors.Join(err, failed); err != nil {
		close(s.ended)
	}
	return s, err
}

func (s *started) await() {
	syscall.Wait4(s.pid, &s.wait, 0, nil)
	close(s.ended)
}

func (s *started) kill() {
	syscall.Kill(s.pid, syscall.SIGKILL)
	s.await()
}

// startHere starts a program in the cell that the words say, and checks that nobody else is in it.
func startHere(words string, command []string) error {
	c, _, err := parse(append(strings.Fields(words), "--", "program"))
	if err != nil {
		return err
	}
	before := rightsOfThreads()
	s, err := startIn(c, command, nil)
	if err != nil {
		return err
	}
	var busy sync.WaitGroup
	done := make(chan struct{})
	for range 20 { // each takes a thread, and most of them a new one
		busy.Add(1)
		go func() {
			runtime.LockOSThread()
			busy.Done()
			<-done
		}()
	}
	busy.Wait()
	others := func() int { // threads that have what none had before
		n := 0
		for rights, threads := range rightsOfThreads() {
			if before[rights] == 0 {
				n += threads
			}
		}
		return n
	}
	if n := others(); n > 1 {
		return fmt.Errorf("%d threads have what one should have", n)
	}
	s.await()
	close(done)
	for began := time.Now(); others() > 0; time.Sleep(time.Millisecond) {
		if time.Since(began) > time.Minute {
			return errors.New("the thread has outlived its program")
		}
	}
	if _, err := os.ReadFile("/etc/hosts"); err != nil {
		return err
	}
	os.Exit(s.wait.ExitStatus())
	return nil
}

// rightsOfThreads says how many of this process's threads have which rights.
func rightsOfThreads() map[string]int {
	all := map[string]int{}
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil {
		fatal(err)
	}
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if err != nil {
			continue // it has ended
		}
		r := rightsOf(string(text))
		all[fmt.Sprint(r["Uid"], r["Gid"], r["Groups"], r["CapPrm"], r["CapEff"], r["CapInh"], r["CapAmb"], r["CapBnd"], r["NoNewPrivs"], r["Seccomp"])]++
	}
	return all
}

// withoutLandlock lets a program take this process's place, on a kernel that has no Landlock as far as the program can see. It returns only if that fails.
func withoutLandlock(command []string) error {
	runtime.LockOSThread()
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: callNumber},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: unix.SYS_LANDLOCK_CREATE_RULESET, Jf: 1},
		{Code: unix.BPF_RET | unix.BPF_K, K: 0x00050000 | uint32(unix.ENOSYS)}, // SECCOMP_RET_ERRNO
		{Code: unix.BPF_RET | unix.BPF_K, K: returnAllow},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, setModeFilter, 0, uintptr(unsafe.Pointer(&program))); errno != 0 {
		return errno
	}
	return syscall.Exec(command[0], command, os.Environ())
}

// TestWithoutLandlock: where the kernel has none, a program still has no right but its user's.
func TestWithoutLandlock(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cell := Cell{Reach: Reach{Read: []string{"/proc"}, Write: []string{dir}}, Strip: true, NoNetwork: true}
	cmd := exec.Command(self, cell.Around(self, []string{"/bin/sh", "-c", "cat /etc/hosts >/dev/null && cat /proc/self/status"})...)
	cmd.Env = append(os.Environ(), "TEST_NO_LANDLOCK=1")
	out, err := cmd.CombinedOutput()
	if err != nil { // with Landlock it could not read there
		t.Fatalf("%v: %s", err, out)
	}
	if got := rightsOf(string(out)); got["CapEff"] != mask(0) || got["CapPrm"] != mask(0) || got["NoNewPrivs"] != "1" {
		t.Errorf("it has %s, %s; no_new_privs %s", got["CapEff"], got["CapPrm"], got["NoNewPrivs"])
	}
}

func fatal(err error) {
	os.Stderr.WriteString(err.Error() + "\n")
	os.Exit(1)
}

// rightsOf are the lines about rights in /proc/PID/status.
func rightsOf(status string) map[string]string {
	found := map[string]string{}
	for line := range strings.Lines(status) {
		name, value, _ := strings.Cut(line, ":")
		found[name] = strings.Join(strings.Fields(value), " ")
	}
	return found
}

// TestCell: a program has the user, groups and capabilities that it shall have, and no more, whoever starts it.
func TestCell(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const service, override = 1 << unix.CAP_NET_BIND_SERVICE, 1 << unix.CAP_DAC_OVERRIDE
	for _, tt := range []struct {
		name string
		cell Cell
		as   []string // of setpriv
		want map[string]string
	}{
		{"stripped", Cell{Strip: true}, nil, map[string]string{"Uid": "0 0 0 0", "CapPrm": mask(0), "CapEff": mask(0), "CapInh": mask(0), "CapAmb": mask(0), "CapBnd": mask(0)}},
		{"one kept", Cell{Strip: true, Keep: []int{unix.CAP_DAC_OVERRIDE}}, nil, map[string]string{"CapPrm": mask(override), "CapEff": mask(override), "CapBnd": mask(override)}},
		{"another user", Cell{User: &User{60001, 60002, []int{60003}}, Strip: true}, nil,
			map[string]string{"Uid": "60001 60001 60001 60001", "Gid": "60002 60002 60002 60002", "Groups": "60003", "CapPrm": mask(0), "CapEff": mask(0), "CapInh": mask(0), "CapAmb": mask(0), "CapBnd": mask(0)}},
		{"another user with one kept", Cell{User: &User{60001, 60002, nil}, Strip: true, Keep: []int{unix.CAP_NET_BIND_SERVICE}}, nil,
			map[string]string{"Uid": "60001 60001 60001 60001", "Groups": "", "CapPrm": mask(service), "CapEff": mask(service), "CapInh": mask(service), "CapAmb": mask(service), "CapBnd": mask(service)}},
		// who may not touch the bounding set gives up the others all the same
		{"without SETPCAP", Cell{Strip: true}, []string{"--inh-caps=-all", "--bounding-set=-all,+net_admin"}, map[string]string{"CapPrm": mask(0), "CapEff": mask(0), "CapBnd": mask(1 << unix.CAP_NET_ADMIN)}},
		{"an ordinary user", Cell{Strip: true}, []string{"--reuid=1000", "--regid=0", "--clear-groups", "--inh-caps=-all", "--bounding-set=-all"}, map[string]string{"Uid": "1000 1000 1000 1000", "CapPrm": mask(0), "CapEff": mask(0)}},
	} {
		program := []string{"/bin/sh", "-c", "cat /proc/self/status; ulimit -c"}
		for way, command := range map[string][]string{
			"by a command": tt.cell.Around(reachable(t, self), program),
			"by a thread":  append([]string{"/usr/bin/prlimit", "--core=0", reachable(t, self)}, program...),
		} {
			t.Run(tt.name+", "+way, func(t *testing.T) {
				if tt.as != nil {
					command = slices.Concat([]string{"setpriv"}, tt.as, []string{"--"}, command)
				}
				cmd := exec.Command(command[0], command[1:]...)
				if way == "by a thread" {
					cmd.Env = append(os.Environ(), "TEST_START="+strings.Join(tt.cell.words(), " "))
				}
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("%v: %s", err, out)
				}
				got := rightsOf(string(out))
				tt.want["NoNewPrivs"] = "1"
				for name, want := range tt.want {
					if got[name] != want {
						t.Errorf("%s is %q, want %q", name, got[name], want)
					}
				}
				if !strings.HasSuffix(string(out), "\n0\n") {
					t.Errorf("it may write core files: %s", out)
				}
			})
		}
	}
}

// reachable is a copy of a program where every user can execute it.
func reachable(t *testing.T, program string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "confine-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	data, err := os.ReadFile(program)
	if err == nil {
		err = errors.Join(os.Chmod(dir, 0o755), os.WriteFile(filepath.Join(dir, "program"), data, 0o755))
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, "program")
}

func mask(bits uint64) string { return fmt.Sprintf("%016x", bits) }

// TestCellDeath: another user does not keep the program from ending with who has started it.
func TestCellDeath(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cell, program := Cell{User: &User{60001, 60001, nil}, Strip: true}, []string{"/bin/sh", "-c", "echo $$; exec sleep 1000"}
	ways := map[string]*exec.Cmd{"by a command": exec.Command("setpriv", append([]string{"--pdeathsig", "KILL", "sh", "-c", `"$@" & wait`, "sh", "setpriv", "--pdeathsig", "KILL"},
		cell.Around(reachable(t, self), program)...)...)}
	for way, command := range map[string][]string{
		"by a thread":                     {reachable(t, self)},
		"by a thread that can do no more": {"setpriv", "--inh-caps=-all", "--bounding-set=-all,+setuid,+setgid,+setpcap,+kill", "--", reachable(t, self)},
	} {
		command = append(command, program...)
		ways[way] = exec.Command(command[0], command[1:]...)
		ways[way].Env = append(os.Environ(), "TEST_START="+strings.Join(cell.words(), " "))
	}
	for way, cmd := range ways {
		t.Run(way, func(t *testing.T) { diesWith(t, cmd) })
	}
}

// diesWith starts what starts a program that says its number and stays, and kills it.
func diesWith(t *testing.T, cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(out, &pid); err != nil {
		t.Fatal(err)
	}
	cmd.Process.Kill()
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, out) // until nobody holds it any more
		close(ended)
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Error("it has outlived who started it")
		syscall.Kill(pid, syscall.SIGKILL)
		<-ended
	}
	cmd.Wait()
}

// TestGiveUp: no thread keeps what the process gives up.
func TestGiveUp(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "TEST_GIVE_UP="+numbers([]int{unix.CAP_KILL, unix.CAP_NET_ADMIN}))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	want := mask(1<<unix.CAP_KILL | 1<<unix.CAP_NET_ADMIN)
	threads := strings.Split(string(out), "Name:")[1:]
	if len(threads) < 3 {
		t.Errorf("%d threads are not many", len(threads))
	}
	for _, thread := range threads {
		got := rightsOf(thread)
		if got["CapPrm"] != want || got["CapEff"] != want || got["NoNewPrivs"] != "1" {
			t.Errorf("a thread has %s, %s; no_new_privs %s", got["CapPrm"], got["CapEff"], got["NoNewPrivs"])
		}
	}
}

// FuzzCell: what is written for the command line is what is read from there.
func FuzzCell(f *testing.F) {
	f.Add("/a", "/b=c", 1, 2, 3, true, false)
	f.Fuzz(func(t *testing.T, read, write string, uid, gid, keep int, strip, network bool) {
		c := Cell{Reach: Reach{Read: []string{read}, Write: []string{write, read}, Sockets: []string{read}}, User: &User{uid, gid, []int{keep}}, Strip: strip, NoNetwork: network}
		if strip {
			c.Keep = []int{keep, uid}
		}
		got, command, err := parse(append(c.words(), "--", "program", "--", "--read=x"))
		if err != nil || !reflect.DeepEqual(got, c) || !slices.Equal(command, []string{"program", "--", "--read=x"}) {
			t.Errorf("%+v is read as %+v, %q, %v", c, got, command, err)
		}
	})
}

// TestDestination: an address that the guard cannot read is none that it knows.
func TestDestination(t *testing.T) {
	loopback := []byte{0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}
	for _, tt := range []struct {
		name            string
		address         []byte
		connect         bool
		to              string
		internet, known bool
	}{
		{"IPv4", append([]byte{unix.AF_INET, 0}, loopback...), true, "127.0.0.1:80", true, true},
		{"IPv4, cut off", append([]byte{unix.AF_INET, 0}, loopback[:13]...), true, "", false, false},
		{"sent to no family", append([]byte{unix.AF_UNSPEC, 0}, loopback...), false, "127.0.0.1:80", true, true},
		{"disconnecting", append([]byte{unix.AF_UNSPEC, 0}, loopback...), true, "", false, true},
		{"IPv4 in IPv6", []byte{unix.AF_INET6, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1}, true, "127.0.0.1:80", true, true},
		{"IPv6, cut off", []byte{unix.AF_INET6, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0}, true, "", false, false},
		{"a helper's socket", []byte{unix.AF_UNIX, 0, '/', 'x'}, true, "", false, true},
		{"the machine's own", []byte{unix.AF_VSOCK, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0}, true, "", false, false},
		{"nothing", nil, true, "", false, false},
	} {
		to, internet, known := destination(tt.address, tt.connect)
		if internet && to.String() != tt.to || internet != tt.internet || known != tt.known {
			t.Errorf("%s: %s, of the internet: %v, known: %v", tt.name, to, internet, known)
		}
	}
}

// FuzzDestination: no address makes the guard stumble, and what it takes for none of the internet's is none.
func FuzzDestination(f *testing.F) {
	f.Add([]byte{2, 0, 0, 80, 127, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0}, true)
	f.Add([]byte{10, 0, 0, 80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 127, 0, 0, 1, 0, 0, 0, 0}, false)
	f.Fuzz(func(t *testing.T, b []byte, connect bool) {
		to, internet, known := destination(b, connect)
		if to.Addr().Is4In6() {
			t.Errorf("%x is %s, which is IPv4", b, to)
		}
		whole := map[byte]int{unix.AF_INET: unix.SizeofSockaddrInet4, unix.AF_INET6: unix.SizeofSockaddrInet6 - 4}
		if len(b) >= 2 && b[1] == 0 && whole[b[0]] > 0 && len(b) >= whole[b[0]] != internet || internet && !known {
			t.Errorf("%x: of the internet: %v, known: %v", b, internet, known)
		}
	})
}
