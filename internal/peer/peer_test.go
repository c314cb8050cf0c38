package peer

import (
	"bufio"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestMain is also a process that listens, and one that connects.
func TestMain(m *testing.M) {
	switch {
	case os.Getenv("TEST_DIAL") != "":
		dial()
	case os.Getenv("TEST_LISTEN") != "":
		serve()
	default:
		os.Exit(m.Run())
	}
}

func fatal(err error) {
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}

// dial connects, and says what came of it. TEST_PARENT is a process that has to be gone first; with TEST_LEAVE it goes away at once, and leaves its
// number.
func dial() {
	for os.Getenv("TEST_PARENT") == fmt.Sprint(os.Getppid()) {
		time.Sleep(time.Millisecond)
	}
	c, err := net.Dial("unix", os.Getenv("TEST_DIAL"))
	if err != nil {
		fatal(err)
	}
	if os.Getenv("TEST_LEAVE") != "" {
		fmt.Println(os.Getpid())
		os.Exit(0)
	}
	said, _ := io.ReadAll(c)
	if len(said) == 0 {
		said = []byte("kept out\n")
	}
	os.Stdout.Write(said)
	os.Exit(0)
}

// serve listens, and lets in whom it may once it has read a first line. Lines after that are commands for a shell that it starts.
func serve() {
	if os.Getpid() == 1 {
		for _, m := range []struct {
			from, at, kind string
			flags          uintptr
		}{{"", "/", "", unix.MS_REC | unix.MS_PRIVATE}, {"proc", "/proc", "proc", 0}} {
			if err := unix.Mount(m.from, m.at, m.kind, m.flags, ""); err != nil {
				fatal(err)
			}
		}
	}
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	l, err := Listen(os.Getenv("TEST_LISTEN"), log)
	if err != nil {
		fatal(err)
	}
	fmt.Println("listening")
	lines := bufio.NewScanner(os.Stdin)
	lines.Scan()
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				fatal(err)
			}
			log.Info("somebody has come in")
			io.WriteString(c, "let in\n")
			c.Close()
		}
	}()
	for lines.Scan() {
		cmd := exec.Command("sh", "-c", lines.Text())
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		if err := cmd.Run(); err != nil {
			log.Error(err.Error())
		}
	}
	os.Exit(0)
}

// server is a process that listens.
type server struct {
	t      *testing.T
	pid    int
	socket string
	in     io.Writer
	out    *bufio.Scanner
	log    string
}

// newServer starts one, as the first process of a PID namespace or not.
func newServer(t *testing.T, first bool) *server {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "peer-") // a socket's path must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	s := &server{t: t, socket: filepath.Join(dir, "socket"), log: filepath.Join(dir, "log")}
	log, err := os.Create(s.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(self)
	cmd.Env = append(os.Environ(), "TEST_LISTEN="+s.socket, "SELF="+self, "SOCKET="+s.socket)
	cmd.Stderr = log
	if first {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWPID | syscall.CLONE_NEWNS}
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	s.in, s.out, s.pid = in, bufio.NewScanner(out), cmd.Process.Pid
	if got := s.line(); got != "listening" {
		t.Fatalf("it says %q\n%s", got, s.logged())
	}
	return s
}

func (s *server) line() string {
	s.out.Scan()
	return s.out.Text()
}

// tell sends it a line.
func (s *server) tell(line string) { io.WriteString(s.in, line+"\n") }

func (s *server) logged() string {
	s.t.Helper()
	text, err := os.ReadFile(s.log)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(text)
}

// command is one for a shell that has nothing to do with the server: in its namespaces, as `docker exec` has it, or not.
func (s *server) command(inside bool, script string) *exec.Cmd {
	s.t.Helper()
	command := []string{"sh", "-c", script}
	if inside {
		command = append([]string{"nsenter", "-t", fmt.Sprint(s.pid), "--pid", "--mount", "--"}, command...)
	}
	self, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = append(os.Environ(), "SELF="+self, "SOCKET="+s.socket)
	return cmd
}

