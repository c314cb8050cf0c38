// Package probe answers `vmentry probe` before the rest of the program has come into being. A probe is asked every few seconds for as
// long as the VM lives, and takes its time from the guest. Most of what it cost was not the question: the libraries that a boot needs
// make their tables when the program starts, whether it boots or not. Go initializes packages in the order of their import paths, each as
// soon as what it imports is (The Go Programming Language Specification, "Program initialization"), so this one comes before them for as
// long as it imports next to nothing; a test in test/ watches that.
//
// It knows the usual case alone: a vmentry that answers at its socket, and nothing but the question on the command line. In any other it
// does nothing, and the whole program finds out what is the matter.
package probe

import (
	"bytes"
	"os"
	"syscall"
	"time"
)

// Paths are the questions, by their words on the command line, and where vmentry answers them over HTTP.
var Paths = map[string]string{"startup": "/startupz", "ready": "/readyz", "live": "/healthz"}

const (
	// Socket is the name in the run directory of the socket at which vmentry answers.
	Socket = "vmentry.sock"
	// Timeout is how long a probe waits for its answer if nothing else is asked for.
	Timeout = 3 * time.Second
	// Silence is the reason that is given when there is none in that time.
	Silence = "vmentry does not answer"
)

// maxAnswer is more than any answer has, in bytes.
const maxAnswer = 8 << 10

func init() {
	if len(os.Args) != 3 || os.Args[1] != "probe" || Paths[os.Args[2]] == "" {
		return
	}
	yes, reason, ok := ask(Dir(os.Getenv("VM_RUN_DIR"))+"/"+Socket, Paths[os.Args[2]], Timeout)
	if !ok {
		return
	}
	syscall.Write(1, append(reason, '\n'))
	if !yes {
		os.Exit(1)
	}
	os.Exit(0)
}

// Dir is the run directory that a value of VM_RUN_DIR names.
func Dir(value string) string {
	if dir := bytes.TrimSpace([]byte(value)); len(dir) > 0 {
		return string(dir)
	}
	return "/run/vmentry"
}

// ask asks the vmentry at a socket. ok says whether that has given an answer, if only by being silent for so long.
func ask(socket, path string, timeout time.Duration) (yes bool, reason []byte, ok bool) {
	fd, err := syscall.Socket(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return false, nil, false
	}
	defer syscall.Close(fd)
	c := client{fd, time.Now().Add(timeout)}
	err = c.do(syscall.SO_SNDTIMEO, func() error { return syscall.Connect(fd, &syscall.SockaddrUnix{Name: socket}) })
	if err == nil {
		err = c.do(syscall.SO_SNDTIMEO, func() error {
			_, err := syscall.Write(fd, []byte("GET "+path+" HTTP/1.0\r\n\r\n"))
			return err
		})
	}
	var answer []byte
	if err == nil {
		answer, err = c.read()
	}
	if err == syscall.EAGAIN {
		return false, []byte(Silence), true
	}
	if err != nil {
		return false, nil, false
	}
	return parse(answer)
}

// client is a connection that has to have done its work by a time. There is no poller yet: its calls block.
type client struct {
	fd    int
	until time.Time
}

// do makes a call that may take as long as the socket's option, SO_SNDTIMEO or SO_RCVTIMEO, says. EAGAIN: the time is up.
func (c client) do(option int, call func() error) error {
	for {
		left := time.Until(c.until)
		if left < time.Microsecond { // 0 would be for ever (socket(7))
			return syscall.EAGAIN
		}
		tv := syscall.NsecToTimeval(left.Nanoseconds())
		if err := syscall.SetsockoptTimeval(c.fd, syscall.SOL_SOCKET, option, &tv); err != nil {
			return err
		}
		// Go's own signals interrupt a call that has a timeout (signal(7))
		if err := call(); err != syscall.EINTR {
			return err
		}
	}
}

// read reads to the end.
func (c client) read() ([]byte, error) {
	b := make([]byte, maxAnswer)
	for n := 0; n < len(b); {
		var more int
		err := c.do(syscall.SO_RCVTIMEO, func() (err error) {
			more, err = syscall.Read(c.fd, b[n:])
			return err
		})
		if err != nil {
			return nil, err
		}
		if more == 0 {
			return b[:n], nil
		}
		n += more
	}
	return nil, syscall.EMSGSIZE
}

// parse reads an HTTP answer (RFC 9112) that ends with its connection: 200 is yes, 503 is no, and anything else is for others to judge.
func parse(answer []byte) (yes bool, reason []byte, ok bool) {
	head, body, whole := bytes.Cut(answer, []byte("\r\n\r\n"))
	if !whole || len(head) < len("HTTP/1.0 200 ") || !bytes.HasPrefix(head, []byte("HTTP/1.")) {
		return false, nil, false
	}
	switch string(head[len("HTTP/1.0 "):len("HTTP/1.0 200 ")]) {
	case "200 ":
		return true, bytes.TrimSpace(body), true
	case "503 ":
		return false, bytes.TrimSpace(body), true
	default:
		return false, nil, false
	}
}