// outside runs such a command, and is what it says.
func (s *server) outside(inside bool, script string) string {
	s.t.Helper()
	out, err := s.command(inside, script).CombinedOutput()
	if err != nil {
		s.t.Fatalf("%s: %v: %s", script, err, out)
	}
	return strings.TrimSpace(string(out))
}

// Commands for a shell: whoever runs it connects; and a process that has lost its parent does.
const (
	connects       = "TEST_DIAL=$SOCKET $SELF; true"
	orphanConnects = "TEST_PARENT=$$ TEST_DIAL=$SOCKET $SELF &"
)

// TestWhoIsLetIn: who was started by the process that listens, however long ago and by whatever detour, is kept out, and all others come in.
func TestWhoIsLetIn(t *testing.T) {
	for name, first := range map[string]bool{"a process like others": false, "the first of its namespace": true} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t, first)
			s.tell("")
			for what, script := range map[string]string{
				"a child":                      "TEST_DIAL=$SOCKET exec $SELF",
				"a child's child":              connects,
				"one without a parent":         orphanConnects,
				"one in a session of its own":  "TEST_PARENT=$$ TEST_DIAL=$SOCKET setsid --fork $SELF",
				"one in namespaces of its own": "TEST_DIAL=$SOCKET unshare --pid --fork --mount --net $SELF",
			} {
				s.tell(script)
				if got := s.line(); got != "kept out" {
					t.Errorf("%s: %s", what, got)
				}
			}
			if got := s.outside(false, connects); got != "let in" {
				t.Errorf("one from outside: %s", got)
			}
			if got := strings.Count(s.logged(), "level=WARN"); got != 1 {
				t.Errorf("%d warnings, and one a minute is enough:\n%s", got, s.logged())
			}
			if !first {
				return
			}
			if got := s.outside(true, connects); got != "let in" {
				t.Errorf("one that has entered: %s", got)
			}
			// the kernel has made it the first process' child, and nothing tells it from others'
			if got := s.outside(true, orphanConnects); got != "kept out" {
				t.Errorf("one that has entered, and lost its parent: %s", got)
			}
		})
	}
}

// TestNumberOfAnother: who has connected and is gone is not taken for the one who has its number now.
func TestNumberOfAnother(t *testing.T) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	handle, err := unix.GetsockoptInt(pair[0], unix.SOL_SOCKET, unix.SO_PEERPIDFD)
	if err == unix.ENOPROTOOPT {
		t.Skip("this kernel has no SO_PEERPIDFD")
	}
	for _, fd := range []int{pair[0], pair[1], handle} {
		unix.Close(fd)
	}
	s := newServer(t, true)
	gone := s.outside(true, "TEST_LEAVE=1 "+connects)
	another := s.command(true, "echo $(("+gone+" - 1)) >/proc/sys/kernel/ns_last_pid; sleep 1000 >/dev/null 2>&1 & echo $!; wait")
	out, err := another.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := another.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		another.Process.Kill() // its children end with the namespace
		another.Wait()
	})
	if now, err := bufio.NewReader(out).ReadString('\n'); now != gone+"\n" {
		t.Fatalf("%q, %v: the process was to have the number %s", now, err, gone)
	}
	s.tell("")
	if got := s.outside(true, connects); got != "let in" {
		t.Errorf("another: %s", got)
	}
	if got := strings.Count(s.logged(), "somebody has come in"); got != 1 {
		t.Errorf("%d have come in:\n%s", got, s.logged())
	}
}

// TestSocket: the socket is its owner's from its first moment on, and replaces one that was left there.
func TestSocket(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	defer syscall.Umask(syscall.Umask(0))
	for range 2 {
		l, err := Listen(path, slog.New(slog.DiscardHandler))
		if err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != os.ModeSocket|0o600 {
			t.Errorf("its mode is %s", info.Mode())
		}
		l.(*listener).SetUnlinkOnClose(false)
		l.Close()
	}
}
